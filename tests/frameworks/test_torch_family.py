"""The reference against torch, keras, torchvision and timm, fed the same uniforms."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "torch"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the frameworks warn about on import is not ours
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    # torchvision wheels are built against CUDA torch; beside CPU torch the import stops at these.
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    import keras
    import timm.layers
    import torchvision.ops

from comparison import CASES, Comparison, random_data, random_rate

from onnx_structdrop import specs
from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.reference import apply, uniforms_shape


class GivenUniforms(TorchDispatchMode):
    """Let every Bernoulli draw of torch come from given uniforms.

    `draws_kept` tells what a 1 means: kept, as in dropout, or a seed that drops, as in DropBlock.
    """

    def __init__(self, uniforms, *, draws_kept):
        super().__init__()
        self.uniforms = torch.from_numpy(uniforms.copy())
        self.draws_kept = draws_kept
        self.draws = 0

    def _draw(self, shape, probability):
        self.draws += 1
        assert tuple(shape) == tuple(self.uniforms.shape)
        # Kept iff u >= 1 - P(kept); dropped iff u < P(dropped).
        if self.draws_kept:
            return self.uniforms >= 1 - probability
        return self.uniforms < probability

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten.bernoulli_.float:
            probability = args[1] if len(args) > 1 else 0.5
            return args[0].copy_(self._draw(args[0].shape, probability))
        if func is torch.ops.aten.bernoulli.default:
            return self._draw(args[0].shape, args[0].double()).to(args[0].dtype)
        assert "bernoulli" not in str(func)
        assert "rand" not in str(func)
        return func(*args, **kwargs)


def run(layer, data, uniforms, *, draws_kept, draws=1, **call):
    mode = GivenUniforms(uniforms, draws_kept=draws_kept)
    with torch.no_grad(), mode:
        found = layer(torch.from_numpy(data.copy()), **call)
    assert mode.draws == draws
    return found.numpy()


def random_map(rng, spatial_rank, low=1, high=14):
    return tuple(int(size) for size in rng.integers(low, high, spatial_rank))


DIMENSIONS = pytest.mark.parametrize("spatial_rank", [1, 2, 3])


@DIMENSIONS
def test_torch_dropout(spatial_rank):
    rng = np.random.default_rng(spatial_rank)
    name = f"Dropout{spatial_rank}d"
    comparison = Comparison(f"torch {name}")
    spec_class = getattr(specs, f"SpatialDropout{spatial_rank}D")
    for case in range(CASES):
        rate = 1.0 if case == 0 else random_rate(rng)
        shape = (*map(int, rng.integers(1, 6, 2)), *random_map(rng, spatial_rank, high=6))
        spec = spec_class(rate)
        data, uniforms = random_data(rng, shape), rng.random(uniforms_shape(spec, shape))
        layer = getattr(torch.nn, name)(rate).train()
        found = run(layer, data, uniforms, draws_kept=True, draws=int(rate < 1))
        expected = apply(spec, data, uniforms)
        comparison.add(expected.output, expected.mask, found)
    comparison.finish()


@DIMENSIONS
def test_keras_spatial_dropout(spatial_rank):
    rng = np.random.default_rng(10 + spatial_rank)
    name = f"SpatialDropout{spatial_rank}D"
    comparison = Comparison(f"keras {name}")
    for case in range(CASES):
        rate = 1.0 if case == 0 else random_rate(rng)
        shape = (*map(int, rng.integers(1, 6, 2)), *random_map(rng, spatial_rank, high=6))
        arguments = {"rate": rate}
        if spatial_rank > 1:
            arguments["data_format"] = rng.choice(["channels_first", "channels_last", None])
        layer = getattr(keras.layers, name)(**arguments)
        spec = getattr(specs, name).keras(layer.get_config())
        assert spec == getattr(specs, name).keras(**arguments)
        assert spec == specs.spec_from_config(keras.saving.serialize_keras_object(layer))
        data, uniforms = random_data(rng, shape), rng.random(uniforms_shape(spec, shape))
        found = run(layer, data, uniforms, draws_kept=True, draws=int(rate < 1), training=True)
        expected = apply(spec, data, uniforms)
        comparison.add(expected.output, expected.mask, found)
    comparison.finish()


def random_noise_shape(rng, shape):
    if rng.random() < 0.1:
        return (None,) * len(shape)
    if rng.random() < 0.5:
        entries = [1, None, "size"]
        length = len(shape)
    else:  # keras gives None no meaning in a noise shape that is shorter than the rank
        entries = [1, "size"]
        length = int(rng.integers(0, len(shape) + 1))
    chosen = [entries[index] for index in rng.integers(0, len(entries), length)]
    own = shape[len(shape) - length :]
    return tuple(
        size if entry == "size" else entry for entry, size in zip(chosen, own, strict=True)
    )


def test_keras_dropout():
    rng = np.random.default_rng(20)
    comparison = Comparison("keras Dropout(noise_shape)")
    for case in range(2 * CASES):
        rate = 1.0 if case == 0 else random_rate(rng)
        shape = tuple(int(size) for size in rng.integers(1, 6, rng.integers(1, 6)))
        layer = keras.layers.Dropout(rate, noise_shape=random_noise_shape(rng, shape))
        spec = specs.Dropout.keras(layer.get_config())
        data, uniforms = random_data(rng, shape), rng.random(uniforms_shape(spec, shape))
        # keras draws a shorter noise shape without the leading axes of size 1.
        drawn = uniforms.reshape(uniforms.shape[len(shape) - len(spec.noise_shape) :])
        found = run(layer, data, drawn, draws_kept=True, draws=int(rate < 1), training=True)
        expected = apply(spec, data, uniforms)
        comparison.add(expected.output, expected.mask, found)
    comparison.finish()


def test_keras_dropout_refuses_the_same():
    data = np.ones((2, 3, 4), np.float32)
    for noise_shape in [(None, 1, 5), (3,), (2, 3), (2, 3, 4, 1), (1, 2, 3, 4), (None,), (None, 1)]:
        layer = keras.layers.Dropout(0.5, noise_shape=noise_shape, seed=1)
        with pytest.raises(RuntimeError):
            layer(data, training=True)
        with pytest.raises(ArgumentError):
            specs.Dropout(0.5, noise_shape).check_shape(data.shape)
    for noise_shape in ["12", 3, (0, 1), (-1,), (1.0,), ("1",)]:
        with pytest.raises(ValueError, match="noise_shape"):
            keras.layers.Dropout(0.5, noise_shape=noise_shape)
        with pytest.raises((ArgumentError, TypeError), match="noise_shape"):
            specs.Dropout(0.5, noise_shape)
    for rate in [-0.1, 1.1, float("nan")]:
        with pytest.raises(ValueError, match="rate"):
            keras.layers.SpatialDropout2D(rate)
        with pytest.raises(ValueError, match="rate"):
            specs.SpatialDropout2D(rate)


@pytest.mark.parametrize("spatial_rank", [2, 3])
def test_torchvision_drop_block(spatial_rank):
    rng = np.random.default_rng(30 + spatial_rank)
    name = f"DropBlock{spatial_rank}d"
    comparison = Comparison(f"torchvision {name}")
    for _ in range(CASES):
        rate = random_rate(rng)
        sizes = random_map(rng, spatial_rank, high=16 if spatial_rank == 2 else 9)
        block = 2 * int(rng.integers(0, 5)) + 1
        if block > min(sizes):  # it clips to the shorter side, and an even block is an error
            block = min(sizes) - (min(sizes) + 1) % 2
        shape = (*map(int, rng.integers(1, 5, 2)), *sizes)
        spec = getattr(specs, f"DropBlock{spatial_rank}D").torchvision(rate, block)
        data, uniforms = random_data(rng, shape), rng.random(uniforms_shape(spec, shape))
        # Its noise covers only the positions where the block fits.
        crop = tuple(slice(block // 2, size - (block - 1) // 2) for size in sizes)
        layer = getattr(torchvision.ops, name)(rate, block).train()
        found = run(layer, data, uniforms[(..., *crop)], draws_kept=False)
        expected = apply(spec, data, uniforms)
        comparison.add(expected.output, expected.mask, found)
    comparison.finish()


@pytest.mark.parametrize("couple_channels", [True, False])
def test_timm_drop_block(couple_channels):
    rng = np.random.default_rng(40 + couple_channels)
    comparison = Comparison(f"timm DropBlock2d(couple_channels={couple_channels})")
    for _ in range(CASES):
        shape = (*map(int, rng.integers(1, 5, 2)), *random_map(rng, 2, high=16))
        arguments = {
            "drop_prob": random_rate(rng),
            "block_size": int(rng.integers(1, 18)),
            "gamma_scale": float(rng.choice([1.0, 0.25, rng.uniform(0, 1)])),
            "couple_channels": couple_channels,
            "scale_by_keep": bool(rng.random() < 0.8),
        }
        spec = specs.DropBlock2D.timm(**arguments)
        data, uniforms = random_data(rng, shape), rng.random(uniforms_shape(spec, shape))
        layer = timm.layers.DropBlock2d(**arguments).train()
        found = run(layer, data, uniforms, draws_kept=False)
        expected = apply(spec, data, uniforms)
        comparison.add(expected.output, expected.mask, found)
    comparison.finish()


def test_drop_path():
    rng = np.random.default_rng(50)
    with_timm = Comparison("timm DropPath")
    with_torchvision = Comparison("torchvision StochasticDepth(row)")
    for case in range(CASES):
        rate = 1.0 if case == 0 else random_rate(rng)
        shape = tuple(int(size) for size in rng.integers(1, 9, rng.integers(1, 6)))
        scaled = bool(rng.random() < 0.8)
        data = random_data(rng, shape)
        uniforms = rng.random(uniforms_shape(specs.DropPath(rate), shape))

        expected = apply(specs.DropPath(rate, scale_by_keep=scaled), data, uniforms)
        layer = timm.layers.DropPath(rate, scale_by_keep=scaled).train()
        found = run(layer, data, uniforms, draws_kept=True)
        with_timm.add(expected.output, expected.mask, found)

        expected = apply(specs.DropPath(rate), data, uniforms)
        layer = torchvision.ops.StochasticDepth(rate, "row").train()
        found = run(layer, data, uniforms, draws_kept=True)
        with_torchvision.add(expected.output, expected.mask, found)
    with_timm.finish()
    with_torchvision.finish()
