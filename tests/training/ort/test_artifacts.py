"""Artifacts: they load as they are, say what they hold, and appear whole or not at all."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import pytest
from small_models import RISING, artifacts_of, batches, network, with_dropout

import onnx_structdrop as sd
from onnx_structdrop import (
    ArgumentError,
    ArgumentTypeError,
    ModelError,
    OutputError,
    UnsupportedModelError,
)
from onnx_structdrop.schema import DOMAIN
from onnx_structdrop.training import (
    Artifacts,
    Schedule,
    TrainingSession,
    generate_artifacts,
    prepare,
)

MODELS = pathlib.Path(__file__).parents[3] / "models" / "train"
FILES = {
    "training_model.onnx",
    "eval_model.onnx",
    "optimizer_model.onnx",
    "checkpoint",
    "structdrop.json",
    "parameters.npz",
}


def modes(path):
    return {
        attribute.i
        for node in onnx.load(path).graph.node
        if node.domain == DOMAIN
        for attribute in node.attribute
        if attribute.name == "training_mode"
    }


def test_files_load_as_they_are(tmp_path):
    """Without this package: onnxruntime-training's own classes, given the files."""
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    folder = tmp_path / "artifacts"
    artifacts_of(folder)
    assert {path.name for path in folder.iterdir()} == FILES
    state = CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    module = Module(str(folder / "training_model.onnx"), state, str(folder / "eval_model.onnx"))
    optimizer = Optimizer(str(folder / "optimizer_model.onnx"), module)
    (images, labels), *_ = batches(1)
    losses = []
    for _ in range(30):
        losses.append(float(module(images, labels)[0]))
        optimizer.step()
        module.lazy_reset_grad()
    assert losses[-1] < losses[0]
    module.eval()
    assert module(images, labels)[0] == module(images, labels)[0]


def test_dropout_is_on_in_training_and_off_in_evaluation(tmp_path):
    artifacts = artifacts_of(tmp_path / "artifacts", with_dropout(training_mode=False))
    assert modes(artifacts.training_model) == {1}
    assert modes(artifacts.eval_model) == {0}
    for path in (artifacts.training_model, artifacts.eval_model, artifacts.optimizer_model):
        assert onnx.load(path).ir_version <= 10


def test_manifest_and_parameters(tmp_path):
    model = with_dropout()
    made = artifacts_of(tmp_path / "artifacts", model, schedule=RISING, extra_outputs=["pooled"])
    read = Artifacts.load(tmp_path / "artifacts")
    assert read == made
    manifest = read.manifest
    assert manifest.schedule == RISING
    assert [info.name for info in manifest.inputs] == ["image"]
    assert manifest.labels.dtype == "int64"
    assert manifest.classes == 5
    assert (manifest.outputs, manifest.extra_outputs) == (("y",), ("pooled",))
    assert {(each.rate, each.stages, len(each.nodes)) for each in manifest.ratios} == {
        (0.3, (1,), 1),
        (0.3, (2,), 1),
    }
    assert {"w1", "b1", "w2", "b2", "w3", "b3"} == set(manifest.trainable)
    with np.load(read.parameters) as parameters:
        assert set(parameters) == {*manifest.trainable, *manifest.frozen}
        for tensor in model.graph.initializer:
            if tensor.name in parameters:
                np.testing.assert_array_equal(
                    parameters[tensor.name], onnx.numpy_helper.to_array(tensor)
                )


def test_one_ratio_unless_factors_ask_for_more(tmp_path):
    plain = artifacts_of(tmp_path / "plain", schedule=Schedule.linear(5))
    assert [each.stages for each in plain.manifest.ratios] == [(1, 2)]


def test_model_path_and_prepared_model(tmp_path):
    model = with_dropout()
    before = model.SerializeToString()
    sd.save(model, tmp_path / "model.onnx")
    first = artifacts_of(tmp_path / "first", tmp_path / "model.onnx", schedule=RISING)
    second = artifacts_of(tmp_path / "second", prepare(model), schedule=RISING)
    third = artifacts_of(tmp_path / "third", model, schedule=RISING)
    assert model.SerializeToString() == before
    for other in (first, second):
        assert set(other.manifest.frozen) == set(third.manifest.frozen)
        assert other.manifest.ratios == third.manifest.ratios
    batch = next(batches(1))
    losses = {TrainingSession(each, threads=1).step(*batch) for each in (first, second, third)}
    assert len(losses) == 1
    with pytest.raises(ArgumentError, match="go to prepare"):
        artifacts_of(tmp_path / "fourth", prepare(model), frozen=["w1"])
    with pytest.raises(ArgumentError, match="sizes go to prepare"):
        artifacts_of(tmp_path / "fourth", prepare(model), sizes={"N": 4})


def test_free_axes_get_sizes(tmp_path):
    model = network()
    for axis, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    artifacts = artifacts_of(tmp_path / "given", model, sizes={"height": 12, "width": 12})
    assert artifacts.manifest.inputs[0].shape == ("N", 1, 12, 12)
    prepared = artifacts_of(
        tmp_path / "prepared", prepare(model, sizes={"height": 12, "width": 12})
    )
    assert prepared.manifest == artifacts.manifest
    TrainingSession(artifacts).step(*next(batches(1)))
    with pytest.raises(ArgumentError, match="no input has a dimension 'depth'; there are N, heig"):
        artifacts_of(tmp_path / "wrong", model, sizes={"depth": 3})
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_exports_that_were_training_train_once_they_are_clean(tmp_path, exporter):
    """Their own dropout would stay in evaluation, and is refused by the node's name."""
    model = sd.load(MODELS / f"resnet_{exporter}_train.onnx")
    with pytest.raises(UnsupportedModelError, match=r"node '.*' \(RandomUniformLike\) cannot tr"):
        artifacts_of(tmp_path / "random", model)
    clean, report = sd.clean(model)
    assert report.changed
    assert not report.residual
    session = TrainingSession(
        artifacts_of(tmp_path / "clean", with_dropout(clean), batch_norm="train"),
        learning_rate=0.01,
    )
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    losses = [session.step(images, np.arange(2)) for _ in range(10)]
    assert losses[-1] < losses[0]


