"""Sessions: the loss falls, ratios follow, evaluation is certain, a resumed run is the same run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from small_models import BATCH, CLASSES, RISING, SHAPE, artifacts_of, batches, network, with_dropout

import onnx_structdrop as sd
from onnx_structdrop import (
    ArgumentError,
    ArgumentTypeError,
    ModelError,
    NativeLibraryError,
    OutputError,
)
from onnx_structdrop.training import Schedule, StockTrainer, TrainingSession

each_form = pytest.mark.parametrize("native", [False, True], ids=["function", "kernel"])


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return artifacts_of(tmp_path_factory.mktemp("session") / "artifacts", schedule=RISING)


def same_parameters(one, other):
    first, second = one.parameters, other.parameters
    return first.keys() == second.keys() and all(
        first[name].tobytes() == second[name].tobytes() for name in first
    )


@each_form
def test_loss_falls_and_ratios_follow_the_schedule(artifacts, native):
    session = TrainingSession(artifacts, native=native, learning_rate=0.01)
    losses = []
    stages = {each.name: each.stages for each in session.manifest.ratios}
    assert sorted(stages.values()) == [(1,), (2,)]
    for step, (images, labels) in enumerate(batches(60)):
        assert session.steps == step
        losses.append(session.step(images, labels))
        for each in session.manifest.ratios:
            expected = RISING.ratio(step, 0.3, each.stages[0])
            assert session.ratios[each.name] == np.float32(expected)
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


@each_form
def test_evaluation_is_certain_and_without_dropout(artifacts, native):
    session = TrainingSession(artifacts, native=native)
    (images, labels), *_ = batches(1)
    for _ in range(25):
        session.step(images, labels)
    dropped = session.last_outputs["y"]
    first, second = (session.evaluate(images, labels) for _ in range(2))
    assert first.loss == second.loss
    np.testing.assert_array_equal(first.outputs["y"], second.outputs["y"])
    assert not np.allclose(first.outputs["y"], dropped)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(artifacts, tmp_path):
    """With kernels, at step 50 of 80, over a schedule that changed every step."""
    whole = TrainingSession(artifacts, native=True, threads=2, learning_rate=0.01)
    losses = []
    for step, (images, labels) in enumerate(batches(80)):
        if step == 50:
            whole.save(tmp_path / "saved")
        losses.append(whole.step(images, labels))
    resumed = TrainingSession.resume(tmp_path / "saved", threads=2)
    assert resumed.native
    assert resumed.steps == 50
    assert resumed.learning_rate == 0.01
    assert resumed.manifest.schedule == RISING
    again = [resumed.step(*batch) for batch in list(batches(80))[50:]]
    assert again == losses[50:]
    assert same_parameters(whole, resumed)


@pytest.mark.parametrize("spec", [sd.SpatialDropout2D(0.3, seed=1), sd.DropBlock2D(0.3, 3, seed=1)])
def test_a_resumed_run_with_functions(tmp_path, spec):
    """Equal, too, as long as no block's ratio crosses from one way of drawing to the other."""
    artifacts = artifacts_of(tmp_path / "artifacts", with_dropout(spec=spec))
    whole = TrainingSession(artifacts, native=False, threads=2)
    losses = []
    for step, (images, labels) in enumerate(batches(12)):
        if step == 7:
            whole.save(tmp_path / "saved")
        losses.append(whole.step(images, labels))
    resumed = TrainingSession.resume(tmp_path / "saved", threads=2)
    assert not resumed.native
    assert [resumed.step(*batch) for batch in list(batches(12))[7:]] == losses[7:]
    assert same_parameters(whole, resumed)


def test_resuming_twice_and_seeds(artifacts, tmp_path):
    """A save of a resumed, reseeded session keeps its seeds and counts on."""
    whole = TrainingSession(artifacts, native=True, threads=1, seed=77)
    plain = TrainingSession(artifacts, native=True, threads=1, schedule=Schedule.constant())
    other = TrainingSession(artifacts, native=True, threads=1, schedule=Schedule.constant(), seed=7)
    every = list(batches(9))
    assert plain.step(*every[0]) != other.step(*every[0])
    losses = [whole.step(*batch) for batch in every]
    again = []
    session = TrainingSession(artifacts, native=True, threads=1, seed=77)
    for part in (every[:3], every[3:6], every[6:]):
        again += [session.step(*batch) for batch in part]
        session.save(tmp_path / "saved")
        session = TrainingSession.resume(tmp_path / "saved", threads=1)
    assert again == losses


