"""The command line: choosing sites by placement, hints at names, configuration files that hurt."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_structdrop as sd
from onnx_structdrop.cli import main

MODELS = Path(__file__).parent.parent / "models"
RESNET = MODELS / "resnet18_dynamo.onnx"
DENSENET = MODELS / "densenet_dynamo.onnx"
INSERT = ("--spec", "DropBlock2D", "--rate", "0.1", "--seed", "1")


def run(capsys, *argv):
    capsys.readouterr()
    code = main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, code, *argv):
    found, out, err = run(capsys, *argv)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert "bug" not in err
    return err


@pytest.mark.parametrize("name", ["paper", "dropblock", "droppath", "default", "all"])
def test_placement_lists_what_the_function_chooses(capsys, name):
    code, out, _ = run(capsys, "sites", RESNET, "--placement", name, "--json")
    expected = sd.placement(sd.find_sites(sd.load(RESNET)), name)
    assert code == 0
    assert [site["value"] for site in json.loads(out)["sites"]] == [s.value for s in expected]


def test_placement_inserts_at_its_sites(capsys, tmp_path):
    out = tmp_path / "d.onnx"
    argv = ("insert", RESNET, "-o", out, *INSERT, "--placement", "paper", "--json")
    code, text, _ = run(capsys, *argv)
    assert code == 0
    inserted = [entry["site"] for entry in json.loads(text)["inserted"]]
    assert {site["stage"] for site in inserted} == {3, 4}
    assert {site["kind"] for site in inserted} == {"activation", "linear", "shortcut"}
    assert len(sd.inspect(sd.load(out)).own) == len(inserted)


MOBILENET = MODELS / "mobilenetv2_dynamo.onnx"


def test_the_placement_of_the_paper_is_told(capsys):
    for model, told in (
        (RESNET, "dropblock, 10 sites"),
        (MOBILENET, "droppath, 4 sites"),
        (DENSENET, "dense, "),
    ):
        code, _, err = run(capsys, "sites", model, "--placement", "paper", "--json")
        assert code == 0
        assert err.startswith(f"placement paper: {told}")
    argv = ("sites", RESNET, "--placement")
    assert run(capsys, *argv, "dropblock")[2] == ""
    assert "dropblock, 5 of 10 sites" in run(capsys, *argv, "paper", "--stage", "4")[2]


def test_drop_path_has_one_place_in_every_paper(capsys):
    argv = ("insert", RESNET, "--dry-run", "--rate", "0.1", "--seed", "1", "--json")
    code, out, err = run(capsys, *argv, "--spec", "DropPath", "--placement", "paper")
    expected = sd.placement(sd.find_sites(sd.load(RESNET)), "droppath")
    assert code == 0
    inserted = json.loads(out)["inserted"]
    assert [entry["site"]["value"] for entry in inserted] == [site.value for site in expected]
    assert f"placement paper: droppath, {len(expected)} sites" in err


def test_drop_block_where_drop_path_is_the_habit_comes_with_a_hint(capsys):
    argv = ("insert", MOBILENET, "--dry-run", *INSERT, "--placement", "paper")
    code, _, err = run(capsys, *argv)
    assert code == 0
    assert "hint: networks of this family are trained with DropPath" in err
    argv = ("insert", RESNET, "--dry-run", *INSERT, "--placement", "paper")
    assert "trained with DropPath" not in run(capsys, *argv)[2]


def test_block_hint_counts_the_maps_that_one_block_covers(capsys):
    argv = ("insert", RESNET, "--dry-run", *INSERT, "--block-size")
    assert "4 of 17 chosen maps are not larger" in run(capsys, *argv, "7")[2]
    assert "8 of 17 chosen maps are not larger" in run(capsys, *argv, "14")[2]
    for size in ("5", "14,5"):
        assert "not larger" not in run(capsys, *argv, size)[2]


def test_filters_narrow_a_placement_down(capsys):
    argv = ("sites", RESNET, "--placement", "paper", "--stage", "4", "--kind", "linear", "--json")
    code, out, _ = run(capsys, *argv)
    assert code == 0
    assert [(s["stage"], s["kind"]) for s in json.loads(out)["sites"]] == [(4, "linear")] * 2
    err = refused(capsys, 1, "sites", RESNET, "--placement", "paper", "--stage", "2")
    assert "none of 10 of placement paper is of stage 2" in err


def test_placement_that_a_model_does_not_have(capsys):
    err = refused(capsys, 1, "sites", RESNET, "--placement", "dense")
    assert "placement 'dense' finds no site" in err
    assert run(capsys, "sites", DENSENET, "--placement", "dense")[0] == 0


def test_unknown_placements_and_kinds_are_usage_errors_with_a_hint(capsys):
    err = refused(capsys, 2, "sites", RESNET, "--placement", "drop-path")
    assert "did you mean droppath?" in err
    err = refused(capsys, 2, "sites", RESNET, "--kind", "activations")
    assert "did you mean activation?" in err
    assert "did you mean" not in refused(capsys, 2, "sites", RESNET, "--kind", "zzz")


def test_names_that_match_nothing_come_with_close_ones(capsys):
    names = [site.value for site in sd.find_sites(sd.load(RESNET))]
    wrong = f"{names[0][:-1]}zz"
    assert repr(names[0]) in refused(capsys, 1, "sites", RESNET, "--name", wrong)
    upper = names[3].upper()
    assert repr(names[3]) in refused(capsys, 1, "sites", RESNET, "--name", f"*{upper}")
    assert "close are" not in refused(capsys, 1, "sites", RESNET, "--name", "~~~~")
    assert "close are" not in refused(capsys, 1, "sites", RESNET, "--name", "?[]")


def test_drop_path_behind_whole_blocks_comes_with_a_hint(capsys):
    argv = ("insert", RESNET, "--dry-run", "--spec", "DropPath", "--rate", "0.1", "--seed", "1")
    code, out, err = run(capsys, *argv)
    assert code == 0
    assert "--placement droppath" in err
    assert "hint" not in out
    for chosen in (("--placement", "droppath"), ("--kind", "join"), ("--stage", "2")):
        assert "hint" not in run(capsys, *argv, *chosen)[2]
    assert "droppath" not in run(capsys, "insert", RESNET, "--dry-run", *INSERT)[2]


def quantised(path, operators):
    scale = onnx.numpy_helper.from_array(np.array(0.1, np.float32), "s")
    zero = onnx.numpy_helper.from_array(np.array(0, np.uint8), "z")
    shape = (4, 3, 3, 3)
    nodes = [onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise")]
    if operators == "QLinearConv":
        weight = onnx.numpy_helper.from_array(np.ones(shape, np.uint8), "w")
        names = ["q", "s", "z", "w", "s", "z", "s", "z"]
        nodes.append(onnx.helper.make_node("QLinearConv", names, ["c"], "conv"))
        nodes.append(onnx.helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"], "back"))
    else:
        weight = onnx.numpy_helper.from_array(np.ones(shape, np.float32), "w")
        nodes.append(onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "back"))
        nodes.append(onnx.helper.make_node("Conv", ["d", "w"], ["y"], "conv"))
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, None, None, None])
        for name in "xy"
    ]
    values[0].type.tensor_type.shape.dim[1].dim_value = 3
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [weight, scale, zero])
    imports = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8), path)


@pytest.mark.parametrize("operators", ["QLinearConv", "QDQ"])
def test_quantised_models_are_refused_with_the_reason(capsys, tmp_path, operators):
    path = tmp_path / "quantised.onnx"
    quantised(path, operators)
    err = refused(capsys, 1, "insert", path, "--dry-run", *INSERT)
    assert "quantised (QuantizeLinear" in err
    assert "insert before quantising" in err
    with pytest.raises(sd.SiteError, match="insert before quantising"):
        sd.insert(sd.load(path), sd.DropPath(0.1))
    code, _, err = run(capsys, "sites", path)
    assert code == 0
    assert "insert before quantising" in err


def test_float_convolutions_of_quantised_models_take_dropout_by_kind(capsys, tmp_path):
    path, out = tmp_path / "quantised.onnx", tmp_path / "d.onnx"
    quantised(path, "QDQ")
    code, _, err = run(capsys, "insert", path, "-o", out, *INSERT, "--kind", "linear")
    assert code == 0
    assert "note: the model is quantised" in err
    assert "insert before quantising" in err
    assert "insert before quantising" in run(capsys, "sites", path, "--kind", "linear")[2]
    assert len(sd.inspect(sd.load(out)).own) == 1


def config_error(capsys, tmp_path, path):
    argv = ("insert", RESNET, "-o", tmp_path / "d.onnx", "--config", path)
    err = refused(capsys, 1, *argv)
    assert not (tmp_path / "d.onnx").exists()
    return err


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000])
def test_config_nested_deeply(capsys, tmp_path, text):
    path = tmp_path / "deep.json"
    path.write_text(text)
    assert "nested too deeply" in config_error(capsys, tmp_path, path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_config_that_is_no_regular_file(capsys, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero", tmp_path):
        assert "is not a regular file" in config_error(capsys, tmp_path, path)


def test_config_of_absurd_size(capsys, tmp_path):
    path = tmp_path / "large.json"
    path.write_text(" " * ((1 << 20) + 1))
    assert "holds 1048577 bytes" in config_error(capsys, tmp_path, path)


def test_config_that_is_no_text(capsys, tmp_path):
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not a JSON file" in config_error(capsys, tmp_path, path)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1" + "0" * 5000, "1e400", "NaN", "true"])
def test_config_with_a_number_that_is_no_rate(capsys, tmp_path, number):
    path = tmp_path / "rate.json"
    path.write_text(f'{{"class_name": "DropPath", "config": {{"rate": {number}}}}}')
    assert len(config_error(capsys, tmp_path, path)) < 400
