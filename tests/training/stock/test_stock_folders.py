"""What `StockTrainer` writes is whole, and what is not whole it does not go on with."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib
import shutil

import numpy as np
import pytest

import onnx_structdrop as sd
from onnx_structdrop.training import Artifacts, StockTrainer, finish
from onnx_structdrop.training.stock_files import read_arrays, write_arrays

DATA = pathlib.Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "golden.npz") as archive:
        return dict(archive)


@pytest.fixture
def trainer(tmp_path, golden):
    shutil.copytree(DATA / "artifacts", tmp_path / "artifacts")
    trainer = StockTrainer(tmp_path / "artifacts", native=False, threads=1)
    trainer.step(golden["x"], golden["labels"])
    return trainer


def test_saving_inside_the_artifacts(trainer, tmp_path, golden):
    target = tmp_path / "artifacts" / "saved"
    trainer.save(target)
    trainer.save(target)
    assert not (target / "artifacts" / "saved").exists()
    resumed = StockTrainer.resume(target, threads=1)
    loss = trainer.step(golden["x"], golden["labels"])
    assert resumed.step(golden["x"], golden["labels"]) == loss


def test_saving_onto_the_artifacts_leaves_them(trainer, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "artifacts")
    for target in (tmp_path / "artifacts", tmp_path / "link" / ".." / "artifacts"):
        with pytest.raises(sd.OutputError, match="holds the artifacts of this training"):
            trainer.save(target)
    trainer.save(tmp_path / "saved")
    assert StockTrainer.resume(tmp_path / "saved").steps == 1


def test_a_resumed_trainer_saves_where_it_was(trainer, tmp_path):
    trainer.save(tmp_path / "saved")
    resumed = StockTrainer.resume(tmp_path / "saved")
    resumed.save(tmp_path / "saved")
    resumed.save(tmp_path / "saved")
    assert StockTrainer.resume(tmp_path / "saved").steps == 1


def test_artifacts_that_are_gone(trainer, tmp_path):
    shutil.rmtree(tmp_path / "artifacts")
    with pytest.raises(sd.OutputError, match="cannot write"):
        trainer.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    for use in (lambda: trainer.export(tmp_path / "model.onnx"), lambda: finish(trainer)):
        with pytest.raises(sd.ModelError, match="cannot be read"):
            use()


def test_artifacts_that_were_damaged_since(trainer):
    artifacts = trainer.artifacts
    artifacts.eval_model.write_bytes(b"\xff\x00")
    with pytest.raises(sd.ModelError, match="is not the file that was written"):
        StockTrainer(artifacts)


def test_places_that_cannot_be_written(trainer, tmp_path):
    for path in (tmp_path, tmp_path / "no" / "model.onnx"):
        with pytest.raises(sd.OutputError, match="cannot write"):
            trainer.export(path)
    with pytest.raises(sd.ArgumentTypeError, match="must be a path"):
        trainer.export(None)


def test_an_export_that_fails_keeps_the_file_before(trainer, golden, tmp_path, monkeypatch):
    target = tmp_path / "model.onnx"
    trainer.export(target)
    before = target.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    trainer.step(golden["x"], golden["labels"])
    with pytest.raises(sd.OutputError, match="No space left"):
        trainer.export(target)
    assert target.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"artifacts", "model.onnx"}


@pytest.mark.parametrize(
    "change",
    [
        {"moment/0/b5": None},
        {"moment/0/b5": np.zeros(1, np.float32)},
        {"parameter/b5": np.full(4, 7, np.float32)},
        {"parameter/b5": np.zeros((2, 2), np.float32)},
    ],
    ids=str,
)
def test_arrays_that_were_changed(trainer, tmp_path, change):
    trainer.save(tmp_path / "saved")
    path = tmp_path / "saved" / "state.npz"
    arrays = read_arrays(path) | change
    assert set(change) <= set(read_arrays(path))
    write_arrays(path, {name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(sd.ModelError, match="is not the file that was written"):
        StockTrainer.resume(tmp_path / "saved")


def test_names_that_look_like_files(tmp_path):
    arrays = {name: np.full(2, place) for place, name in enumerate(["w", "w.npy", "../w", "é/w"])}
    write_arrays(tmp_path / "arrays.npz", arrays)
    read = read_arrays(tmp_path / "arrays.npz")
    assert read.keys() == arrays.keys()
    assert all(np.array_equal(read[name], value) for name, value in arrays.items())


@pytest.mark.parametrize("change", [{"steps": 2.7}, {"steps": -1}, {"native": "x"}], ids=str)
def test_a_manifest_that_was_changed(trainer, tmp_path, change):
    trainer.save(tmp_path / "saved")
    path = tmp_path / "saved" / "structdrop.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change))
    with pytest.raises(sd.ModelError, match="changed by hand"):
        StockTrainer.resume(tmp_path / "saved")


def test_folders_of_the_other_kind(trainer, tmp_path):
    trainer.save(tmp_path / "saved")
    for use in (StockTrainer, Artifacts.load, finish):
        with pytest.raises(sd.ModelError, match=r"StockTrainer\.resume goes on with it"):
            use(tmp_path / "saved")
    manifest = dataclasses.replace(trainer.manifest, steps=3)  # as TrainingSession.save writes it
    manifest.write(tmp_path / "artifacts")
    with pytest.raises(sd.ModelError, match="3 steps that TrainingSession saved"):
        StockTrainer(tmp_path / "artifacts")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_training_is_not_finished(trainer, tmp_path, value):
    b5 = trainer.parameters["b5"]
    trainer.assign({"b5": np.full_like(b5, value)})
    with pytest.raises(sd.CheckFailedError, match="'b5' is not finite after 1 steps"):
        finish(trainer, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("seed", [-1, "x", 1.5, None, True])
def test_seeds_of_the_inputs_to_check_with(trainer, seed):
    with pytest.raises(sd.ArgumentError, match="seed is"):
        finish(trainer, seed=seed)


def test_finishing_a_folder_on_the_runtime_that_is_here(tmp_path):
    assert finish(DATA / "artifacts", tmp_path / "model.onnx").graph.node