def test_running_statistics_move_and_are_used(tmp_path):
    model = with_dropout(network(batch_norm=True))
    artifacts = artifacts_of(tmp_path / "artifacts", model, batch_norm="train")
    session = TrainingSession(artifacts)
    before = session.parameters
    (images, labels), *_ = batches(1)
    session.step(images, labels)
    after = session.parameters
    assert {name for name, _ in session.manifest.statistics} == {"mean1", "var1", "mean2", "var2"}
    # The first norm sees the convolution of the images, by weights from before the step.
    import torch

    maps = torch.nn.functional.conv2d(
        torch.tensor(images), torch.tensor(before["w1"]), padding=1
    ).numpy()
    for name, moment in (("mean1", maps.mean((0, 2, 3))), ("var1", maps.var((0, 2, 3)))):
        expected = 0.9 * before[name] + 0.1 * moment
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-5)
    first = session.evaluate(images, labels).loss
    session.assign({"mean1": after["mean1"] + np.float32(3)})
    assert session.evaluate(images, labels).loss != first


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_labels_where_only_a_run_tells_the_output(tmp_path, loss):
    """Onnxruntime reads past its arrays for a class that is none, and stretches a target."""
    model = network()
    batch, classes = model.graph.output[0].type.tensor_type.shape.dim
    batch.dim_param = "M"
    classes.Clear()
    session = TrainingSession(artifacts_of(tmp_path / "a", with_dropout(model), loss=loss))
    (images, labels), *_ = batches(1)
    wrong = [labels + CLASSES, labels - CLASSES, labels[:4], labels + 10**7]
    if loss == "mse":
        labels = np.eye(CLASSES, dtype=np.float32)[labels]
        wrong = [labels[:1], labels[:, :1], labels[:, :3]]
    for each in wrong:
        with pytest.raises(ArgumentError):
            session.step(images, each)
        with pytest.raises(ArgumentError):
            session.evaluate(images, each)
    assert session.steps == 0
    assert np.isfinite(session.step(images, labels))


def test_batches_that_would_end_the_process(artifacts):
    session = TrainingSession(artifacts)
    (images, labels), *_ = batches(1)
    with pytest.raises(ArgumentError, match="is empty"):
        session.step(images[:0], labels[:0])
    with pytest.raises(ArgumentTypeError, match="byte order"):
        session.step(images, labels.astype(">i8"))


def test_exports_that_cannot_be_written(artifacts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = TrainingSession(artifacts)
    with pytest.raises(ArgumentTypeError, match="must be a path"):
        session.export(None)
    for path in (tmp_path, tmp_path / "no" / "model.onnx"):
        with pytest.raises(OutputError, match="cannot write"):
            session.export(path)
    assert not any(tmp_path.iterdir())


def test_the_plain_runtime_does_not_begin_anew_from_a_save(artifacts, tmp_path):
    session = TrainingSession(artifacts)
    session.step(*next(batches(1)))
    session.save(tmp_path / "saved")
    with pytest.raises(ModelError, match="1 steps that TrainingSession saved"):
        StockTrainer(tmp_path / "saved")


def test_segmentation(tmp_path):
    model = with_dropout(network(segments=True))
    session = TrainingSession(artifacts_of(tmp_path / "artifacts", model), learning_rate=0.01)
    losses = [session.step(*batch) for batch in batches(40, segments=True)]
    assert losses[-1] < 0.8 * losses[0]


def test_parameters_are_copies_and_can_be_assigned(artifacts):
    session = TrainingSession(artifacts)
    values = session.parameters
    assert set(values) == {*session.manifest.trainable, *session.manifest.frozen}
    values["w1"][:] = 0
    assert session.parameters["w1"].any()
    session.assign({"w1": values["w1"]})
    assert not session.parameters["w1"].any()
    for wrong, words in (
        ({"nothing": values["w1"]}, "no parameter 'nothing'"),
        ({"w1": values["w1"][0]}, "not float32"),
        ({"w1": values["w1"].astype(np.float64)}, "not float64"),
    ):
        with pytest.raises(ArgumentError, match=words):
            session.assign(wrong)


def images_of(shape=(BATCH, *SHAPE), dtype=np.float32):
    return np.zeros(shape, dtype)


LABELS = np.zeros(BATCH, np.int64)


@pytest.mark.parametrize(
    ("images", "labels", "error", "words"),
    [
        ({"picture": images_of()}, LABELS, ArgumentError, "takes 'image'"),
        ([images_of(), images_of()], LABELS, ArgumentError, "2 inputs"),
        (images_of(dtype=np.float64), LABELS, ArgumentTypeError, "float64"),
        (images_of((BATCH, 12, 12)), LABELS, ArgumentError, "4 axes"),
        (images_of((BATCH, 1, 12, 13)), LABELS, ArgumentError, "12, 13"),
        (images_of((BATCH + 1, *SHAPE)), LABELS, ArgumentError, "'N' is 17"),
        (images_of(), LABELS.astype(np.int32), ArgumentTypeError, "labels"),
        (images_of(), LABELS + CLASSES, ArgumentError, "classes 0 to 4"),
        (images_of(), LABELS - 1, ArgumentError, "from -1"),
    ],
)
def test_batches_that_are_refused_change_nothing(artifacts, images, labels, error, words):
    session = TrainingSession(artifacts)
    before = session.parameters
    for method in (session.step, session.evaluate):
        with pytest.raises(error, match=words):
            method(images, labels)
    assert session.steps == 0
    assert all(np.array_equal(before[name], value) for name, value in session.parameters.items())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"native": "yes"}, ArgumentError, "'auto'"),
        ({"threads": 0}, ArgumentError, "1 or more"),
        ({"schedule": 0.1}, ArgumentTypeError, "Schedule"),
        ({"schedule": Schedule.constant(factors={7: 0.5})}, ArgumentError, "stage 7"),
        ({"schedule": Schedule.constant(factors={2: 4.0})}, ArgumentError, "must be in"),
        ({"learning_rate": -1}, ArgumentError, "learning_rate"),
        ({"learning_rate": "fast"}, ArgumentTypeError, "learning_rate"),
        ({"seed": -1}, ArgumentError, "seed"),
    ],
)
def test_arguments_that_are_refused(artifacts, arguments, error, words):
    with pytest.raises(error, match=words):
        TrainingSession(artifacts, **arguments)


