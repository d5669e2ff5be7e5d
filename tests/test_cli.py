"""The command line: every command, its JSON, its exit codes, and what it does with bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_structdrop as sd
from onnx_structdrop.cli import main
from onnx_structdrop.commands import groups, values
from onnx_structdrop.console import printable, size_text
from onnx_structdrop.graph.sites import KINDS
from onnx_structdrop.specs import SPECS

MODELS = Path(__file__).parent.parent / "models"
RESNET = MODELS / "resnet18_dynamo.onnx"
KERAS = MODELS / "resnet_keras_torch.onnx"
VOLUME = MODELS / "resnet3d_dynamo.onnx"
INSERT = ("--spec", "DropBlock2D", "--rate", "0.1", "--seed", "1")


def call(capsys, *argv):
    """Run a command that has to work; return its stdout and stderr."""
    capsys.readouterr()
    code = main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out, err


def document(capsys, *argv):
    out, _ = call(capsys, *argv, "--json")
    return json.loads(out)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(capsys, folder, code, *argv, mentions=()):
    """Run a command that has to fail: one line, nothing on stdout, no file changed or added."""
    before = contents(folder)
    capsys.readouterr()
    assert main([str(argument) for argument in argv]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("structdrop: error: ")
    assert "bug" not in err
    for word in mentions:
        assert word in err
    assert contents(folder) == before
    return err


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(RESNET.read_bytes())
    return path


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    path = tmp_path_factory.mktemp("dropping") / "dropping.onnx"
    model = sd.load(RESNET)
    sites = [site for site in sd.find_sites(model) if site.stage == 4 and site.kind == "join"]
    sd.save(sd.insert(model, sd.DropBlock2D(0.1, 3, seed=1), sites), path)
    return path


@pytest.fixture
def external(tmp_path):
    """Return a model whose weights are in another file."""
    path = tmp_path / "big.onnx"
    onnx.save_model(
        onnx.load(RESNET), path, save_as_external_data=True, location="big.data", size_threshold=0
    )
    return path


# Commands


def test_sites(capsys):
    out, err = call(capsys, "sites", RESNET)
    assert err == ""
    assert "relu_16" in out
    assert out.splitlines()[-1].startswith("28 sites: 9 activation")
    assert all(len(line) < 120 for line in out.splitlines())


def test_sites_json_is_what_find_sites_returns(capsys):
    found = document(capsys, "sites", RESNET)
    assert found["model"] == str(RESNET)
    assert found["opset"] == 20
    sites = sd.find_sites(sd.load(RESNET))
    assert found["sites"] == json.loads(json.dumps([site.to_dict() for site in sites]))


def test_filters_narrow_each_other_down(capsys):
    def values(*argv):
        return [site["value"] for site in document(capsys, "sites", RESNET, *argv)["sites"]]

    both = values("--stage", 3, "--stage", 4, "--kind", "join")
    assert both == ["relu_10", "relu_12", "relu_14", "relu_16"]
    assert values("--stage", "3,4", "--kind", "join") == both
    assert values("--name", "relu_1?", "--kind", "join") == both
    assert values("--name", "node_relu_10", "--name", "relu_16") == ["relu_10", "relu_16"]
    assert len(values("--kind", "join,shortcut")) == 8 + 3


def test_insert_and_fold_give_the_model_back(capsys, model, tmp_path):
    out, err = call(capsys, "insert", model, "-o", tmp_path / "d.onnx", *INSERT, "--stage", 4)
    assert "relu_16" in out
    assert "9.3%" not in out
    assert "pkg.onnx_structdrop::DropBlock" in out
    wrote, hint = err.splitlines()
    assert hint.startswith("hint: 4 of 4 chosen maps are not larger than the block: ")
    assert "--block-size" in hint
    assert wrote == f"wrote {tmp_path / 'd.onnx'}"
    nodes = sd.inspect(sd.load(tmp_path / "d.onnx")).own
    assert [node.data for node in nodes] == ["relu_13", "relu_14", "relu_15", "relu_16"]
    assert all(node.active for node in nodes)

    out, _ = call(capsys, "fold", tmp_path / "d.onnx", "-o", tmp_path / "f.onnx")
    assert out.startswith("removed 4 nodes")
    assert sd.differences(sd.load(model), sd.load(tmp_path / "f.onnx")) == []
    assert model.read_bytes() == RESNET.read_bytes()


def test_insert_json(capsys, model, tmp_path):
    target = tmp_path / "d.onnx"
    found = document(
        capsys, "insert", model, "-o", target, *INSERT, "--stage", "3", "--kind", "join",
        "--block-size", "5,3", "--eval",
    )  # fmt: skip
    assert found["output"] == str(target)
    assert (found["training_mode"], found["dry_run"]) == (False, False)
    assert found["spec"]["class_name"] == "DropBlock2D"
    assert found["spec"]["config"]["block_size"] == [5, 3]
    assert [entry["site"]["value"] for entry in found["inserted"]] == ["relu_10", "relu_12"]
    first = found["inserted"][0]
    assert first["node"]["attributes"]["block_size"] == [5, 3]
    assert first["node"]["active"] is False
    spec = sd.DropBlock2D(0.1, (5, 3))
    assert first["realised_rate"] == pytest.approx(spec.realised_rate((1, 1, 14, 14)), rel=1e-6)
    assert found["after"]["nodes"] == found["before"]["nodes"] + 2
    assert found["before"]["size"] == model.stat().st_size
    assert found["after"]["size"] == target.stat().st_size
    assert found["after"]["functions"] == ["pkg.onnx_structdrop::DropBlock"]


def test_insert_takes_activation_and_join_unless_told(capsys, model):
    def kinds(*argv):
        found = document(capsys, "insert", model, "--dry-run", *INSERT, *argv)
        return [entry["site"]["kind"] for entry in found["inserted"]]

    assert set(kinds()) == {"activation", "join"}
    assert len(kinds()) == 17
    assert kinds("--name", "getitem_36") == ["shortcut"]
    assert kinds("--kind", "linear", "--stage", 4) == ["linear", "linear"]


def test_calibrate_makes_realised_rates_equal_to_the_one_asked_for(capsys, model):
    found = document(capsys, "insert", model, "--dry-run", *INSERT, "--calibrate")
    for entry in found["inserted"]:
        assert entry["realised_rate"] == pytest.approx(0.1, abs=1e-6)
        assert entry["node"]["ratio"] >= 0.1 - 1e-8


def test_dry_run_writes_nothing(capsys, model, tmp_path):
    before = contents(tmp_path)
    out, err = call(capsys, "insert", model, "-o", tmp_path / "d.onnx", *INSERT, "--dry-run")
    assert "relu_16" in out
    assert "nothing was written" in err
    assert contents(tmp_path) == before


def test_the_same_seed_writes_the_same_file(capsys, model, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        call(capsys, "insert", model, "-o", tmp_path / name, *INSERT)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_second_insertion_has_other_seeds(capsys, dropping, tmp_path):
    target = tmp_path / "twice.onnx"
    call(capsys, "insert", dropping, "-o", target, *INSERT, "--stage", 3)
    nodes = sd.inspect(sd.load(target)).own
    assert len(nodes) == 2 + 4
    assert len({node.seed for node in nodes}) == len(nodes)
    call(capsys, "fold", target, "--in-place")
    assert sd.differences(sd.load(RESNET), sd.load(target)) == []


def test_a_site_is_taken_once(capsys, dropping, tmp_path):
    before = dropping.read_bytes()
    target = tmp_path / "twice.onnx"
    assert main(["insert", str(dropping), "-o", str(target), *INSERT, "--stage", "4"]) == 1
    assert "already holds DropBlock" in capsys.readouterr().err
    assert not target.exists()
    assert dropping.read_bytes() == before


@pytest.mark.parametrize(
    "verb", [["fold"], ["mode", "--eval"], ["reseed", "--seed", "1"], ["inline"]]
)
def test_inlined_nodes_are_not_passed_over(capsys, dropping, tmp_path, verb):
    inlined, target = tmp_path / "inlined.onnx", tmp_path / "out.onnx"
    call(capsys, "inline", dropping, "-o", inlined)
    assert main([verb[0], str(inlined), "-o", str(target), *verb[1:]]) == 1
    assert "inlined dropout nodes" in capsys.readouterr().err
    assert not target.exists()


def test_ratio_input(capsys, tmp_path):
    target = tmp_path / "d.onnx"
    spec = ("--spec", "DropBlock3D", "--rate", "0.1", "--block-size", "2")
    found = document(capsys, "insert", VOLUME, "-o", target, *spec, "--ratio-input", "rate")
    assert {entry["node"]["ratio"] for entry in found["inserted"]} == {"rate"}
    assert found["inserted"][0]["realised_rate"] is None
    assert [value.name for value in sd.load(target).graph.inputs] == ["input", "rate"]
    call(capsys, "plot", "masks", target, "-o", tmp_path / "m.png", "--rate", "0.3")


def test_an_input_drives_the_ratio_so_no_rate_is_needed(capsys, tmp_path):
    target = tmp_path / "d.onnx"
    argv = ("insert", RESNET, "-o", target, "--spec", "DropPath", "--ratio-input", "drop")
    out, _ = call(capsys, *argv)
    rows = [line for line in out.splitlines() if line.startswith("relu_")]
    assert rows
    assert all(line.split()[-4:-1] == ["input", "'drop'", "-"] for line in rows)
    assert "rate=" not in out
    assert "ratio from input 'drop'" in out
    assert [value.name for value in sd.load(target).graph.inputs] == ["input", "drop"]
    assert document(capsys, *argv[:2], "--dry-run", *argv[4:])["spec"]["config"]["rate"] is None
    assert "fed on every" in " ".join(call(capsys, "insert", "--help")[0].split())


def test_insert_says_ratio_and_expected(capsys):
    argv = ("insert", RESNET, "--dry-run", "--spec", "dropblock2d", "--rate", "0.2", "--name")
    for extra, ratio in (((), "20.0%"), (("--calibrate",), "23.7%")):
        out, err = call(capsys, *argv, "relu_10", *extra)
        header, row = (line.split() for line in out.splitlines() if "relu_10 " in line + " "
                       or line.startswith("site"))  # fmt: skip
        assert header[-3:] == ["ratio", "expected", "seed"]
        assert row[-3] == ratio
        assert (row[-2] == "20.0%") == bool(extra)
        assert "not larger" not in err


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        (
            ("--spec", "DropBlock2D", "--shared-axes", "batch,channel", "--seed-region", "whole",
             "--normalize", "none"),
            {"shared_axes": [0, 1], "seed_region": "whole", "normalize": "none"},
        ),
        (
            ("--spec", "DropBlock2D", "--shared-axes", "1"),
            {"shared_axes": [1], "seed_region": "valid"},
        ),
        (("--spec", "SpatialDropout2D"), {"channel_axis": 1}),
        (("--spec", "Dropout"), {"noise_shape": [0, 0, 0, 0]}),
        (("--spec", "Dropout", "--noise-shape", "-,1,1,-"), {"noise_shape": [0, 1, 1, 0]}),
        (("--spec", "Dropout", "--noise-shape=none,24,1,1"), {"noise_shape": [0, 0, 1, 1]}),
        (
            ("--spec", "DropPath", "--no-scale-by-keep"),
            {"noise_shape": [0, 1, 1, 1], "scale_by_keep": 0},
        ),
    ],
)  # fmt: skip
def test_options_of_specifications_reach_the_node(capsys, options, attributes):
    argv = ("insert", RESNET, "--dry-run", "--rate", "0.2", "--name", "relu_16", *options)
    (entry,) = document(capsys, *argv)["inserted"]
    found = entry["node"]["attributes"]
    assert {name: found[name] for name in attributes} == attributes


def test_channels_last_models_get_the_axis_of_the_site(capsys):
    found = document(
        capsys, "insert", KERAS, "--dry-run", *INSERT, "--shared-axes", "channel", "--kind", "join"
    )
    for entry in found["inserted"]:
        assert entry["node"]["attributes"]["channel_axis"] == 3
        assert entry["node"]["attributes"]["shared_axes"] == [3]


@pytest.mark.parametrize(
    ("config", "extra"),
    [
        (sd.DropBlock2D(0.3, 5).get_config(), ("--spec", "DropBlock2D")),
        ({"class_name": "DropBlock2D", "config": {"rate": 0.3, "block_size": 5}}, ()),
    ],
)
def test_config_file(capsys, tmp_path, config, extra):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(config))
    argv = ("insert", RESNET, "--dry-run", "--config", path, "--seed", 7, *extra)
    spec = document(capsys, *argv)["spec"]
    assert spec["class_name"] == "DropBlock2D"
    assert spec["config"] == {**sd.DropBlock2D(0.3, 5, seed=7).get_config()}


def test_mode(capsys, dropping, tmp_path):
    target = tmp_path / "e.onnx"
    out, _ = call(capsys, "mode", dropping, "-o", target, "--eval")
    assert out.startswith("2 nodes in inference mode")
    assert not any(node.active for node in sd.inspect(sd.load(target)).own)
    found = document(capsys, "mode", target, "-o", target, "--in-place", "--train")
    assert found["training_mode"] is True
    assert all(node["active"] for node in found["nodes"])
    assert sd.differences(sd.load(target), sd.load(dropping)) == []


def test_reseed(capsys, dropping, tmp_path):
    target = tmp_path / "r.onnx"
    wanted = sd.reseed(sd.load(dropping), 7)
    seeds = [node.seed for node in sd.inspect(wanted).own]
    out, _ = call(capsys, "reseed", dropping, "-o", target, "--seed", 7)
    assert out.startswith("2 nodes reseeded from 7")
    assert all(str(seed) in out for seed in seeds)
    assert sd.differences(sd.load(target), wanted) == []
    found = document(capsys, "reseed", dropping, "-o", target, "--seed", 8)
    assert found["seed"] == 8
    assert not {node["seed"] for node in found["nodes"]} & set(seeds)
    _, err = call(capsys, "reseed", target, "--in-place", "--seed", 8)
    assert "left as it was" in err


def test_reseed_needs_a_seed_that_there_is(capsys, dropping, tmp_path):
    argv = ("reseed", dropping, "-o", tmp_path / "r.onnx")
    refused(capsys, tmp_path, 2, *argv, mentions=["--seed"])
    refused(capsys, tmp_path, 1, *argv, "--seed=-1", mentions=["seed is -1"])


def test_in_place_writes_nothing_where_nothing_changes(capsys, dropping, model, tmp_path):
    path = tmp_path / "d.onnx"
    path.write_bytes(dropping.read_bytes())
    for argv in (("mode", path, "--train"), ("fold", model)):
        before = contents(tmp_path), path.stat().st_mtime_ns, model.stat().st_ino
        _, err = call(capsys, *argv, "--in-place")
        assert "left as it was" in err
        assert (contents(tmp_path), path.stat().st_mtime_ns, model.stat().st_ino) == before


def test_fold_without_nodes_copies(capsys, model, tmp_path):
    _, err = call(capsys, "fold", model, "-o", tmp_path / "f.onnx")
    assert "nothing to fold" in err
    assert sd.differences(sd.load(model), sd.load(tmp_path / "f.onnx")) == []


def test_fold_json(capsys, dropping, tmp_path):
    found = document(capsys, "fold", dropping, "-o", tmp_path / "f.onnx")
    assert [node["data"] for node in found["removed"]] == ["relu_14", "relu_16"]
    assert (found["before"]["nodes"], found["after"]["nodes"]) == (51, 49)


@pytest.mark.parametrize("source", ["dropout", "uniform"])
def test_inline(capsys, dropping, tmp_path, source):
    target = tmp_path / "i.onnx"
    found = document(capsys, "inline", dropping, "-o", target, "--random-source", source)
    assert len(found["inlined"]) == 2
    assert found["after"]["functions"] == []
    onnx.checker.check_model(target, full_check=True)
    assert sd.inspect(sd.load(target)).own == ()
    assert sd.inspect(sd.load(target)).foreign


def test_inspect(capsys, dropping):
    out, _ = call(capsys, "inspect", RESNET, dropping)
    assert f"{RESNET}: nothing draws random numbers" in out
    assert "relu_16_DropBlock" in out
    assert "block_size=3x3" in out
    found = document(capsys, "inspect", RESNET, dropping)
    assert [entry["model"] for entry in found["models"]] == [str(RESNET), str(dropping)]
    assert found["models"][0]["nodes"] == []
    own = [node for node in found["models"][1]["nodes"] if node["origin"] == "structdrop"]
    assert [node["ratio"] for node in own] == [0.1, 0.1]
    assert own[0]["attributes"]["seed_region"] == "valid"
    assert own[0]["attributes"]["normalize"] == "batch"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float(np.float32(0.1)), 0.1),
        (0.1, 0.1),
        (float(np.float32(1 / 3)), 0.33333334),
        (1 / 3, 1 / 3),
        (1e300, 1e300),
        (float("inf"), float("inf")),
        ("rate", "rate"),
        (None, None),
    ],
)
def test_numbers_of_reports_are_the_shortest(dropping, value, shown):
    node = sd.inspect(sd.load(dropping)).own[0]
    malformed = {**node.attributes, "seed_region": 7, "normalize": 1.0}
    fields = dataclasses.replace(node, ratio=value, attributes=malformed).to_dict()
    assert fields["ratio"] == shown
    assert (fields["attributes"]["seed_region"], fields["attributes"]["normalize"]) == (7, 1.0)


def test_inspect_says_once_what_nodes_share(capsys, dropping, tmp_path):
    out, _ = call(capsys, "inspect", dropping)
    assert "attributes" not in out
    assert out.count("block_size=3x3") == 1
    assert "all 2 DropBlock: block_size=3x3" in out
    assert "seed_region=valid normalize=batch" in out
    target = tmp_path / "two.onnx"
    call(capsys, "insert", dropping, "-o", target, *INSERT, "--stage", 3, "--block-size", 5)
    lines = call(capsys, "inspect", target)[0].splitlines()
    assert [sum(f"block_size={n}x{n}" in line for line in lines) for n in (3, 5)] == [2, 4]
    assert sum("normalize=batch" in line for line in lines) == 1
    assert "attributes" in lines[1]


def test_inspect_tells_what_becomes_of_foreign_nodes(capsys, tmp_path):
    helper = onnx.helper
    nodes = [
        helper.make_node("Constant", [], ["on"], value=helper.make_tensor("", 9, [], [True])),
        helper.make_node("Dropout", ["r", "", "on"], ["d"], name="a/very/long/path/to/a/Dropout"),
        helper.make_node("Constant", [], ["s"], value=helper.make_tensor("", 7, [1], [1])),
        helper.make_node("ConstantOfShape", ["s"], ["t"]),
        *(helper.make_node("RandomUniformLike", ["t"], [f"u{n}"], name=f"u{n}") for n in range(2)),
        helper.make_node("Add", ["u0", "u1"], ["u"]),
        helper.make_node("Mul", ["d", "u"], ["y"]),
    ]
    path = relu_net(tmp_path / "train.onnx", 17, nodes)
    out, _ = call(capsys, "inspect", path)
    table = [line for line in out.splitlines() if " yes" in line]
    assert [line.split()[-1] for line in table] == ["deleted", "merged", "merged"]
    assert "50.0%" in table[0]
    assert "frozen merged" in table[1]
    assert "other tools" in out
    assert "elsewhere" not in out
    for word in (
        "deleted: onnxruntime removes this node at its default level, so it never drops there",
        "frozen: ",
        "merged: ",
        "0 of structdrop, 3 foreign",
    ):
        assert word in out
    assert all(len(line) <= 100 for line in out.splitlines())
    found = document(capsys, "inspect", path)["models"][0]["nodes"]
    assert [node["deleted"] for node in found] == [True, False, False]
    assert [node["twins"] for node in found] == [[], ["u1"], ["u0"]]
    assert found[0]["name"] == "a/very/long/path/to/a/Dropout"
    assert all(node["reaches"] == ["y"] for node in found)


def test_inspect_shows_what_is_malformed(capsys, tmp_path):
    path = relu_net(tmp_path / "bad.onnx", 10, [
        onnx.helper.make_node("Dropout", ["r"], ["d"], name="bad", ratio="x"),
        onnx.helper.make_node("Identity", ["r"], ["y"]),
    ])  # fmt: skip
    out, _ = call(capsys, "inspect", path)
    assert "malformed: Dropout bad: its attribute 'ratio' is a STRING" in out


def test_info(capsys):
    out, _ = call(capsys, "info")
    assert ("SIMD level" if sd.native_available() else "nodes run as functions") in out
    assert "13 to 26" in out
    assert "StructuredDropoutGrad" in out
    found = document(capsys, "info")
    assert found["onnx_structdrop"] == sd.__version__
    assert found["packages"]["onnx"] == onnx.__version__
    assert found["operators"][-1] == "StructuredDropoutGrad"
    assert "CPUExecutionProvider" in found["providers"]
    library = found["native_library"]
    assert set(library) == {"path", "version", "api", "simd", "problem"}
    assert (library["problem"] is None) == sd.native_available()


def test_version_and_help(capsys):
    assert call(capsys, "--version") == (f"structdrop {sd.__version__}\n", "")
    out, _ = call(capsys, "--help")
    for command in (
        "sites", "insert", "mode", "reseed", "fold", "clean", "inline", "inspect", "verify", "plot",
        "bench", "cost", "info", "demo",
    ):  # fmt: skip
        assert f"  {command} " in out
        assert call(capsys, command, "--help")[0].startswith(f"usage: structdrop {command}")


def test_names_in_the_parser_are_those_of_the_package():
    assert values.KINDS == KINDS
    assert list(groups.SPEC_NAMES) == list(SPECS)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot_sites(capsys, tmp_path, ending):
    target = tmp_path / f"sites.{ending}"
    out, err = call(capsys, "plot", "sites", RESNET, "-o", target, "--stage", 4)
    assert (out, err) == ("", f"wrote {target}\n")
    assert target.stat().st_size > 5000


def test_plot_masks(capsys, tmp_path):
    model, target = tmp_path / "d.onnx", tmp_path / "m.png"
    spec = ("--spec", "DropBlock3D", "--rate", "0.3", "--block-size", "2", "--kind", "join")
    call(capsys, "insert", VOLUME, "-o", model, *spec)
    argv = ("plot", "masks", model, "-o", target)
    _, err = call(capsys, *argv, "--shape", "2,1,16,32,32")
    assert "--node draws one of 2 others" in err
    first = target.read_bytes()
    np.save(tmp_path / "x.npy", np.ones((1, 1, 16, 32, 32), np.float32))
    name = sd.inspect(sd.load(model)).own[1].name
    call(capsys, *argv, "--input", tmp_path / "x.npy", "--maps", 4, "--node", name)
    assert target.read_bytes() != first
    call(capsys, "plot", "masks", "--spec", "DropBlock1D", "--rate", 0.2, "--shape", "2,8,40",
         "-o", target)  # fmt: skip


# Wrong usage


@pytest.mark.parametrize(
    ("argv", "mentions"),
    [
        ((), ["command is needed"]),
        (("frobnicate",), ["frobnicate", "see structdrop --help"]),
        (("insret", "m.onnx"), ["did you mean insert?"]),
        (("bench", "--sweep", "sizes"), ["did you mean size?", "see structdrop bench --help"]),
        (("sites", "m.onnx", "--stage", "3", "4"), ["use --stage 3,4", "structdrop sites --help"]),
        (("sites", "m.onnx", "--stage", "1,2", "3", "4"), ["use --stage 1,2,3,4"]),
        (("plot", "sites", "m.onnx", "-o", "m.png", "x"), ["see structdrop plot sites --help"]),
        (("fold", "-", "-o", "n.onnx"), ["standard input is not supported"]),
        (("fold", "m.onnx", "-o", "-"), ["standard output is not supported"]),
        (("inspect", "m.onnx", "-"), ["standard input is not supported"]),
        (("verify", "m.onnx", "-"), ["standard input is not supported"]),
        (("sites",), ["MODEL"]),
        (("sites", "m.onnx", "--frobnicate"), ["--frobnicate", "see structdrop sites --help"]),
        (("sites", "m.onnx", "--js"), ["--js"]),
        (("sites", "m.onnx", "--stage", "x"), ["--stage", "'x'"]),
        (("sites", "m.onnx", "--kind", "relu"), ["'relu'", "shortcut"]),
        (("mode", "m.onnx", "-o", "n.onnx"), ["--train", "--eval"]),
        (("mode", "m.onnx", "-o", "n.onnx", "--train", "--eval"), ["not allowed with"]),
        (("fold", "m.onnx"), ["-o OUT", "--in-place"]),
        (("fold", "m.onnx", "-o", "n.onnx", "--in-place"), ["--in-place"]),
        (("inline", "m.onnx", "-o", "n.onnx", "--random-source", "uniforms"), ["mean uniform?"]),
        (("plot",), ["WHAT"]),
        (("plot", "sites", "m.onnx", "-o", "m.gif"), [".gif", ".png"]),
        (("plot", "masks", "-o", "m.png", "--spec", "DropPath", "--rate", "1"), ["--shape"]),
        (("plot", "masks", "-o", "m.png", "--node", "n", "--shape", "1,2"), ["MODEL"]),
        (("plot", "masks", "m.onnx", "-o", "m.png", "--spec", "DropPath"), ["without a model"]),
    ],
    ids=" ".join,
)
def test_wrong_usage(capsys, tmp_path, monkeypatch, argv, mentions):
    monkeypatch.chdir(tmp_path)
    refused(capsys, tmp_path, 2, *argv, mentions=mentions)


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (("--spec", "DropBlock2D"), ["--rate"]),
        (("--rate", "0.1"), ["--spec", "DropBlock2D", "SpatialDropout1D"]),
        (("--spec", "dropblok2d", "--rate", "0.1"), ["did you mean DropBlock2D?"]),
        (("--spec", "DropBlock2D", "--rate", "nan"), ["rate is nan"]),
        (("--spec", "DropBlock2D", "--rate", "1.5"), ["rate is 1.5", "0 to 1"]),
        (("--spec", "DropBlock2D", "--rate", "-0.1"), ["rate is -0.1"]),
        (("--spec", "DropBlock2D", "--rate", "much"), ["much"]),
        ((*INSERT, "--block-size", "0"), ["block_size is 0"]),
        ((*INSERT, "--block-size", "7,7,7"), ["3 entries", "2 are needed"]),
        ((*INSERT, "--block-size", "7.5"), ["7.5"]),
        ((*INSERT, "--shared-axes", "2"), ["spatial axis"]),
        ((*INSERT, "--shared-axes", "height"), ["height"]),
        ((*INSERT, "--seed", "-1"), ["seed is -1"]),
        ((*INSERT, "--noise-shape", "-,1"), ["--noise-shape", "belongs to Dropout"]),
        ((*INSERT, "--no-scale-by-keep"), ["--no-scale-by-keep", "DropPath"]),
        (("--spec", "DropPath", "--rate", "0.1", "--block-size", "7"), ["DropBlock1D"]),
        (("--spec", "DropBlock4D", "--rate", "0.1"), ["DropBlock4D"]),
        (("--config", "spec.json", "--rate", "0.1"), ["leave out --rate"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_specifications(capsys, tmp_path, model, options, mentions):
    argv = ("insert", model, "-o", tmp_path / "d.onnx", *options)
    refused(capsys, tmp_path, 2, *argv, mentions=mentions)


def test_output_equal_to_the_input(capsys, tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.onnx").symlink_to("net.onnx")
    (tmp_path / "inner").mkdir()
    for same in ("net.onnx", "./net.onnx", "inner/../net.onnx", "link.onnx", model):
        argv = ("insert", "net.onnx", "-o", same, *INSERT)
        refused(capsys, tmp_path, 2, *argv, mentions=["--in-place"])
    call(capsys, "insert", "net.onnx", "-o", "./net.onnx", "--in-place", *INSERT)
    assert sd.inspect(sd.load(model)).own


# Errors


@pytest.mark.parametrize(
    "command", ["sites", "insert", "mode", "fold", "clean", "inline", "inspect", "verify", "plot"]
)
@pytest.mark.parametrize(
    ("content", "mentions"),
    [
        (None, ["does not exist"]),
        (b"", ["is empty"]),
        (RESNET.read_bytes()[:100_000], ["not an ONNX model"]),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), ["not an ONNX model"]),
        (b'{"nodes": []}', ["not an ONNX model"]),
    ],
    ids=["missing", "empty", "truncated", "png", "json"],
)
def test_files_that_are_no_models(capsys, tmp_path, command, content, mentions):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    argv = {
        "sites": ("sites", path),
        "insert": ("insert", path, "-o", tmp_path / "o.onnx", *INSERT),
        "mode": ("mode", path, "-o", tmp_path / "o.onnx", "--train"),
        "fold": ("fold", path, "-o", tmp_path / "o.onnx"),
        "clean": ("clean", path, "-o", tmp_path / "o.onnx"),
        "verify": ("verify", RESNET, path),
        "inline": ("inline", path, "-o", tmp_path / "o.onnx"),
        "inspect": ("inspect", RESNET, path),
        "plot": ("plot", "sites", path, "-o", tmp_path / "o.png"),
    }[command]
    refused(capsys, tmp_path, 1, *argv, mentions=["bad.onnx", *mentions])


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (("--name", "relu_99"), ["'relu_99'"]),
        (("--name", "relu_16", "--name", "nothing*"), ["'nothing*'"]),
        (("--stage", "9"), ["no site selected", "stage 9", "stages 1, 2, 3, 4"]),
        (("--kind", "concat"), ["no site selected", "concat"]),
        (("--name", "relu_16", "--stage", "1"), ["no site selected"]),
        (("--spec", "DropBlock1D"), ["rank"]),
        (("--spec", "SpatialDropout3D"), ["rank"]),
        (("--spec", "Dropout", "--noise-shape", "1,2,3,4,5"), ["5 entries"]),
        (("--ratio-input", "input"), ["'input'", "scalar"]),
        (("--ratio-input", "relu_16"), ["'relu_16'"]),
        (("--ratio-input", "rate", "--calibrate"), ["calibrate"]),
        (("--calibrate", "--spec", "DropBlock2D", "--rate", "0.9"), ["reachable"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_specifications_and_sites_that_do_not_fit(capsys, tmp_path, model, options, mentions):
    argv = ("insert", model, "-o", tmp_path / "d.onnx", *INSERT, *options)
    refused(capsys, tmp_path, 1, *argv, mentions=mentions)


def test_external_data_is_kept_apart_and_safe(capsys, external, tmp_path):
    target = tmp_path / "new" / "d.onnx"
    target.parent.mkdir()
    before = contents(tmp_path)
    found = document(capsys, "insert", external, "-o", target, *INSERT, "--stage", 4)
    assert contents(tmp_path).items() >= before.items()
    data = external.with_name("big.data")
    assert found["before"]["size"] == external.stat().st_size + data.stat().st_size
    size = sum(path.stat().st_size for path in target.parent.iterdir())
    assert found["after"]["size"] == size
    assert target.stat().st_size < size / 2
    call(capsys, "fold", target, "--in-place")
    call(capsys, "inspect", target)
    for command in (("insert", external, *INSERT), ("fold", external)):
        argv = (*command, "-o", data)
        refused(capsys, tmp_path, 1, *argv, mentions=["weights of the input"])


@pytest.mark.parametrize("fault", ["missing", "parent", "absolute", "symlink", "short"])
def test_external_data_that_cannot_be_trusted(capsys, external, tmp_path, fault):
    data = external.with_name("big.data")
    outside = tmp_path / "outside.data"
    if fault == "missing":
        data.unlink()
    elif fault == "short":
        data.write_bytes(data.read_bytes()[:100])
    else:
        outside.write_bytes(data.read_bytes())
    if fault == "symlink":
        data.unlink()
        data.symlink_to(outside)
    location = {"parent": "../outside.data", "absolute": str(outside)}.get(fault)
    if location:
        proto = onnx.load(external, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        external.write_bytes(proto.SerializeToString())
    for argv in (
        ("sites", external),
        ("insert", external, "-o", tmp_path / "d.onnx", *INSERT),
        ("fold", external, "--in-place"),
    ):
        refused(capsys, tmp_path, 1, *argv, mentions=["big.onnx"])


def test_outputs_that_cannot_be_written(capsys, tmp_path, model, dropping):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    # root writes wherever there is a real folder, but not there.
    unwritable = Path("/proc") if os.access(locked, os.W_OK) else locked
    (tmp_path / "folder.onnx").mkdir()
    for target in (unwritable / "d.onnx", tmp_path / "none" / "d.onnx", tmp_path / "folder.onnx"):
        argv = ("insert", model, "-o", target, *INSERT)
        refused(capsys, tmp_path, 1, *argv, mentions=["cannot write", str(target)])
        refused(capsys, tmp_path, 1, "fold", dropping, "-o", target, mentions=["cannot write"])
    for folder in (unwritable, tmp_path / "none"):
        picture = folder / "m.png"
        argv = ("plot", "sites", model, "-o", picture)
        refused(capsys, tmp_path, 1, *argv, mentions=["cannot write"])


def relu_net(path, opset, nodes=()):
    helper = onnx.helper
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 3, 3, 3], np.ones(108))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            *(nodes or [helper.make_node("Identity", ["r"], ["y"], name="last")]),
        ],
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4, 8, 8])],
        [weight],
    )
    imports = [helper.make_opsetid("", opset)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    )
    return path


def test_opset_7_is_refused_with_the_way_out(capsys, tmp_path):
    path = relu_net(tmp_path / "old.onnx", 7)
    argv = ("insert", path, "-o", tmp_path / "d.onnx", *INSERT)
    refused(capsys, tmp_path, 1, *argv, mentions=["opset 7", "13", "convert_version"])
    call(capsys, "sites", path)


def test_training_mode_nodes_of_others_are_no_obstacle(capsys, tmp_path):
    helper = onnx.helper
    constants = [
        helper.make_node("Constant", [], ["on"], value=helper.make_tensor("", 9, [], [True])),
        helper.make_node("Constant", [], ["half"], value=helper.make_tensor("", 1, [], [0.5])),
    ]
    dropout = helper.make_node("Dropout", ["r", "half", "on"], ["y"], name="theirs", seed=3)
    path = relu_net(tmp_path / "train.onnx", 17, [*constants, dropout])
    target = tmp_path / "d.onnx"
    call(capsys, "insert", path, "-o", target, *INSERT)
    report = sd.inspect(sd.load(target))
    assert [node.name for node in report.foreign if not node.scope] == ["theirs"]
    assert [node.data for node in report.own] == ["r"]
    call(capsys, "fold", target, "--in-place")
    assert sd.differences(sd.load(path), sd.load(target)) == []


def test_commands_that_need_nodes(capsys, tmp_path, model):
    target = tmp_path / "o.onnx"
    for argv in (
        ("mode", model, "-o", target, "--train"),
        ("reseed", model, "-o", target, "--seed", 1),
        ("inline", model, "-o", target),
        ("plot", "masks", model, "-o", tmp_path / "o.png"),
    ):
        refused(capsys, tmp_path, 1, *argv, mentions=["no structured dropout in", "insert it"])


def test_plot_masks_refusals(capsys, tmp_path, dropping):
    quiet = tmp_path / "quiet.onnx"
    sd.save(sd.set_training_mode(sd.load(dropping), False), quiet)
    text = tmp_path / "x.npy"
    text.write_text("no array")
    argv = ("plot", "masks", "-o", tmp_path / "m.png")
    refused(capsys, tmp_path, 1, *argv, quiet, mentions=["inference mode"])
    refused(capsys, tmp_path, 1, *argv, dropping, "--node", "n", mentions=["'n'", "relu_14"])
    refused(capsys, tmp_path, 1, *argv, dropping, "--shape", "1,3,8", mentions=["does not fit"])
    refused(
        capsys,
        tmp_path,
        1,
        *argv,
        dropping,
        "--input",
        text,
        mentions=["x.npy", "a file of another kind"],
    )
    refused(capsys, tmp_path, 1, *argv, dropping, "--input", tmp_path / "y.npy", mentions=["y.npy"])
    spec = ("--spec", "DropBlock2D", "--rate", "0.1", "--shape")
    refused(capsys, tmp_path, 1, *argv, *spec, "1,2,3", mentions=["rank"])
    refused(capsys, tmp_path, 2, *argv, *spec, "1,2,0,3", mentions=["below 1"])


def test_config_files_that_cannot_be_used(capsys, tmp_path, model):
    path = tmp_path / "spec.json"
    argv = ("insert", model, "-o", tmp_path / "d.onnx", "--config", path)
    refused(capsys, tmp_path, 1, *argv, mentions=["spec.json", "No such file"])
    for content, code, words in (
        ("{", 1, ["not a JSON file"]),
        ('{"rate": 0.1}', 2, ["--spec is needed"]),
        ('{"class_name": "Dense", "config": {}}', 1, ["'Dense'"]),
        ('{"class_name": "DropPath", "config": {"rate": 7}}', 1, ["rate is 7"]),
        ("[1]", 2, ["--spec is needed"]),
    ):
        path.write_text(content)
        refused(capsys, tmp_path, code, *argv, mentions=words)


def test_a_failed_check_writes_nothing(capsys, tmp_path, model, monkeypatch):
    monkeypatch.setattr("onnx_structdrop.commands.insert.differences", lambda *_: ["node 3"])
    argv = ("insert", model, "-o", tmp_path / "d.onnx", *INSERT)
    refused(capsys, tmp_path, 3, *argv, mentions=["node 3", "nothing was written"])


def test_an_unexpected_exception_is_one_line_and_a_traceback_only_on_demand(capsys, monkeypatch):
    def fail(_):
        raise KeyError("gone")

    monkeypatch.setattr("onnx_structdrop.commands.sites.find_sites", fail)
    assert main(["sites", str(RESNET)]) == 1
    assert capsys.readouterr().err == (
        "structdrop: error: KeyError: 'gone' (this is a bug, run with --debug to see where)\n"
    )
    for argv in (["--debug", "sites", str(RESNET)], ["sites", str(RESNET), "--debug"]):
        assert main(argv) == 1
        err = capsys.readouterr().err
        assert err.startswith("Traceback")
        assert err.splitlines()[-1].startswith("structdrop: error: KeyError")


def test_interruption(capsys, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnx_structdrop.commands.sites.run", stop)
    assert main(["sites", str(RESNET)]) == 130
    assert capsys.readouterr().err == "structdrop: error: interrupted\n"


# What is printed


def test_control_characters_of_a_model_do_not_reach_the_terminal(capsys, tmp_path):
    path = relu_net(tmp_path / "evil.onnx", 17)
    proto = onnx.load(path)
    evil = "\x1b[31mr\nx"
    proto.graph.node[1].output[0] = evil
    proto.graph.node[2].input[0] = evil
    path.write_bytes(proto.SerializeToString())
    out, _ = call(capsys, "sites", path)
    assert "\x1b" not in out
    assert r"\x1b[31mr\nx" in out
    assert printable("[bold]é\u202e") == "[bold]é\\u202e"


def test_sizes_of_files():
    sizes = [0, 999, 1000, 212_222, 999_600, 2_000_000_000]
    assert [size_text(size) for size in sizes] == [
        "0 B", "999 B", "1.0 kB", "212.2 kB", "1.0 MB", "2.0 GB",
    ]  # fmt: skip


def process(*argv, **options):
    command = [sys.executable, "-m", "onnx_structdrop", *map(str, argv)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, **options)


@pytest.mark.parametrize("width", [100, 90, 80])
def test_tables_fit_the_width_that_is_asked_for(capsys, tmp_path, monkeypatch, width):
    """Only names give way, in the middle: numbers, shapes and operators stay whole."""
    monkeypatch.delenv("COLUMNS", raising=False)
    path = relu_net(tmp_path / "long.onnx", 17)
    proto = onnx.load(path)
    long = "/features/" + "very/long/" * 8 + "Relu_output_0"
    proto.graph.node[1].output[0] = long
    proto.graph.node[2].input[0] = long
    path.write_bytes(proto.SerializeToString())
    target = tmp_path / "d.onnx"
    argv = ("insert", path, "-o", target, *INSERT)
    wide = [call(capsys, *argv)[0], call(capsys, "inspect", target)[0]]
    assert all(long in text for text in wide)
    monkeypatch.setenv("COLUMNS", str(width))
    narrow = [call(capsys, *argv)[0], call(capsys, "inspect", target)[0]]
    seed = str(sd.inspect(sd.load(target)).own[0].seed)
    for text in narrow:
        assert long not in text
        row = next(line for line in text.splitlines() if seed in line)
        assert row.startswith("/features/"[:4])
        assert "N,4,8,8" in row
        assert "..." in row
        assert len(row.rstrip()) <= width
    out, _ = call(capsys, "info")
    assert all(len(line.rstrip()) <= width for line in out.splitlines())


@pytest.mark.parametrize("columns", ["", "0", "-3", "wide", "²"])
def test_columns_that_are_no_width_are_passed_over(capsys, monkeypatch, columns):
    monkeypatch.delenv("COLUMNS", raising=False)
    expected, _ = call(capsys, "sites", RESNET)
    monkeypatch.setenv("COLUMNS", columns)
    assert call(capsys, "sites", RESNET)[0] == expected


def test_process_output_without_a_terminal_or_utf8():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "FORCE_COLOR": "1"}
    environment.pop("COLUMNS", None)
    result = process("insert", VOLUME, "--dry-run", "--spec", "DropBlock3D", "--rate", 0.1,
                     env=environment)  # fmt: skip
    assert (result.returncode, result.stderr[-30:]) == (0, b"\ndry run: nothing was written\n")
    text = result.stdout.decode("ascii")
    assert "\x1b" not in text
    assert "shared_axes=(), seed_region='valid', normalize='batch'), training mode" in text


def test_process_survives_a_reader_that_stops():
    command = f"{sys.executable} -m onnx_structdrop sites {RESNET}"
    result = subprocess.run(
        ["/bin/bash", "-c", f"{command} | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (result.stdout, result.stderr) == (b"141\n", b"")


def test_help_and_usage_errors_load_nothing_heavy():
    code = textwrap.dedent(
        f"""
        import sys, types
        # The package's own modules only, without what its __init__ imports.
        package = types.ModuleType("onnx_structdrop")
        package.__path__ = [{str(Path(sd.__file__).parent)!r}]
        sys.modules["onnx_structdrop"] = package
        from onnx_structdrop.cli import main
        assert main(["insert", "--help"]) == 0
        assert main(["insert"]) == 2
        heavy = {{"numpy", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "matplotlib", "rich"}}
        print(sorted(heavy & set(sys.modules)))
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


def test_commands_load_matplotlib_and_onnxruntime_only_to_use_them():
    code = textwrap.dedent(
        f"""
        import sys
        from onnx_structdrop.cli import main
        argv = ["insert", {str(VOLUME)!r}, "--dry-run", "--spec", "DropPath", "--rate", "0.1"]
        assert main(argv) == 0
        print(sorted({{"onnxruntime", "matplotlib"}} & set(sys.modules)))
        """
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.stdout.splitlines()[-1] == "[]", result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_full_standard_output_is_named():
    command = [sys.executable, "-m", "onnx_structdrop", "--version"]
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(b"structdrop: error: cannot write to standard output: No space")
    assert result.stderr.count(b"\n") == 1
