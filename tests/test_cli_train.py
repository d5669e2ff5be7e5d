"""``structdrop train`` says what is wrong before it begins."""

from __future__ import annotations

import onnx
import pytest

from onnx_structdrop import demo
from onnx_structdrop.cli import main
from onnx_structdrop.training import training_available


def refused(capsys, code, *argv):
    assert main(["train", *map(str, argv)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--steps", "0"), "--steps is 0"),
        (("--batch", "-1"), "--batch is -1"),
        (("--images", "0"), "--images is 0"),
        (("--learning-rate", "nan"), "--learning-rate is nan"),
        (("--learning-rate", "0"), "--learning-rate is 0"),
        (("--seed", "-1"), "--seed is -1"),
        (("--no-dropout", "--rate", "0.1"), "--no-dropout inserts nothing"),
        (("--from", "somewhere", "--spec", "DropBlock2D"), "--from brings model"),
        (("--from", "somewhere", "model.onnx"), "--from brings model"),
        (("--schedule", "steep"), "steep"),
        (("--from", "somewhere", "--schedule", "cosine"), "--schedule is settled in the artifacts"),
        (("--from", "somewhere", "--optimizer", "adamw"), "--optimizer is settled"),
        (("--from", "somewhere", "--batch-norm", "train"), "--batch-norm is settled"),
        (("--from", "somewhere", "--no-dropout"), "--no-dropout is settled"),
        (("--spec", "Dropout", "--block-size", "3"), "does not apply to Dropout"),
    ],
)
def test_usage(tmp_path, capsys, arguments, word):
    assert word in refused(capsys, 2, "-o", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_artifacts(tmp_path, capsys):
    err = refused(capsys, 1, "--from", tmp_path / "nothing", "-o", tmp_path / "run")
    assert "generate_artifacts makes one" in err
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_images_do_not_fill(tmp_path, capsys):
    err = refused(capsys, 2, "--batch", "9", "--images", "8", "-o", tmp_path / "run")
    assert "--batch is 9; allowed is 1 to 8" in err
    assert not (tmp_path / "run").exists()


def test_a_model_of_a_fixed_batch_size(tmp_path, capsys):
    model = onnx.load(demo.model_path("trainable/digits_resnet.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 32
    onnx.save(model, tmp_path / "fixed.onnx")
    err = refused(capsys, 1, tmp_path / "fixed.onnx", "-o", tmp_path / "run")
    assert "with a free batch axis" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(training_available(), reason="onnxruntime-training is here")
def test_what_is_missing_is_named(tmp_path, capsys):
    pytest.importorskip("sklearn")
    err = refused(capsys, 1, "-o", tmp_path / "run")
    assert "onnxruntime-training-cpu==1.19.2" in err
