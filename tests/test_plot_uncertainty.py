"""Pictures of uncertainty show the numbers that they are given, and can be read."""

from __future__ import annotations

import numpy as np
import pytest
from legible import assert_legible, words

import onnx_structdrop as sd
from onnx_structdrop import mc, plot

RNG = np.random.default_rng(3)
PROBABILITIES = mc.softmax(RNG.standard_normal((300, 6)) * 3)
LABELS = np.array([RNG.choice(6, p=row) for row in PROBABILITIES])
WRONG = PROBABILITIES.argmax(1) != LABELS
ENTROPY = -(PROBABILITIES * np.log(PROBABILITIES)).sum(1)


@pytest.mark.parametrize("title", ["", "A small network"])
def test_reliability(title):
    found = mc.calibration(PROBABILITIES, LABELS, bins=10)
    figure = plot.plot_reliability(found, title)
    axes, counts = figure.axes
    full = found.count > 0
    assert len(axes.patches) == full.sum()
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], found.accuracy[full])
    shares = [bar.get_height() for bar in counts.patches]
    np.testing.assert_allclose(shares, 100 * found.count / 300)
    (gaps,) = axes.collections
    np.testing.assert_allclose([line[1][1] for line in gaps.get_segments()], found.confidence[full])
    assert f"ECE {100 * found.ece:.1f} %\nMCE {100 * found.mce:.1f} %" in words(figure)
    assert (title in words(figure)) == bool(title)
    assert_legible(figure)


def test_histogram():
    groups = {"correct": ENTROPY[~WRONG], "wrong": [*ENTROPY[WRONG], np.nan]}
    figure = plot.plot_uncertainty_histogram(groups, "entropy, nats", "Who is told apart", bins=20)
    (axes,) = figure.axes
    outlines = [patch for patch in axes.patches if not patch.get_fill()]
    assert [patch.get_label() for patch in outlines] == [
        f"correct ({(~WRONG).sum()})",
        f"wrong ({WRONG.sum()}), 1 not finite",
    ]
    for patch in outlines:
        assert patch.get_data().values.sum() == pytest.approx(100)
        assert len(patch.get_data().values) == 20
    medians = [line.get_xdata()[0] for line in axes.lines]
    np.testing.assert_allclose(medians, [np.median(ENTROPY[~WRONG]), np.median(ENTROPY[WRONG])])
    assert_legible(figure)


def test_histogram_of_one_value():
    assert_legible(plot.plot_uncertainty_histogram({"all": np.zeros(5)}))


def test_risk_and_coverage():
    curves = {
        "entropy": mc.risk_coverage(ENTROPY, WRONG),
        "chance": mc.risk_coverage(RNG.random(300), WRONG),
        "many": mc.risk_coverage(RNG.random(5000), RNG.random(5000) < 0.2),
        "never wrong": mc.risk_coverage([0.0, 1.0], [0, 0]),
    }
    figure = plot.plot_risk_coverage(curves, "Keeping the least uncertain")
    (axes,) = figure.axes
    for line, (name, curve) in zip(axes.lines, curves.items(), strict=True):
        assert line.get_label() == f"{name}\nAURC {100 * curve.area:.2f} %"
        assert line.get_ydata()[-1] == pytest.approx(100 * curve.risk[-1])
        assert len(line.get_ydata()) == min(len(curve.risk), 2000)
    assert_legible(figure)


SHAPES = {
    "channels first": (2, 3, 12, 16),
    "channels last": (2, 12, 16, 3),
    "one channel": (2, 1, 12, 16),
    "no channels": (2, 12, 16),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_map(shape):
    images = RNG.standard_normal(shape)
    uncertainty = RNG.random((2, 6, 8))
    uncertainty[0, 0, 0] = np.nan
    figure = plot.plot_uncertainty_map(images, uncertainty, title="Where it is")
    first, heat = figure.axes[0].images[0], figure.axes[1].images[1]
    assert first.get_array().shape[:2] == (12, 16)
    np.testing.assert_array_equal(np.ma.filled(heat.get_array(), np.nan), uncertainty[0])
    assert heat.get_extent() == [0, 16, 12, 0]
    assert heat.get_clim() == (0, np.nanmax(uncertainty))
    assert {"image 0", "image 1", "image", "uncertainty"} <= set(words(figure))
    assert_legible(figure)


def test_map_with_classes():
    classes = RNG.integers(0, 9, (3, 12, 16))
    classes[0, 0, 0] = -1
    figure = plot.plot_uncertainty_map(
        RNG.random((3, 12, 16)), RNG.random((3, 1, 12, 16)), classes=classes,
        titles=["a", "b", "a longer name"],
    )  # fmt: skip
    assert len(figure.axes) == 10
    drawn = figure.axes[1].images[0].get_array()
    assert drawn.mask.sum() == 1
    np.testing.assert_array_equal(drawn.data, classes[0])
    assert {"top class", "a longer name"} <= set(words(figure))
    assert_legible(figure)


def test_map_without_uncertainty():
    assert_legible(plot.plot_uncertainty_map(np.zeros((1, 4, 4)), np.zeros((1, 4, 4))))
    assert_legible(plot.plot_uncertainty_map(np.zeros((1, 4, 4)), np.full((1, 4, 4), np.nan)))


def test_map_of_a_result():
    """What a dense network's statistics hold fits without further ado."""
    kind = mc.describe("y", RNG.standard_normal((2, 3, 8, 8)))
    sums = mc.Accumulator(kind, 2, 4)
    sums.add(RNG.standard_normal((4, 2, 3, 8, 8)))
    found = sums.finish()
    figure = plot.plot_uncertainty_map(
        RNG.random((2, 1, 8, 8)), found.mutual_information, classes=found.top_class
    )
    assert len(figure.axes) == 7


IMAGES = np.zeros((2, 1, 8, 8))
MAPS = np.zeros((2, 8, 8))
BAD = {
    "no maps": (lambda: plot.plot_uncertainty_map(IMAGES, np.zeros(2)), "draw a histogram"),
    "too few maps": (lambda: plot.plot_uncertainty_map(IMAGES, MAPS[:1]), "each of 2 images"),
    "channels": (lambda: plot.plot_uncertainty_map(np.zeros((2, 5, 8, 8)), MAPS), "one or three"),
    "no images": (lambda: plot.plot_uncertainty_map(IMAGES[:0], MAPS[:0]), "0 images to draw"),
    "too many": (lambda: plot.plot_uncertainty_map(np.zeros((13, 8, 8)), MAPS), "1 to 12"),
    "titles": (lambda: plot.plot_uncertainty_map(IMAGES, MAPS, titles=["a"]), "1 titles for 2"),
    "NaN": (lambda: plot.plot_uncertainty_map(IMAGES * np.nan, MAPS), "not finite"),
    "no groups": (lambda: plot.plot_uncertainty_histogram({}), "0 groups"),
    "an empty group": (lambda: plot.plot_uncertainty_histogram({"a": [np.nan]}), "'a' has no"),
    "no bars": (lambda: plot.plot_uncertainty_histogram({"a": [1]}, bins=0), "bins is 0"),
    "no curves": (lambda: plot.plot_risk_coverage({}), "0 curves"),
}


@pytest.mark.parametrize(("draw", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_drawn(draw, message):
    with pytest.raises(sd.ArgumentError, match=message):
        draw()


@pytest.mark.parametrize("ending", plot.FIGURE_FORMATS)
def test_files(tmp_path, ending):
    path = tmp_path / f"picture.{ending}"
    plot.save_figure(plot.plot_uncertainty_map(IMAGES, MAPS), path)
    assert path.stat().st_size > 1000
