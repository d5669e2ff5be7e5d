"""The reference against keras-cv, fed the same uniforms."""

from __future__ import annotations

import os
import warnings

import numpy as np

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the frameworks warn about on import is not ours
    import keras_cv
    import keras_cv.src.layers.regularization.drop_path as drop_path_module
    import keras_cv.src.layers.regularization.dropblock_2d as drop_block_module
    import tensorflow as tf

from comparison import CASES, Comparison, random_data, random_rate

from onnx_structdrop import specs
from onnx_structdrop.reference import apply, uniforms_shape


def given_uniforms(monkeypatch, module, uniforms):
    def uniform(shape, seed=None, dtype=None):
        assert tuple(int(size) for size in shape) == uniforms.shape
        return tf.constant(uniforms)

    monkeypatch.setattr(module.random, "uniform", uniform)


def test_drop_block(monkeypatch):
    rng = np.random.default_rng(60)
    comparison = Comparison("keras-cv DropBlock2D, square maps")
    while comparison.cases < CASES:
        rate = random_rate(rng)
        size = int(rng.integers(1, 13))
        # Larger blocks than the map give NaN there.
        block = tuple(int(b) for b in rng.integers(1, size + 1, 2))
        layer = keras_cv.layers.DropBlock2D(rate, block if rng.random() < 0.5 else block[0])
        spec = specs.DropBlock2D.keras_cv(rate, layer.get_config()["block_size"])
        assert specs.DropBlock2D.from_config(layer.get_config()) == spec
        shape = (int(rng.integers(1, 5)), size, size, int(rng.integers(1, 5)))
        data = random_data(rng, shape)
        uniforms = rng.random(uniforms_shape(spec, shape), dtype=np.float32)
        expected = apply(spec, data, uniforms)
        if not expected.mask.any():  # 0 / 0 there; zeros here
            comparison.skipped += 1
            continue
        given_uniforms(monkeypatch, drop_block_module, uniforms)
        found = layer(data, training=True).numpy()
        comparison.add(expected.output, expected.mask, found)
    comparison.finish()


def test_drop_path(monkeypatch):
    rng = np.random.default_rng(61)
    comparison = Comparison("keras-cv DropPath")
    for _ in range(CASES):
        rate = random_rate(rng)
        layer = keras_cv.layers.DropPath(rate)
        spec = specs.DropPath.from_config(layer.get_config())
        shape = tuple(int(size) for size in rng.integers(1, 9, rng.integers(2, 6)))
        data = random_data(rng, shape)
        uniforms = rng.random(uniforms_shape(spec, shape), dtype=np.float32)
        given_uniforms(monkeypatch, drop_path_module, uniforms)
        found = layer(data, training=True).numpy()
        expected = apply(spec, data, uniforms)
        comparison.add(expected.output, expected.mask, found)
    comparison.finish()
