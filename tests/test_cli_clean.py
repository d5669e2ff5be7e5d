"""``structdrop clean``: its tables, its exit codes, and when it writes."""

from __future__ import annotations

import json

import onnx
import onnx_ir as ir
import pytest
from test_cli import call, contents, document, refused
from test_cli_verify import RANDOM, failed, written

import onnx_structdrop as sd
from onnx_structdrop.cli import main
from onnx_structdrop.graph.clean import Decision, Residual

DROPOUT = f"{RANDOM} a = Relu (x) d = Dropout (a, r, t) y = Neg (d)"
NOISE = "u = RandomUniformLike (x) v = Log (u) w = Neg (v) y = Add (x, w)"


@pytest.fixture
def dropout(tmp_path):
    return written(tmp_path / "dropout.onnx", DROPOUT)


@pytest.fixture
def noise(tmp_path):
    """Return a model whose randomness is its purpose."""
    return written(tmp_path / "noise.onnx", NOISE)


@pytest.fixture
def quiet(tmp_path):
    return written(tmp_path / "quiet.onnx", "y = Relu (x)")


def pretend(monkeypatch, body, decisions=(), residual=(), changed=True):
    """Let `clean` return a model and a report."""
    result = written_model(body)
    report = sd.CleanReport(tuple(decisions), tuple(residual), changed)
    monkeypatch.setattr("onnx_structdrop.commands.clean.clean", lambda _, **__: (result, report))


def written_model(body):
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (float[N,4] y)'
    return ir.from_proto(onnx.parser.parse_model(f"{text} {{ {body} }}"))


DECISION = Decision(("d",), "", "Dropout", "its training mode is constant", "replaced by its data")
RESIDUAL = Residual("u", "", "RandomUniformLike", "u", "its numbers are added to the data")


def test_a_cleaned_model_is_written(capsys, dropout, tmp_path):
    target = tmp_path / "c.onnx"
    out, err = call(capsys, "clean", dropout, "-o", target)
    assert "Dropout" in out
    assert "verified: " in err
    assert "bit for bit" in err
    assert f"wrote {target}" in err
    assert not sd.inspect(sd.load(target)).nodes
    _, err = call(capsys, "clean", dropout, "-o", target, "--no-verify")
    assert "verified" not in err


def test_json(capsys, dropout, tmp_path):
    found = document(capsys, "clean", dropout, "-o", tmp_path / "c.onnx")
    assert found["output"] == str(tmp_path / "c.onnx")
    assert found["changed"] is True
    assert found["residual"] == []
    assert found["decisions"]
    assert set(found["decisions"][0]) == {"nodes", "scope", "pattern", "evidence", "action"}
    assert found["verification"]["exact"] is True
    assert found["verification"]["reference"] == "original in inference form"
    assert found["before"]["nodes"] > found["after"]["nodes"]


def test_tables(capsys, dropout, tmp_path, monkeypatch):
    pretend(monkeypatch, "a = Relu (x) y = Neg (a)", [DECISION])
    out, _ = call(capsys, "clean", dropout, "-o", tmp_path / "c.onnx")
    for text in (*DECISION.nodes, DECISION.pattern, DECISION.evidence, DECISION.action):
        assert text in out
    assert "nodes" in out


def test_randomness_that_is_left(capsys, noise, tmp_path):
    before = contents(tmp_path)
    out, err = failed(capsys, 3, "clean", noise, "-o", tmp_path / "c.onnx")
    assert "RandomUniformLike" in out
    assert "1 node stays random" in err
    assert "nothing was written" in err
    assert "--allow-random" in err
    out, _ = failed(capsys, 3, "clean", noise, "--in-place", "--json")
    found = json.loads(out)
    assert found["output"] is None
    assert [entry["op_type"] for entry in found["residual"]] == ["RandomUniformLike"]
    assert contents(tmp_path) == before


def test_allowed_randomness_is_written_and_told(capsys, noise, tmp_path, monkeypatch):
    target = tmp_path / "c.onnx"
    found = document(capsys, "clean", noise, "-o", target, "--allow-random")
    assert len(found["residual"]) == 1
    assert target.exists()
    pretend(monkeypatch, NOISE, [DECISION], [RESIDUAL])
    out, err = call(capsys, "clean", noise, "-o", target, "--allow-random")
    assert RESIDUAL.reason in out
    assert "not verified (not comparable)" in err


def test_what_does_not_compute_the_same_is_not_written(capsys, dropout, tmp_path, monkeypatch):
    pretend(monkeypatch, "a = Elu (x) y = Neg (a)", [DECISION])
    argv = ("clean", dropout, "-o", tmp_path / "c.onnx")
    before = contents(tmp_path)
    out, err = failed(capsys, 3, *argv)
    assert DECISION.evidence in out
    assert "does not compute the same: output 'y'" in err
    found = json.loads(failed(capsys, 3, *argv, "--json")[0])
    assert found["output"] is None
    assert found["verification"]["status"] == "different"
    assert len(found["decisions"]) == 1
    assert contents(tmp_path) == before
    call(capsys, *argv, "--no-verify")


