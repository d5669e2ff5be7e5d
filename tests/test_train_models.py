"""Train-mode exports of the samples become what their eval-mode siblings compute."""

from __future__ import annotations

import onnx
import pytest
from samples import MODELS

import onnx_structdrop as sd

EXPORTERS = ("dynamo", "torchscript")


@pytest.fixture(params=EXPORTERS)
def pair(request):
    """Return a train-mode export and its eval-mode sibling."""
    folder = MODELS / "train"
    return tuple(
        sd.load(folder / f"resnet_{request.param}_{mode}.onnx") for mode in ("train", "eval")
    )


def test_cleaned_equals_eval(pair):
    train, expected = pair
    cleaned, report = sd.clean(train)
    assert report.changed
    assert report.residual == ()
    assert sd.inspect(cleaned).nodes == ()
    assert sd.verify(expected, cleaned).exact


def test_train_mode_is_random(pair):
    assert sd.verify(*pair).status == "not comparable"


def test_every_kind_of_dropout_is_found(pair):
    _, report = sd.clean(pair[0])
    patterns = {decision.pattern for decision in report.decisions}
    assert {"DropBlock", "stochastic depth by row", "dropout"} <= patterns


def test_files_are_valid():
    for path in (MODELS / "train").glob("*.onnx"):
        onnx.checker.check_model(path, full_check=True)
