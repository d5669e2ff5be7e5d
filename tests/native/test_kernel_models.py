"""The sample models with nodes inserted, run with the library at every optimisation level."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from kernel_sessions import kernel_session, without_functions
from one_node import LEVELS, MODELS, random_feeds, run, session

import onnx_structdrop as sd

NAMES = sorted(path.name for path in MODELS.glob("*.onnx"))
SPECS = {
    "resnet1d": (sd.DropBlock1D(0.2, 3, seed=1), sd.SpatialDropout1D(0.2, seed=1)),
    "resnet3d": (sd.DropBlock3D(0.2, 3, seed=1), sd.SpatialDropout3D(0.2, seed=1)),
    "": (
        sd.DropBlock2D(0.2, 3, seed=1),
        sd.SpatialDropout2D(0.2, seed=1),
        sd.DropPath(0.2, seed=1),
    ),
}


def specs_of(name):
    return next(specs for start, specs in SPECS.items() if name.startswith(start))


CASES = [(name, index) for name in NAMES for index in range(len(specs_of(name)))]


@functools.cache
def prepared(name):
    """Return a model, inputs for it, and its outputs without dropout."""
    model = onnx.load(MODELS / name)
    feeds = random_feeds(model)
    return model, feeds, run(session(model), feeds)


def inserted(name, index, **options):
    model, feeds, expected = prepared(name)
    spec = specs_of(name)[index]
    sites = [site for site in sd.find_sites(model) if site.kind in ("activation", "join")]
    return sd.insert(model, spec, sites, **options), feeds, expected


@pytest.mark.parametrize(("name", "index"), CASES, ids=str)
def test_training_mode_at_every_level(name, index):
    """Runs differ, a new session replays them, and at no level is a function run instead."""
    model, feeds, clean = inserted(name, index)
    bare = without_functions(model).SerializeToString()
    serialised = model.SerializeToString()
    for level in LEVELS:
        runner = kernel_session(serialised, level)
        # A session of the file without functions can but run the kernels.
        replay = kernel_session(bare, level)
        runs = []
        for _ in range(3):
            results = run(runner, feeds)
            for ours, theirs, expected in zip(results, run(replay, feeds), clean, strict=True):
                assert ours.dtype == expected.dtype
                assert ours.shape == expected.shape
                assert np.isfinite(ours).all()
                assert ours.tobytes() == theirs.tobytes()
            runs.append(b"".join(result.tobytes() for result in results))
        assert len(set(runs)) == 3


@pytest.mark.parametrize("name", NAMES)
def test_levels_draw_the_same_masks(name):
    """Outputs differ by the rounding of optimised convolutions alone."""
    model, feeds, _ = inserted(name, 0)
    results = [run(kernel_session(model, level), feeds) for level in LEVELS]
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_allclose(second, first, rtol=1e-3, atol=1e-3 * np.abs(first).max())


@pytest.mark.parametrize(("name", "index"), CASES, ids=str)
def test_inference_mode_is_the_clean_model(name, index):
    """The nodes that are left pass data on, and keep no optimisation from giving its results."""
    model, feeds, clean = inserted(name, index, training_mode=False)
    results = run(kernel_session(model), feeds)
    for ours, expected in zip(results, clean, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_a_ratio_that_a_schedule_drives(name):
    model, feeds, clean = inserted(name, 0, ratio_input="rate")
    runner = kernel_session(model)
    nothing = run(runner, {**feeds, "rate": np.array(0, np.float32)})
    for ours, expected in zip(nothing, clean, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    some = run(runner, {**feeds, "rate": np.array(0.3, np.float32)})
    assert any(a.tobytes() != b.tobytes() for a, b in zip(some, nothing, strict=True))


def test_models_are_there():
    assert len(NAMES) >= 10
