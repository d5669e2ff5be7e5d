"""Training on the plain onnxruntime, against what onnxruntime-training 1.19.2 made."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil

import numpy as np
import onnx
import pytest
from one_operator import close

import onnx_structdrop as sd
from onnx_structdrop.training import Artifacts, Schedule, StockTrainer
from onnx_structdrop.training.lowering.optimizers import SGD, AdamW, read_optimizer

DATA = pathlib.Path(__file__).parent / "data"
ARTIFACTS = DATA / "artifacts"


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "golden.npz") as archive:
        return dict(archive)


@pytest.fixture
def trainer():
    return StockTrainer(ARTIFACTS, native=False, threads=1)


def test_gradients_are_those_of_onnxruntime_training(trainer, golden):
    loss = trainer.step(golden["x"], golden["labels"])
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-6)
    wanted = {name[5:]: value for name, value in golden.items() if name.startswith("grad/")}
    assert set(wanted) == set(trainer.manifest.trainable)
    for name, gradient in trainer.gradients.items():
        close(gradient, wanted[name], 1e-6)


def test_losses_fall_as_in_onnxruntime_training(trainer, golden):
    losses = [trainer.step(golden["x"], golden["labels"]) for _ in golden["losses"]]
    assert losses == pytest.approx(golden["losses"].tolist(), rel=1e-5)
    assert losses[-1] < losses[0]
    assert trainer.steps == len(losses)
    assert set(trainer.last_outputs) == {"y"}


def test_two_trainers_are_equal(golden):
    runs = []
    for _ in range(2):
        trainer = StockTrainer(ARTIFACTS, native=False, threads=1)
        runs.append([trainer.step(golden["x"], golden["labels"]) for _ in range(3)])
    assert runs[0] == runs[1]
    first, second = (trainer.evaluate(golden["x"], golden["labels"]) for _ in range(2))
    assert first.loss == second.loss
    assert np.array_equal(first.outputs["y"], second.outputs["y"])


def test_running_statistics_move(trainer, golden):
    before = trainer.parameters
    trainer.step(golden["x"], golden["labels"])
    for name, _ in trainer.manifest.statistics:
        assert not np.array_equal(trainer.parameters[name], before[name])
    ratios = [each.name for each in trainer.manifest.ratios]
    assert all(np.array_equal(trainer.parameters[name], before[name]) for name in ratios)


@pytest.mark.parametrize("native", [False, True])
def test_resuming_is_exact(tmp_path, golden, native):
    if native and not sd.native_available():
        pytest.skip("the native library is not built")
    # Functions draw nothing at ratio 0, which `begin_at` does not see; kernels count every run.
    schedule = Schedule.linear(6, target=0.4) if native else Schedule.constant(0.4)
    trainer = StockTrainer(ARTIFACTS, native=native, threads=1, schedule=schedule)
    trainer.learning_rate = 0.01
    for _ in range(3):
        trainer.step(golden["x"], golden["labels"])
    trainer.save(tmp_path / "saved")
    trainer.save(tmp_path / "saved")  # takes the place of the one before
    resumed = StockTrainer.resume(tmp_path / "saved", threads=1)
    assert (resumed.steps, resumed.learning_rate, resumed.native) == (3, 0.01, native)
    for _ in range(3):
        assert resumed.step(golden["x"], golden["labels"]) == trainer.step(
            golden["x"], golden["labels"]
        )
    assert resumed.ratios == trainer.ratios
    for name, value in trainer.parameters.items():
        assert np.array_equal(resumed.parameters[name], value)


def test_batches_of_other_sizes(trainer, golden):
    trainer.step(golden["x"], golden["labels"])
    trainer.step(golden["x"][:2], golden["labels"][:2])
    assert trainer.last_outputs["y"].shape == (2, 4)


def test_assigned_parameters_are_used(trainer, golden):
    before = trainer.evaluate(golden["x"], golden["labels"]).loss
    trainer.assign({"b5": np.array([9, 0, 0, 0], np.float32)})
    assert trainer.evaluate(golden["x"], golden["labels"]).loss != before
    with pytest.raises(sd.ArgumentError, match="no parameter 'b9'"):
        trainer.assign({"b9": np.zeros(4, np.float32)})
    with pytest.raises(sd.ArgumentError, match="float64"):
        trainer.assign({"b5": np.zeros(4)})


def test_wrong_folders(tmp_path):
    with pytest.raises(sd.ModelError, match="is no folder"):
        StockTrainer(tmp_path / "nothing")
    with pytest.raises(sd.ModelError, match=r"no folder of StockTrainer\.save"):
        StockTrainer.resume(tmp_path / "nothing")
    with pytest.raises(sd.ModelError, match="begins one from artifacts"):
        StockTrainer.resume(ARTIFACTS)


def test_wrong_arguments(trainer, golden):
    with pytest.raises(sd.ArgumentError, match="threads is 0"):
        StockTrainer(ARTIFACTS, threads=0)
    with pytest.raises(sd.ArgumentError, match="native is 'yes'"):
        StockTrainer(ARTIFACTS, native="yes")
    with pytest.raises(sd.ArgumentTypeError, match="schedule"):
        StockTrainer(ARTIFACTS, schedule=0.5)
    with pytest.raises(sd.ArgumentTypeError, match="float64"):
        trainer.step(golden["x"].astype(np.float64), golden["labels"])
    with pytest.raises(sd.ArgumentError, match="classes 0 to 3"):
        trainer.step(golden["x"], golden["labels"] + 9)
    with pytest.raises(sd.ArgumentError, match="learning_rate"):
        trainer.learning_rate = -1


def test_a_batch_that_is_refused_changes_nothing(trainer, golden):
    before, loss = trainer.parameters, trainer.evaluate(golden["x"], golden["labels"]).loss
    for images, labels in (
        (golden["x"][:0], golden["labels"][:0]),
        (golden["x"].astype(">f4"), golden["labels"]),
    ):
        with pytest.raises(sd.StructDropError):
            trainer.step(images, labels)
    assert trainer.steps == 0
    assert all(np.array_equal(trainer.parameters[name], value) for name, value in before.items())
    assert trainer.evaluate(golden["x"], golden["labels"]).loss == loss


def test_labels_where_only_a_run_tells_the_classes(tmp_path, golden):
    manifest = dataclasses.replace(Artifacts.load(ARTIFACTS).manifest, classes=None)
    shutil.copytree(ARTIFACTS, tmp_path / "artifacts")
    manifest.write(tmp_path / "artifacts")
    trainer = StockTrainer(tmp_path / "artifacts")
    for change in (-1, 4):
        with pytest.raises(sd.ArgumentError, match="classes 0 to 3"):
            trainer.step(golden["x"], golden["labels"] * 0 + change)
        with pytest.raises(sd.ArgumentError, match="classes 0 to 3"):
            trainer.evaluate(golden["x"], golden["labels"] * 0 + change)
    assert trainer.steps == 0
    trainer.step(golden["x"], golden["labels"])
    trainer.step(golden["x"][:2], golden["labels"][:2])


def test_a_training_graph_that_cannot_be_lowered(tmp_path):
    folder = tmp_path / "artifacts"
    shutil.copytree(ARTIFACTS, folder)
    artifacts = Artifacts.load(folder)
    model = onnx.load(artifacts.training_model)
    node = next(node for node in model.graph.node if node.op_type == "ReluGrad")
    node.op_type = "StrangeGrad"
    onnx.save(model, artifacts.training_model)
    artifacts.manifest.write(folder)
    with pytest.raises(sd.UnsupportedModelError, match=r"node '.*' \(com.microsoft::StrangeGrad\)"):
        StockTrainer(folder)


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("corrected", [False, True])
def test_adamw(mode, corrected):
    random = np.random.default_rng(0)
    size, rate, decay = 40_000, 0.01, 0.1
    weights = random.standard_normal(size).astype(np.float32)
    moments = (np.zeros(size, np.float32), np.zeros(size, np.float32))
    wanted = weights.astype(np.float64)
    first, second = np.zeros(size), np.zeros(size)
    optimizer = AdamW(weight_decay=decay, adam_mode=mode, correct_bias=corrected, epsilon=1e-6)
    for step in (1, 2, 3):
        gradient = random.standard_normal(size).astype(np.float32)
        optimizer.update(weights, gradient.copy(), moments, rate, step)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.astype(np.float64) ** 2
        shares = (1 - 0.9**step, 1 - 0.999**step) if corrected else (1, 1)
        if mode == 0:
            wanted -= rate * decay * wanted
            wanted -= rate * first / shares[0] / (np.sqrt(second / shares[1]) + 1e-6)
        else:
            corrected_rate = rate * np.sqrt(shares[1]) / shares[0]
            wanted -= corrected_rate * first / (np.sqrt(second) + 1e-6)
            wanted -= rate * decay * wanted
    close(weights, wanted, 1e-5)


def test_sgd_with_clipping():
    weights, gradient = np.zeros(2, np.float32), np.array([3, 4], np.float32)
    SGD(max_norm=1.0).update(weights, gradient.copy(), (), 0.5, 1)
    assert weights == pytest.approx([-0.3, -0.4], rel=1e-5)
    SGD(max_norm=9.0).update(weights, gradient.copy(), (), 0.5, 2)
    assert weights == pytest.approx([-1.8, -2.4], rel=1e-5)


def test_reading_an_optimizer():
    model = onnx.load(ARTIFACTS / "optimizer_model.onnx")
    optimizer = read_optimizer(model)
    assert isinstance(optimizer, AdamW)
    assert (optimizer.adam_mode, optimizer.max_norm) == (1, None)
    model.graph.node[-1].op_type = "LambOptimizer"
    with pytest.raises(sd.UnsupportedModelError, match="LambOptimizer"):
        read_optimizer(model)
