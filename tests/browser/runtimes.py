"""The sampled file in the other runtimes, and the numbers that are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

import onnx_structdrop as sd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx

    Logits = Callable[[np.ndarray, float], np.ndarray]

CELL = 16
"""Maps are compared as means over squares of this many pixels."""


def in_onnxruntime(model: onnx.ModelProto, *, native: bool) -> Logits:
    """Return images [N, 1, H, W] and a rate to logits, by function or by kernel."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if native:
        sd.register(options)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda images, rate: session.run(
        None, {"image": images, "rate": np.array(rate, np.float32)}
    )[0]


def in_openvino(model: onnx.ModelProto) -> Logits:
    """Return images and a rate to logits, by the inlined form."""
    import openvino

    core = openvino.Core()
    core.set_property({"INFERENCE_PRECISION_HINT": "f32"})
    inlined = sd.inline(model, "uniform").SerializeToString()
    network = core.compile_model(core.read_model(inlined), "CPU")
    return lambda images, rate: network({"image": images, "rate": np.array(rate, np.float32)})[
        0
    ].copy()


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over axis 1, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def entropy(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the entropy in nats along an axis of probabilities."""
    return -(values * np.log(np.where(values > 0, values, 1))).sum(axis=axis)


def numbers(samples: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the page saves, of probabilities [T, classes, H, W]."""
    mean = samples.mean(axis=0)
    expected = entropy(samples, 1).mean(axis=0)
    predictive = entropy(mean, 0)
    return {
        "shares": samples.mean(axis=(2, 3)),
        "mean": mean,
        "predictive_entropy": predictive,
        "expected_entropy": expected,
        "mutual_information": np.maximum(predictive - expected, 0),
    }


def runs(logits: Logits, image: np.ndarray, count: int, samples: int, rate: float) -> list:
    """Return the numbers of several runs, the rows of a batch being the samples of one."""
    images = np.repeat(image[None, None], samples, axis=0)
    return [numbers(probabilities(logits(images, rate))) for _ in range(count)]


def quantities(run: Mapping[str, np.ndarray], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return what is compared of a run, each a vector."""
    shares = np.asarray(run["shares"])
    result = {
        "share of a class": shares.mean(axis=0),
        "its variance over samples": shares.var(axis=0, ddof=1),
    }
    height, width = shape
    for name in ("mutual_information", "expected_entropy", "predictive_entropy"):
        grid = np.reshape(run[name], (height // CELL, CELL, width // CELL, CELL))
        result[name.replace("_", " ")] = np.mean(run[name], keepdims=True)
        result[f"{name.replace('_', ' ')} of a square"] = grid.mean(axis=(1, 3)).ravel()
    return result
