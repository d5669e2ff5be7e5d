"""Finished models: no trace of dropout, certain, and equal to what was evaluated."""

from __future__ import annotations

import importlib

import numpy as np
import onnx
import onnxruntime
import pytest
from small_models import SHAPE, artifacts_of, batches, network, with_dropout

import onnx_structdrop as sd
from onnx_structdrop import ArgumentError, CheckFailedError, ModelError, OutputError
from onnx_structdrop.schema import DOMAIN
from onnx_structdrop.training import TrainingSession, finish


@pytest.fixture(scope="module", params=["plain", "frozen", "train"])
def trained(request, tmp_path_factory):
    """Return a session after training, without batch normalisation or with it in either way."""
    model = with_dropout(network(batch_norm=request.param != "plain"))
    modes = {} if request.param == "plain" else {"batch_norm": request.param}
    folder = tmp_path_factory.mktemp("finish") / "artifacts"
    session = TrainingSession(artifacts_of(folder, model, extra_outputs=["pooled"], **modes))
    for batch in batches(20):
        session.step(*batch)
    return session


def run(model, images):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": images})[0]


def test_no_trace_of_dropout_and_equal_to_evaluation(trained, tmp_path):
    model = finish(trained, tmp_path / "finished.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert not sd.inspect(model).nodes
    assert not [function for function in model.functions if function.domain == DOMAIN]
    assert {each.domain for each in model.opset_import} == {""}
    assert [each.name for each in model.graph.output] == ["y"]
    assert [each.name for each in model.graph.input] == ["image"]
    names = {tensor.name for tensor in model.graph.initializer}
    assert not names & {each.name for each in trained.manifest.ratios}
    for images, labels in batches(2):
        expected = trained.evaluate(images, labels).outputs["y"]
        result = run(model, images)
        np.testing.assert_array_equal(result, run(model, images))
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    saved = onnx.load(tmp_path / "finished.onnx")
    np.testing.assert_array_equal(run(saved, images), result)


def test_from_a_saved_folder(trained, tmp_path):
    trained.save(tmp_path / "saved")
    images, _ = next(batches(1))
    first, second = finish(trained, inputs=images), finish(tmp_path / "saved", inputs=images)
    np.testing.assert_array_equal(run(first, images), run(second, images))


def test_what_is_refused(trained, tmp_path):
    with pytest.raises(ArgumentError, match="4 axes"):
        finish(trained, tmp_path / "finished.onnx", inputs=np.zeros(SHAPE, np.float32))
    with pytest.raises(ModelError, match="no folder"):
        finish(tmp_path / "nowhere", tmp_path / "finished.onnx")
    with pytest.raises(OutputError, match="no folder"):
        finish(trained, tmp_path / "nowhere" / "finished.onnx")
    assert not list(tmp_path.iterdir())


def test_models_that_differ_are_not_written(trained, tmp_path, monkeypatch):
    """Were the fold wrong, or dropout left on, nothing would come out."""

    def wrong(model):
        result = sd.fold(model)
        for tensor in result.graph.initializer:
            if tensor.name == "b3":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(5, np.float32), "b3"))
        return result

    # The package has a function of the module's name.
    module = importlib.import_module("onnx_structdrop.training.finish")
    for damage, words in (
        (wrong, "not proven equal"),
        (lambda model: sd.set_training_mode(model, True), "not proven equal"),
    ):
        monkeypatch.setattr(module, "fold", damage)
        with pytest.raises(CheckFailedError, match=words):
            finish(trained, tmp_path / "finished.onnx")
    monkeypatch.setattr(module, "_check_folded", lambda *_: None)
    with pytest.raises(CheckFailedError, match="two runs"):
        finish(trained, tmp_path / "finished.onnx")
    monkeypatch.setattr(module, "fold", wrong)
    with pytest.raises(CheckFailedError, match="evaluation"):
        finish(trained, tmp_path / "finished.onnx")
    assert not list(tmp_path.iterdir())


def test_an_input_that_nothing_reads(tmp_path):
    model = network()
    extra = onnx.helper.make_tensor_value_info("extra", onnx.TensorProto.FLOAT, ["N", 3])
    model.graph.input.append(extra)
    session = TrainingSession(artifacts_of(tmp_path / "artifacts", with_dropout(model)))
    images, labels = next(batches(1))
    session.step([images, np.zeros((len(images), 3), np.float32)], labels)
    assert [value.name for value in finish(session).graph.input] == ["image"]
