"""``structdrop train`` and the tutorial, run as they stand."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from samples import MODELS

import onnx_structdrop as sd
from onnx_structdrop.cli import main

ROOT = MODELS.parent
FEW = ("--steps", "30", "--batch", "16", "--images", "200")

pytest.importorskip("sklearn")


def run(capsys, *argv):
    capsys.readouterr()
    code = main([str(argument) for argument in argv])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a short run, and what it printed."""
    folder = tmp_path_factory.mktemp("train") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "onnx_structdrop", "train", "-o", str(folder), "--json", *FEW],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    return folder, json.loads(done.stdout)


def test_a_run_ends_in_a_model_without_dropout(trained):
    folder, document = trained
    assert all(check["passed"] for check in document["checks"])
    history = document["history"]
    assert history["steps"] == list(range(30))
    (course,) = history["ratios"].values()
    assert course[0] == 0
    assert course == sorted(course)
    assert course[-1] == pytest.approx(0.2 * 29 / 30)
    assert {"step", "clean", "occluded"} == set(history["evaluations"][-1])
    model = onnx.load(folder / "model.onnx")
    assert sd.inspect(model).nodes == ()
    assert model.functions == []
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (logits,) = session.run(None, {"input": np.zeros((3, 1, 16, 16), np.float32)})
    assert logits.shape == (3, 10)
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "history.json").read_text(encoding="utf-8")) == history


def test_the_artifacts_of_a_run_train_again(trained, tmp_path, capsys):
    folder, _ = trained
    code, out, err = run(
        capsys, "train", "--from", folder / "artifacts", "-o", tmp_path / "again", *FEW
    )
    assert code == 0, err
    assert "the loss falls" in out
    assert (tmp_path / "again" / "model.onnx").is_file()


def test_without_dropout(tmp_path, capsys):
    code, out, err = run(capsys, "train", "--no-dropout", "-o", tmp_path / "run", *FEW)
    assert code == 0, err
    assert "without dropout" in out
    assert "ratio" not in out


@pytest.mark.parametrize(
    ("name", "word"), [("unet_dynamo", "classes"), ("resnet1d_dynamo", "N,1,size,size")]
)
def test_models_for_other_data_are_refused(tmp_path, capsys, name, word):
    code, out, err = run(capsys, "train", MODELS / f"{name}.onnx", "-o", tmp_path / "run", *FEW)
    assert code == 1
    assert out == ""
    assert word in err
    assert not (tmp_path / "run").exists()


def blocks():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    return re.findall(r"<!-- run -->\n```python\n(.*?)```", text, re.DOTALL)


def test_tutorial(tmp_path):
    (script,) = blocks()
    (tmp_path / "models").symlink_to(ROOT / "models")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)
    finished = sd.load(pathlib.Path(tmp_path, "model.onnx"))
    assert sd.inspect(finished).nodes == ()