def test_frozen_parameters_stay(tmp_path):
    session = TrainingSession(artifacts_of(tmp_path / "artifacts", frozen=["w1", "b1"]))
    before = session.parameters
    session.step(*next(batches(1)))
    changed = {name for name, value in session.parameters.items() if (before[name] != value).any()}
    assert changed == {"w2", "b2", "w3", "b3"}


def test_seed_gives_other_masks(tmp_path):
    batch = next(batches(1))
    losses = [
        TrainingSession(artifacts_of(tmp_path / str(seed), seed=seed)).step(*batch)
        for seed in (None, 1, 2, 3)
    ]
    assert losses[0] == losses[1]  # insertion took seed 1 as well
    assert len(set(losses)) == 3


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd"},
        {"optimizer_options": {"weight_decay": 0.1, "betas": (0.8, 0.99)}},
        {"optimizer_options": {"clip_grad": 0.1}},
    ],
)
def test_optimizers(tmp_path, options):
    session = TrainingSession(artifacts_of(tmp_path / "artifacts", **options), learning_rate=0.05)
    losses = [session.step(*batch) for batch in batches(30)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"loss": "hinge"}, ArgumentError, "cross_entropy, mse"),
        ({"optimizer": "adam"}, ArgumentError, "adamw, sgd"),
        ({"optimizer_options": {"momentum": 0.9}}, ArgumentError, "momentum"),
        ({"schedule": 0.1}, ArgumentTypeError, "Schedule"),
        ({"schedule": Schedule.linear(5, factors={9: 0.5})}, ArgumentError, "stages that do: 1, 2"),
        ({"schedule": Schedule.linear(5, factors={1: 4.0})}, ArgumentError, r"in \[0, 1\)"),
        ({"loss_output": "z"}, ArgumentError, "'y'"),
        ({"extra_outputs": ["z"]}, ArgumentError, "'z'"),
        ({"extra_outputs": "pooled"}, ArgumentTypeError, "list"),
        ({"requires_grad": ["w9"]}, ArgumentError, "w9"),
        ({"batch_norm": "half"}, ArgumentError, "batch_norm"),
        ({"seed": -1}, ArgumentError, "seed"),
    ],
)
def test_arguments_that_are_refused(tmp_path, arguments, error, words):
    with pytest.raises(error, match=words):
        artifacts_of(tmp_path / "artifacts", **arguments)
    assert not list(tmp_path.iterdir())


def test_models_that_are_refused(tmp_path):
    taken = network()
    taken.graph.input[0].name = taken.graph.node[0].input[0] = "labels"
    with pytest.raises(ArgumentError, match="'labels'"):
        artifacts_of(tmp_path / "artifacts", with_dropout(taken))
    several = with_dropout()
    several.graph.output.append(onnx.helper.make_tensor_value_info("flat", 1, ["N", 12]))
    with pytest.raises(ArgumentError, match="2 outputs"):
        artifacts_of(tmp_path / "artifacts", several)
    with pytest.raises(ModelError, match="does not exist"):
        artifacts_of(tmp_path / "artifacts", tmp_path / "nothing.onnx")
    assert not list(tmp_path.iterdir())
    made = artifacts_of(tmp_path / "artifacts", several, loss_output="y")
    outputs = TrainingSession(made).evaluate(*next(batches(1))).outputs
    assert set(outputs) == {"y", "flat"}


def test_folders_that_are_there(tmp_path, monkeypatch):
    target = tmp_path / "artifacts"
    target.mkdir()
    artifacts_of(target)
    with pytest.raises(OutputError, match="overwrite=True"):
        artifacts_of(target)
    before = (target / "structdrop.json").read_bytes()

    def failing(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("onnx_structdrop.training.artifacts.write_parameters", failing)
        with pytest.raises(OutputError, match="No space left"):
            artifacts_of(target, overwrite=True)
    assert (target / "structdrop.json").read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]
    artifacts_of(target, overwrite=True, loss="mse")
    assert Artifacts.load(target).manifest.loss == "mse"
    assert list(tmp_path.iterdir()) == [target]


def test_losses_and_their_gradients_are_those_of_torch(tmp_path):
    import torch

    images, labels = next(batches(1))
    targets = np.random.default_rng(3).uniform(0, 1, (len(labels), 5)).astype(np.float32)
    functions = {
        "cross_entropy": (torch.nn.functional.cross_entropy, labels),
        "mse": (torch.nn.functional.mse_loss, targets),
        "bce": (torch.nn.functional.binary_cross_entropy_with_logits, targets),
        "l1": (torch.nn.functional.l1_loss, targets),
    }
    for name, (function, wanted) in functions.items():
        artifacts = generate_artifacts(network(), tmp_path / name, loss=name)
        session = TrainingSession(artifacts, learning_rate=0.0)
        loss = session.step(images, wanted)
        outputs = torch.tensor(session.last_outputs["y"], requires_grad=True)
        expected = function(outputs, torch.tensor(wanted))
        expected.backward()
        assert loss == pytest.approx(expected.item(), rel=1e-6), name
        # The bias of the last layer is added to the outputs of every sample.
        gradient = session._state.parameters["b3"].grad
        np.testing.assert_allclose(
            gradient, outputs.grad.numpy().sum(0), rtol=1e-5, atol=1e-7, err_msg=name
        )
