"""Pictures: what is drawn where, and that it can be read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from legible import assert_legible, words
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex

import onnx_structdrop as sd
from onnx_structdrop.plot import (
    capture,
    expected_rate,
    plot_masks,
    plot_sites,
    sample_inputs,
    sample_maps,
    save_figure,
)
from onnx_structdrop.plot.palette import DROPPED, KINDS

MODELS = Path(__file__).parent.parent / "models"
FILES = sorted(MODELS.glob("*.onnx"))
VOLUME = MODELS / "resnet3d_dynamo.onnx"


def dropped(spec, shape, seed=0):
    generator = np.random.default_rng(seed)
    data = generator.standard_normal(shape).astype(np.float32)
    uniforms = generator.random(sd.reference.uniforms_shape(spec, shape))
    return data, sd.reference.apply(spec, data, uniforms)


# Masks


@pytest.mark.parametrize(
    ("spec", "shape", "labels"),
    [
        (sd.DropBlock2D(0.2, 3), (2, 16, 14, 14), ["channel 0", "channel 15"]),
        (sd.DropBlock2D(0.2, 7), (1, 4, 7, 7), ["channel 0", "channel 3"]),
        (sd.DropBlock2D(0.2, (3, 9)), (2, 3, 8, 64), ["channel 2"]),
        (sd.SpatialDropout2D(0.5), (2, 5, 6, 6), ["channel 4"]),
        (sd.DropBlock1D(0.2, 5), (2, 12, 64), ["channel 0", "channel 11"]),
        (sd.DropBlock3D(0.2, 2), (2, 4, 6, 8, 8), ["channel 0 · slice 0", "channel 3 · slice 5"]),
        (sd.DropBlock2D(0.2, 3), (1, 1, 9, 9), []),
        (sd.DropPath(0.5), (6, 3, 5, 5), ["sample 0", "sample 5"]),
        (sd.Dropout(0.5), (8, 32), []),
        (sd.Dropout(1.0), (1, 3, 4, 4), ["channel 0"]),
        (sd.Dropout(0.0), (1, 3, 4, 4), ["channel 0"]),
    ],
    ids=str,
)
def test_masks_of_every_rank(spec, shape, labels):
    data, result = dropped(spec, shape)
    expected = spec.realised_rate(shape)
    figure = plot_masks(
        data, result.mask, result.output, title="a title", nominal=spec.rate, expected=expected
    )
    assert_legible(figure)
    found = words(figure)
    assert "a title" in found
    assert set(labels) <= set(found)
    realised = 1 - np.broadcast_to(result.mask, shape).mean()
    rates = next(text for text in found if text.startswith("ratio "))
    assert f"ratio {spec.rate:.1%}" in rates
    assert f"expected {expected:.1%}" in rates
    assert f"measured {realised:.1%}" in rates


def test_exactly_the_dropped_cells_are_filled():
    data, result = dropped(sd.DropBlock2D(0.3, 3), (3, 8, 12, 12))
    figure = plot_masks(data, result.mask, result.output, sample=1, maps=8)
    lower = [axes for axes in figure.axes if len(axes.images) == 2]
    assert len(lower) == 8
    for channel, axes in enumerate(lower):
        overlay = np.asarray(axes.images[1].get_array())
        np.testing.assert_array_equal(overlay[..., 3] > 0, ~result.mask[1, channel])
        colours = {to_hex(cell) for cell in overlay[overlay[..., 3] > 0]}
        assert colours <= {DROPPED.lower()}
        shown = np.asarray(axes.images[0].get_array())
        np.testing.assert_array_equal(shown, result.output[1, channel])


def test_outlines_follow_the_edges_of_cells():
    mask = np.ones((1, 1, 5, 6), bool)
    mask[0, 0, 1:3, 2:5] = False
    figure = plot_masks(np.ones(mask.shape), mask)
    for axes in figure.axes[:2]:
        (lines,) = (item for item in axes.collections if isinstance(item, LineCollection))
        segments = np.array(lines.get_segments())
        assert len(segments) == 2 * (2 + 3)
        low, high = segments.min(axis=(0, 1)), segments.max(axis=(0, 1))
        assert (low.tolist(), high.tolist()) == ([1.5, 0.5], [4.5, 2.5])


def test_channels_last_and_shared_masks():
    data, result = dropped(sd.DropBlock2D(0.3, 3, data_format="channels_last"), (1, 8, 9, 4))
    figure = plot_masks(data, result.mask, result.output, channel_axis=-1)
    assert figure.axes[0].images[0].get_array().shape == (8, 9)
    data, result = dropped(sd.DropBlock2D(0.3, 3, shared_axes=(0, 1)), (2, 4, 8, 8))
    assert result.mask.shape == (1, 1, 8, 8)
    figure = plot_masks(data, result.mask, result.output)
    losses = [text for text in words(figure) if text.endswith("% dropped")]
    assert len(losses) == 4
    assert len(set(losses)) == 1


def test_half_of_the_maps_have_losses_where_there_are_so_many():
    mask = np.ones((1, 100, 1, 1), bool)
    mask[0, 40:45] = False
    figure = plot_masks(np.zeros((1, 100, 4, 4)), mask, maps=6)
    labels = [text for text in words(figure) if text.startswith("channel ")]
    assert len(labels) == 6
    assert {"channel 0", "channel 99", "channel 40", "channel 44"} <= set(labels)
    assert words(figure).count("100% dropped") == 3


def test_values_that_are_not_finite_are_drawn():
    data = np.full((1, 2, 4, 4), np.nan)
    data[0, 1] = np.inf
    save = plot_masks(data, np.ones((1, 2, 4, 4), bool))
    save.canvas.draw()


@pytest.mark.parametrize(
    ("data", "mask", "options", "message"),
    [
        ((2, 3, 4, 4), (2, 3, 5, 4), {}, "does not broadcast"),
        ((2, 3, 4, 4), (2, 3, 1, 1), {"sample": 2}, "samples 0 to 1"),
        ((2, 3, 4, 4), (2, 3, 1, 1), {"maps": 0}, "at least one"),
        ((2, 3, 4, 4), (2, 3, 1, 1), {"channel_axis": 4}, "channel axis 4"),
        ((2, 3, 4, 4), (2, 3, 1, 1), {"output": np.zeros(3)}, "output has shape"),
        ((5,), (5,), {}, "channel axis"),
        ((0, 3, 4, 4), (1, 3, 4, 4), {}, "empty"),
    ],
)
def test_arrays_that_do_not_fit(data, mask, options, message):
    with pytest.raises(sd.ArgumentError, match=message):
        plot_masks(np.zeros(data), np.ones(mask, bool), **options)


# Sites


def markers(figure):
    """Return the facecolour of every site, by position; the legend is in the lowest line."""
    found = {}
    for item in figure.axes[0].collections:
        if isinstance(item, PathCollection):
            (place,) = item.get_offsets()
            if place[1] > 0.3:
                found[tuple(place)] = to_hex(item.get_facecolor()[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_sample_model_is_drawn(path):
    model = sd.load(path)
    sites = sd.find_sites(model)
    figure = plot_sites(model, title=path.name)
    assert_legible(figure)
    assert len(markers(figure)) == len(sites)
    assert figure.get_size_inches()[0] < 16
    assert {f"stage {site.stage}" for site in sites if site.stage} <= set(words(figure))


def test_chosen_sites_are_filled_and_counted():
    sites = sd.find_sites(sd.load(VOLUME))
    chosen = [site for site in sites if site.kind == "join"]
    figure = plot_sites(sites, chosen=[chosen[0], chosen[1].value])
    colours = list(markers(figure).values())
    assert colours.count(KINDS["join"].colour.lower()) == 2
    assert colours.count("#ffffff") == len(sites) - 2
    assert f"{len(sites)} sites for structured dropout, 2 chosen (filled)" in words(figure)
    assert f"join (2 of {len(chosen)})" in words(figure)


def test_sites_that_hold_dropout_are_the_chosen_ones_by_default():
    model = sd.load(VOLUME)
    chosen = [site for site in sd.find_sites(model) if site.kind == "join"]
    figure = plot_sites(sd.insert(model, sd.SpatialDropout3D(0.1), chosen))
    filled = [colour for colour in markers(figure).values() if colour != "#ffffff"]
    assert filled == [KINDS["join"].colour.lower()] * len(chosen)
    assert all(colour != "#ffffff" for colour in markers(plot_sites(model)).values())


def test_heights_follow_the_resolution_down_and_up():
    figure = plot_sites(sd.load(MODELS / "unet_dynamo.onnx"))
    stages = [text for text in words(figure) if text.startswith("stage ")]
    assert stages == [f"stage {number}" for number in (1, 2, 3, 4, 3, 2, 1)]
    boxes = [patch.get_height() for patch in figure.axes[0].patches if patch.get_linewidth() == 0.8]
    heights = list(dict.fromkeys(np.round(boxes, 6)))
    assert len(boxes) == 18
    assert heights == sorted(heights, reverse=True)
    steps = np.diff(heights)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)


def test_deep_models_wrap_into_rows_and_drop_names():
    (site, *_) = sd.find_sites(sd.load(VOLUME))
    fields = {**site.to_dict(), "shape": (1, 8, 4, 4, 4), "kind": "activation"}
    sites = [
        sd.Site(**{**fields, "value": f"very/long/{stage}/{block}/{index}", "stage": stage,
                   "block": block, "stride": 2**stage})
        for stage in range(1, 5) for block in range(12) for index in range(6)
    ]  # fmt: skip
    figure = plot_sites(sites)
    assert_legible(figure)
    assert len(markers(figure)) == len(sites)
    assert "stage 2 (continued)" in words(figure)
    assert len({round(up, 3) for _, up in markers(figure)}) == 8
    assert not any("long" in text for text in words(figure))
    named = plot_sites(sites[:8], names=True)
    assert {"0/0", "0/5", "1/0", "1/1"} <= set(words(named))


def test_sites_that_cannot_be_drawn():
    with pytest.raises(sd.SiteError, match="no site"):
        plot_sites([])
    sites = sd.find_sites(sd.load(VOLUME))
    with pytest.raises(sd.SiteError, match="'nowhere'"):
        plot_sites(sites, chosen=["nowhere"])


# Files


def test_figures_are_reproducible_and_unknown_to_pyplot(tmp_path):
    for ending in ("png", "svg", "pdf"):
        for name in ("a", "b"):
            figure = plot_sites(sd.load(VOLUME))
            save_figure(figure, tmp_path / f"{name}.{ending}")
        first, second = (tmp_path / f"{name}.{ending}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_figures_that_cannot_be_saved(tmp_path):
    figure = plot_sites(sd.load(VOLUME))
    with pytest.raises(sd.ArgumentError, match=r"\.png, \.svg, \.pdf"):
        save_figure(figure, tmp_path / "a.bmp")
    with pytest.raises(sd.OutputError, match="cannot write"):
        save_figure(figure, tmp_path / "none" / "a.png")
    assert list(tmp_path.iterdir()) == []


# Capture


def test_capture_shows_what_each_node_does():
    model = sd.load(VOLUME)
    spec = sd.DropBlock3D(0.3, 2, seed=1)
    joins = [site for site in sd.find_sites(model) if site.kind == "join"]
    dropping = sd.insert(model, spec, joins)
    before = ir.to_proto(dropping).SerializeToString(deterministic=True)
    found = capture(dropping, sample_inputs(dropping, shape=(8, 1, 16, 32, 32)))
    assert ir.to_proto(dropping).SerializeToString(deterministic=True) == before
    assert [seen.node.data for seen in found] == [site.value for site in joins]
    for seen in found:
        kept = np.broadcast_to(seen.mask, seen.data.shape)
        scale = kept.size / kept.sum()
        np.testing.assert_allclose(
            seen.output, np.where(kept, seen.data * scale, 0), rtol=1e-6, atol=0
        )
        assert 0 < seen.realised < 1
        assert seen.ratio == pytest.approx(0.3)
        expected = spec.realised_rate(seen.data.shape)
        assert expected_rate(seen.node, seen.data.shape) == pytest.approx(expected, rel=1e-6)
        assert expected_rate(seen.node) == pytest.approx(expected, rel=1e-6)


def test_expected_rate_is_unknown_where_it_depends_on_the_run():
    model = sd.load(MODELS / "unet_torchscript.onnx")
    block = sd.inspect(sd.insert(model, sd.DropBlock2D(0.2, 3))).own[0]
    assert expected_rate(block) is None
    assert expected_rate(block, (1, 8, 9, 9)) == pytest.approx(
        sd.DropBlock2D(0.2, 3).realised_rate((1, 8, 9, 9)), rel=1e-6
    )
    spatial = sd.inspect(sd.insert(model, sd.SpatialDropout2D(0.2))).own[0]
    assert expected_rate(spatial) == pytest.approx(0.2)
    driven = sd.inspect(sd.insert(model, sd.SpatialDropout2D(0.2), ratio_input="rate")).own[0]
    assert expected_rate(driven) is None


def test_made_up_inputs():
    model = sd.insert(sd.load(VOLUME), sd.DropPath(0.2), ratio_input="rate")
    inputs = sample_inputs(model, scalar=0.25)
    assert {name: array.shape for name, array in inputs.items()} == {
        "input": (4, 1, 16, 32, 32),
        "rate": (),
    }
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.float32)}
    assert inputs["rate"] == 0.25
    with pytest.raises(sd.ArgumentError, match=r"\?,1,16,32,32, 1,1,16,32,33 does not fit"):
        sample_inputs(model, shape=(1, 1, 16, 32, 33))
    maps = sample_maps((2, 3, 32, 32), np.random.default_rng(0))
    assert (maps.mean(), maps.std()) == (pytest.approx(0), pytest.approx(1))
    neighbours = np.corrcoef(maps[..., 1:].ravel(), maps[..., :-1].ravel())[0, 1]
    assert neighbours > 0.5
