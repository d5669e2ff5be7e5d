"""structdrop cost: placements from the last site to all of them."""

from __future__ import annotations

import json

import pytest
from samples import MODELS

from onnx_structdrop.cli import main

MODEL = str(MODELS / "resnet18_dynamo.onnx")


def call(capsys, *argv, code=0):
    assert main(["cost", MODEL, "--spec", "DropBlock2D", *argv]) == code
    return capsys.readouterr()


def test_predictions(capsys):
    found = json.loads(call(capsys, "--no-measure", "--json", "-T", "10").out)
    names = list(found["placements"])
    assert names == ["last site", "stage 4", "stages 3 to 4", "stages 2 to 4", "stages 1 to 4",
                     "all sites"]  # fmt: skip
    costs = [found["placements"][name]["predicted_cost"] for name in names]
    assert costs == sorted(costs)
    assert found["placements"]["last site"]["cost"] is None


def test_measured(capsys):
    out = call(capsys, "--stage", "4", "--threads", "1", "-T", "4").out
    assert "chosen sites" in out
    assert "4 samples of 1 image;" in out


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["-T", "0"], 1, "samples is 0"),
        (["--input-shape", "1,4,224,224"], 1, "input_shape is (1, 4, 224, 224)"),
        (["--stage", "9"], 1, "stage"),
    ],
)
def test_errors(capsys, argv, code, words):
    err = call(capsys, "--no-measure", *argv, code=code).err
    assert words in err.splitlines()[-1]


def test_models_that_drop_already(capsys, tmp_path):
    path = str(tmp_path / "live.onnx")
    assert main(["insert", MODEL, "-o", path, "--spec", "DropPath", "--rate", "0.1"]) == 0
    capsys.readouterr()
    assert main(["cost", path]) == 1
    assert "holds structured dropout already" in capsys.readouterr().err