def test_factors_need_ratios_of_their_own(tmp_path):
    shared = artifacts_of(tmp_path / "artifacts")
    with pytest.raises(ArgumentError, match="give generate_artifacts this schedule"):
        TrainingSession(shared, schedule=RISING)
    TrainingSession(shared, schedule=Schedule.cosine(10))


@pytest.fixture
def saved(artifacts, tmp_path):
    session = TrainingSession(artifacts, native=True, threads=1)
    for batch in batches(3):
        session.step(*batch)
    session.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_what_cannot_be_resumed(artifacts, saved, tmp_path):
    with pytest.raises(ModelError, match="is no folder"):
        TrainingSession.resume(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"holds no structdrop\.json"):
        TrainingSession.resume(tmp_path)
    with pytest.raises(ModelError, match="no training to resume"):
        TrainingSession.resume(artifacts.directory)
    for damage in ("missing", "shorter", "other"):
        broken = tmp_path / damage
        shutil.copytree(saved, broken)
        content = (broken / "checkpoint").read_bytes()
        if damage == "missing":
            (broken / "checkpoint").unlink()
        elif damage == "shorter":
            (broken / "checkpoint").write_bytes(content[: len(content) // 2])
        else:
            (broken / "checkpoint").write_bytes(content[:-1] + b"?")
        with pytest.raises(ModelError, match="checkpoint"):
            TrainingSession.resume(broken)
    config = json.loads((saved / "structdrop.json").read_text())
    (saved / "structdrop.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(ModelError, match="format 99"):
        TrainingSession.resume(saved)


def test_kernels_that_are_gone(saved, monkeypatch):
    monkeypatch.setattr(sd.native, "native_available", lambda: False)
    with pytest.raises(NativeLibraryError, match="native=False"):
        TrainingSession.resume(saved)
    assert not TrainingSession.resume(saved, native=False).native


def test_saving_leaves_nothing_half_written(artifacts, saved, tmp_path, monkeypatch):
    session = TrainingSession.resume(saved, threads=1)
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    everything = sorted(tmp_path.iterdir())

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("onnx_structdrop.training.session.write_parameters", full)
        with pytest.raises(OutputError, match="No space left"):
            session.save(saved)
    with pytest.raises(OutputError, match="overwrite"):
        session.save(saved, overwrite=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(OutputError, match="other things"):
        session.save(tmp_path / "mine")
    with pytest.raises(OutputError, match="no folder"):
        session.save(tmp_path / "nowhere" / "saved")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert sorted(tmp_path.iterdir()) == sorted([*everything, tmp_path / "mine"])
