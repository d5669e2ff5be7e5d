"""``structdrop verify``, and the check that other commands make before they write."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from test_cli import INSERT, RESNET, call, contents, document, refused

import onnx_structdrop as sd
from onnx_structdrop.cli import main
from onnx_structdrop.graph.verify import VerifyReport

RANDOM = "r = Constant <value_float = 0.5> () t = Constant <value = bool {1}> ()"


def written(path, body, opset=17, inputs="float[N,4] x", outputs="float[N,4] y", more=""):
    text = f'<ir_version: 8, opset_import: ["": {opset}{more}]> g ({inputs}) => ({outputs})'
    path.write_bytes(onnx.parser.parse_model(f"{text} {{ {body} }}").SerializeToString())
    return path


@pytest.fixture
def relu(tmp_path):
    return written(tmp_path / "relu.onnx", "y = Relu (x)")


@pytest.fixture
def random(tmp_path):
    return written(tmp_path / "random.onnx", f"{RANDOM} y = Dropout (x, r, t)")


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "dropping.onnx"
    assert main(["insert", str(RESNET), "-o", str(path), *INSERT, "--stage", "4"]) == 0
    return path


def failed(capsys, code, *argv):
    """Run a command that reports and fails; return its stdout and the line on stderr."""
    capsys.readouterr()
    assert main([str(argument) for argument in argv]) == code
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("structdrop: error: ")
    return out, err


def test_equal(capsys):
    out, err = call(capsys, "verify", RESNET, RESNET)
    assert err == ""
    assert "equal bit for bit" in out
    assert "sample 1: input 2,3,224,224" in out
    assert out.splitlines()[-1] == "equal"
    assert all(len(line) <= 100 for line in out.splitlines())


def test_json(capsys, relu):
    found = document(capsys, "verify", relu, relu, "--samples", 3, "--seed", 5, "--tolerance", 0)
    assert (found["original"], found["rewritten"]) == (str(relu), str(relu))
    assert (found["status"], found["exact"], found["seed"]) == ("equal", True, 5)
    assert [shapes["x"] for shapes in found["shapes"]] == [[2, 4], [1, 4], [3, 4]]
    assert found["outputs"][0]["tolerance"] == 0


def test_different(capsys, relu, tmp_path):
    other = written(tmp_path / "elu.onnx", "y = Elu (x)")
    before = contents(tmp_path)
    out, err = failed(capsys, 3, "verify", relu, other)
    assert out.splitlines()[-1] == "different"
    assert "the models are different: output 'y'" in err
    out, _ = failed(capsys, 3, "verify", relu, other, "--json")
    assert json.loads(out)["status"] == "different"
    assert contents(tmp_path) == before


def test_tolerance(capsys, tmp_path):
    one = written(tmp_path / "a.onnx", "k = Constant <value_float = 3.0> () y = Div (x, k)")
    other = written(tmp_path / "b.onnx", "k = Constant <value_float = 0.3333> () y = Mul (x, k)")
    failed(capsys, 3, "verify", one, other, "--tolerance", "1e-5")
    out, _ = call(capsys, "verify", one, other, "--tolerance", "1e-3")
    assert "0.001" in out


def test_random_models_are_not_called_equal(capsys, random):
    out, err = failed(capsys, 1, "verify", random, random)
    assert "not comparable" in out
    assert "not comparable" in err
    assert "random" in err
    assert "--inference" not in err
    assert err.endswith("(structdrop clean brings the rewritten model to its inference form)\n")


def test_a_random_original_is_told_with_the_way_out(capsys, random, relu):
    out, err = failed(capsys, 1, "verify", random, relu)
    assert (out + err).count("Dropout") == 1
    assert err.endswith("of the original (--inference compares with dropout off)\n")


def test_reasons_that_differ_are_listed(capsys, tmp_path):
    outputs, body = "float[N,4] y, float[N,4] z", f"{RANDOM} y = Dropout (x, r, t)"
    one = written(tmp_path / "a.onnx", f"{body} z = Relu (x)", outputs=outputs)
    other = written(tmp_path / "b.onnx", f"{body} z = Elu (x)", outputs=outputs)
    out, _ = failed(capsys, 3, "verify", one, other)
    assert "why" in out
    assert "random: it depends on" in out


def test_help_lists_exit_codes(capsys):
    out, _ = call(capsys, "verify", "--help")
    text = " ".join(out.split())
    assert "0 equal, 1 not comparable, not run, or an error, 2 wrong usage, 3 different" in text


def test_the_inference_form(capsys, random, tmp_path):
    clean = written(tmp_path / "clean.onnx", "y = Identity (x)")
    out, _ = call(capsys, "verify", random, clean, "--inference")
    assert "the original in inference form" in out
    wrong = written(tmp_path / "wrong.onnx", "y = Neg (x)")
    failed(capsys, 3, "verify", random, wrong, "--inference")


def test_inputs_that_were_held_are_told(capsys, tmp_path):
    body = "r = Constant <value_float = 0.5> () y = Dropout (x, r, training)"
    path = written(tmp_path / "m.onnx", body, inputs="float[N,4] x, bool training")
    out, _ = call(capsys, "verify", path, path)
    assert "input training was held at False" in out


def test_models_that_cannot_be_run(capsys, tmp_path):
    path = written(tmp_path / "m.onnx", "y = other.Thing (x)", more=', "other": 1')
    out, err = failed(capsys, 1, "verify", path, path)
    assert "not run" in out
    assert "onnxruntime does not load it" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--samples", "0"), ["samples is 0"]),
        (("--samples", "x"), ["--samples"]),
        (("--seed", "-1"), ["seed is -1"]),
        (("--tolerance", "-1"), ["tolerance is -1"]),
        (("--tolerance", "nan"), ["tolerance is nan"]),
    ],
)
def test_wrong_usage(capsys, relu, tmp_path, options, words):
    refused(capsys, tmp_path, 2, "verify", relu, relu, *options, mentions=words)


def test_missing_files(capsys, relu, tmp_path):
    gone = tmp_path / "gone.onnx"
    refused(capsys, tmp_path, 1, "verify", relu, gone, mentions=["gone.onnx", "does not exist"])
    refused(capsys, tmp_path, 2, "verify", relu, mentions=["REWRITTEN"])


# Before fold writes


def test_fold_says_what_it_verified(capsys, dropping, tmp_path):
    _, err = call(capsys, "fold", dropping, "-o", tmp_path / "f.onnx")
    assert "verified: " in err
    assert "of the original in inference form, bit for bit" in err
    found = document(capsys, "fold", dropping, "-o", tmp_path / "g.onnx")
    assert found["verification"]["exact"] is True
    assert found["verification"]["reference"] == "original in inference form"
    quiet = tmp_path / "quiet.onnx"
    call(capsys, "mode", dropping, "-o", quiet, "--eval")
    _, err = call(capsys, "fold", quiet, "-o", tmp_path / "q.onnx")
    assert "of the original, bit for bit" in err
    found = document(capsys, "fold", dropping, "-o", tmp_path / "h.onnx", "--no-verify")
    assert found["verification"] is None


def test_fold_of_a_model_that_is_random_anyway_is_verified(capsys, tmp_path):
    """The randomness of others is held in both models."""
    path = written(
        tmp_path / "m.onnx",
        f"{RANDOM} w = Constant <value = float[4,3,1,1] {{1,2,3,4,5,6,7,8,9,10,11,12}}> ()"
        "c = Conv (x, w) a = Relu (c) b = Dropout (a, r, t) y = Relu (b)",
        inputs="float[N,3,8,8] x",
        outputs="float[N,4,8,8] y",
    )
    call(capsys, "insert", path, "-o", tmp_path / "d.onnx", *INSERT)
    found = document(capsys, "fold", tmp_path / "d.onnx", "-o", tmp_path / "f.onnx")
    assert found["verification"]["exact"] is True
    assert sd.differences(sd.load(path), sd.load(tmp_path / "f.onnx")) == []


def test_fold_does_not_write_what_differs(capsys, dropping, tmp_path, monkeypatch):
    def wrong(model):
        result = sd.fold(model)
        value = next(iter(result.graph.initializers.values()))
        array = -value.const_value.numpy()
        value.const_value = type(sd.load(RESNET).graph.initializers[value.name].const_value)(
            numpy_helper.from_array(np.ascontiguousarray(array), value.name)
        )
        return result

    monkeypatch.setattr("onnx_structdrop.commands.rewrite.fold", wrong)
    argv = ("fold", dropping, "-o", tmp_path / "f.onnx")
    refused(capsys, tmp_path, 3, *argv, mentions=["does not compute the same", "nothing was"])
    found = json.loads(failed(capsys, 3, *argv, "--json")[0])
    assert found["output"] is None
    assert found["verification"]["status"] == "different"
    call(capsys, *argv, "--no-verify")
    assert (tmp_path / "f.onnx").exists()


def test_what_cannot_be_verified_is_written_and_told(capsys, dropping, tmp_path, monkeypatch):
    report = VerifyReport("not run", "too large", "original", (), (), (), {}, 0, "off")
    monkeypatch.setattr("onnx_structdrop.commands.rewrite.verify", lambda *_, **__: report)
    _, err = call(capsys, "fold", dropping, "-o", tmp_path / "f.onnx")
    assert "not verified (not run): too large" in err
    assert "structdrop: verified" not in err
    assert (tmp_path / "f.onnx").exists()