def test_a_changed_signature_is_not_written(capsys, dropout, tmp_path, monkeypatch):
    pretend(monkeypatch, "a = Relu (x) y = Neg (a)", [DECISION])
    path = written(tmp_path / "other.onnx", DROPOUT.replace("x", "z"), inputs="float[N,4] z")
    argv = ("clean", path, "-o", tmp_path / "c.onnx")
    before = contents(tmp_path)
    _, err = failed(capsys, 3, *argv)
    assert "inputs are 'x' instead of 'z'" in err
    assert contents(tmp_path) == before


def test_nothing_to_clean(capsys, quiet, tmp_path):
    target = tmp_path / "c.onnx"
    out, err = call(capsys, "clean", quiet, "-o", target)
    assert "nothing to clean" in out
    assert err == f"wrote {target}\n"
    assert sd.differences(sd.load(quiet), sd.load(target)) == []
    before = contents(tmp_path)
    _, err = call(capsys, "clean", quiet, "--in-place")
    assert "left as it was" in err
    assert contents(tmp_path) == before


def test_in_place(capsys, dropout):
    call(capsys, "clean", dropout, "--in-place")
    assert not sd.inspect(sd.load(dropout)).nodes


def test_wrong_usage(capsys, dropout, tmp_path):
    refused(capsys, tmp_path, 2, "clean", dropout, mentions=["-o OUT", "--in-place"])
    refused(capsys, tmp_path, 2, "clean", dropout, "-o", dropout, mentions=["--in-place"])
    gone = tmp_path / "gone.onnx"
    refused(capsys, tmp_path, 1, "clean", gone, "-o", tmp_path / "c.onnx", mentions=["gone.onnx"])


def test_our_own_nodes_are_cleaned(capsys, tmp_path, models):
    source, target = tmp_path / "d.onnx", tmp_path / "c.onnx"
    model = sd.load(models / "resnet18_dynamo.onnx")
    sd.save(sd.insert(model, sd.SpatialDropout2D(0.1, seed=1)), source)
    _, err = call(capsys, "clean", source, "-o", target)
    assert "bit for bit" in err
    assert not sd.inspect(sd.load(target)).nodes


def test_equal_decisions_are_one_row(capsys, dropout, tmp_path, monkeypatch):
    many = [Decision((f"bn{n}",), "", "batch normalisation", "mode", "set") for n in range(52)]
    pretend(monkeypatch, "a = Relu (x) y = Neg (a)", [*many, DECISION])
    out, _ = call(capsys, "clean", dropout, "-o", tmp_path / "c.onnx")
    assert out.count("batch normalisation") == 1
    assert "bn0 +51" in out
    assert DECISION.pattern in out


def test_decisions_that_differ_in_names_are_one_row(capsys, dropout, tmp_path, monkeypatch):
    def found(n, why="multiplied"):
        evidence = f"random numbers of u{n}, v{n}: {why}"
        return Decision((f"n{n}",), "", "DropPath", evidence, f"replaced by 'relu_{n}'")

    decisions = [*(found(n) for n in range(5)), found(5, "added")]
    pretend(monkeypatch, "a = Relu (x) y = Neg (a)", decisions)
    out, _ = call(capsys, "clean", dropout, "-o", tmp_path / "c.onnx")
    rows = [line.split() for line in out.splitlines() if line.startswith("DropPath")]
    assert [row[1:3] for row in rows] == [["5", "n0"], ["1", "n5"]]
    assert "replaced by the data   multiplied" in out
    assert "replaced by 'relu_5'" in out


def test_names_of_nodes_are_cut(capsys, dropout, tmp_path, monkeypatch):
    names = tuple(f"/features/features.{place}/very/long/name/Dropout" for place in range(12))
    many = Decision(names, "", "Dropout", "evidence", "replaced")
    pretend(monkeypatch, "a = Relu (x) y = Neg (a)", [many])
    out, _ = call(capsys, "clean", dropout, "-o", tmp_path / "c.onnx")
    assert "+11" in out
    assert names[0] not in out


def test_a_mask_without_scale_is_cleaned_where_the_user_says_so(capsys, tmp_path):
    """Of x * (u >= 0.3) the file does not tell whether inference scales it by 0.7."""
    text = """
        <ir_version: 8, opset_import: ["": 17]>
        g (float[2,3,8,8] x) => (float[2,3,8,8] y)
        <float p = {0.3}> {
            u = RandomUniformLike(x)
            k = GreaterOrEqual(u, p)
            m = Cast<to = 1>(k)
            y = Mul(x, m)
        }"""
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(onnx.parser.parse_model(text), source)
    assert main(["clean", str(source), "-o", str(target)]) == 3
    assert not target.exists()
    assert "unscaled" in capsys.readouterr().err
    assert main(["clean", str(source), "-o", str(target), "--unscaled-dropout"]) == 0
    assert sd.inspect(onnx.load(target)).nodes == ()
