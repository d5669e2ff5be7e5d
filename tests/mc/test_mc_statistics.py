"""Statistics of samples are those of the definitions, however the samples arrive."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampled import IMAGES, KINDS, SAMPLES, accumulate, by_definition, outputs

import onnx_structdrop as sd
from onnx_structdrop.mc import accumulator as module
from onnx_structdrop.mc.accumulator import Accumulator
from onnx_structdrop.mc.outputs import OutputKind
from onnx_structdrop.mc.statistics import FIELDS, Statistics

LOGITS = KINDS["logits"][0]


@pytest.mark.parametrize("name", KINDS)
def test_by_definition(name):
    kind, dims = KINDS[name]
    block = outputs(kind, dims)
    found = accumulate(kind, block)
    expected = by_definition(kind, block)
    for field, array in expected.items():
        np.testing.assert_allclose(getattr(found, field), array, rtol=1e-9, atol=1e-12)
        assert getattr(found, field).shape == array.shape
    assert set(found.arrays()) == {*expected, "nonfinite"}
    assert found.count == SAMPLES
    assert len(found) == IMAGES


@given(
    name=st.sampled_from(list(KINDS)),
    seed=st.integers(0, 1000),
    samples=st.sets(st.integers(1, SAMPLES - 1)),
    images=st.sets(st.integers(1, IMAGES - 1)),
    piece=st.sampled_from([1, 40, 1 << 16]),
)
def test_blocks_change_no_bit(name, seed, samples, images, piece):
    kind, dims = KINDS[name]
    block = outputs(kind, dims, seed)
    whole = accumulate(kind, block, quantiles=(0.1, 0.5), keep_samples=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", piece)
        parts = accumulate(kind, block, samples, images, quantiles=(0.1, 0.5), keep_samples=True)
    assert set(whole.arrays()) <= set(FIELDS)
    for field, array in whole.arrays().items():
        assert array.tobytes() == parts.arrays()[field].tobytes(), field


@pytest.mark.parametrize("name", ["many logits", "map of logits", "map of logits, channels last"])
def test_neighbours_change_no_bit(name):
    kind, dims = KINDS[name]
    block = outputs(kind, dims, images=64)
    whole = accumulate(kind, block)
    for at in (0, 17, 63):
        alone = accumulate(kind, block[:, at : at + 1])
        for field, array in whole.arrays().items():
            assert array[at].tobytes() == alone.arrays()[field][0].tobytes(), field


def test_memory_layout_changes_no_bit():
    kind, dims = KINDS["map of logits"]
    block = outputs(kind, dims)
    turned = np.ascontiguousarray(np.moveaxis(block, 2, -1))
    whole, other = accumulate(kind, block), accumulate(kind, np.moveaxis(turned, -1, 2))
    for field, array in whole.arrays().items():
        assert array.tobytes() == other.arrays()[field].tobytes(), field


@given(
    scores=st.lists(
        st.lists(st.floats(-60, 60, width=32), min_size=3, max_size=3), min_size=1, max_size=6
    )
)
def test_bounds(scores):
    block = np.array(scores, np.float32)[:, None]
    found = accumulate(LOGITS, block)
    assert np.all(found.expected_entropy >= 0)
    assert np.all(found.mutual_information >= 0)
    assert np.all(found.predictive_entropy <= np.log(3) * (1 + 1e-12))
    # Jensen's inequality, but for rounding.
    assert np.all(found.expected_entropy <= found.predictive_entropy + 1e-12)
    assert np.all((found.top_frequency >= 0) & (found.top_frequency <= 1))
    assert np.all(found.variation_ratio <= 1 - found.top_frequency)
    assert np.all(found.variation_ratio < 1 - 1 / 3 + 1e-12)
    np.testing.assert_allclose(found.mean.sum(1), 1, atol=1e-12)


def test_equal_samples_disagree_about_nothing():
    kind, dims = KINDS["logits"]
    one = outputs(kind, dims, samples=1)
    found = accumulate(kind, np.repeat(one, 30, axis=0))
    np.testing.assert_array_equal(found.variance, 0)
    np.testing.assert_array_equal(found.top_frequency, 1)
    np.testing.assert_array_equal(found.variation_ratio, 0)
    assert found.mutual_information.max() < 1e-14


def test_known_numbers():
    kind = OutputKind("y", "classification", "probabilities", 1)
    # Two certain samples that contradict each other: all of log 2 is disagreement.
    found = accumulate(kind, np.array([[[1.0, 0.0]], [[0.0, 1.0]]]))
    assert found.predictive_entropy == pytest.approx(np.log(2))
    assert found.expected_entropy == 0
    assert found.mutual_information == pytest.approx(np.log(2))
    assert found.variance == pytest.approx(0.5)
    assert found.top_class == 0
    assert found.top_frequency == 0.5
    # One sample that is undecided: nothing is.
    found = accumulate(kind, np.array([[[0.5, 0.5]], [[0.5, 0.5]]]))
    assert found.expected_entropy == pytest.approx(np.log(2))
    assert found.mutual_information == 0


def test_the_class_of_the_mean_need_not_be_the_one_most_samples_choose():
    kind = OutputKind("y", "classification", "probabilities", 1)
    found = accumulate(kind, np.array([[[0.45, 0.55]], [[0.45, 0.55]], [[1.0, 0.0]]]))
    assert found.top_class == 0
    assert found.top_frequency == pytest.approx(1 / 3)
    assert found.variation_ratio == pytest.approx(1 / 3)


def test_of_one_sample_no_variance():
    found = accumulate(LOGITS, outputs(*KINDS["logits"], samples=1))
    assert np.isnan(found.variance).all()
    assert np.isfinite(found.mean).all()
    np.testing.assert_array_equal(found.mutual_information, 0)


def test_large_scores_and_scores_of_minus_infinity():
    block = np.array([[[1e30, 0, -np.inf], [-1e30, -1e30, -np.inf]]], np.float32)
    found = accumulate(LOGITS, block)
    np.testing.assert_array_equal(found.mean, [[1, 0, 0], [0.5, 0.5, 0]])
    np.testing.assert_allclose(found.predictive_entropy, [0, np.log(2)])
    np.testing.assert_array_equal(found.nonfinite, 0)
    event = KINDS["event"][0]
    found = accumulate(event, np.array([[[np.inf], [-1e30], [0.0]]], np.float32))
    np.testing.assert_array_equal(found.mean[:, 0], [1, 0, 0.5])
    np.testing.assert_allclose(found.predictive_entropy[:, 0], [0, 0, np.log(2)])


def test_far_offsets_lose_no_variance():
    kind = KINDS["number"][0]
    block = np.array([[1e9 + one] for one in (4, 7, 13, 16)])
    assert accumulate(kind, block).variance == pytest.approx(30)


# The sigmoid of infinity is 1, and as a probability it is refused.
BROKEN = [(name, np.nan) for name in KINDS] + [
    (name, np.inf)
    for name, (kind, _) in KINDS.items()
    if not kind.events and kind.values != "probabilities"
]


@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_what_is_not_finite_is_counted_and_stays_where_it_is(name, value):
    kind, dims = KINDS[name]
    block = outputs(kind, dims)
    clean = accumulate(kind, block)
    place = (0,) * len(dims)
    block[(2, 3, *place)] = block[(5, 3, *place)] = value
    found = accumulate(kind, block)
    np.testing.assert_array_equal(found.nonfinite, [0, 0, 0, 2, 0])
    assert not np.isfinite(found.mean[(3, *place)])
    assert np.isnan(found.variance[(3, *place)])
    if kind.values is not None:
        assert (found.top_class == -1).sum() == 1
        for field in ("predictive_entropy", "mutual_information", "top_frequency"):
            assert np.isnan(getattr(found, field)).sum() == 1
    others = [0, 1, 2, 4]
    for field, array in clean.arrays().items():
        np.testing.assert_array_equal(getattr(found, field)[others], array[others])


@pytest.mark.parametrize("at", [0, SAMPLES - 1])
def test_an_infinity_is_lost_in_a_mean_wherever_it_comes(at):
    kind, dims = KINDS["numbers"]
    block = outputs(kind, dims)
    block[at, 1, 0, 0] = np.inf
    found = accumulate(kind, block, quantiles=(0.1, 0.9), keep_samples=True)
    assert np.isnan(found.mean[1, 0, 0])
    assert np.isnan(found.mean).sum() == 1
    assert found.samples[at, 1, 0, 0] == np.inf


def test_a_probability_that_is_no_number_takes_its_place_along():
    kind, dims = KINDS["map of probabilities"]
    block = outputs(kind, dims)
    block[2, 3, 0, 1, 1] = np.nan
    found = accumulate(kind, block)
    lost = np.zeros((IMAGES, 3, 4), bool)
    lost[3, 1, 1] = True
    for array in (found.mean, found.variance):
        np.testing.assert_array_equal(np.isnan(array), np.repeat(lost[:, None], 6, axis=1))


def test_no_classes():
    kind, _ = KINDS["logits"]
    with pytest.raises(sd.ArgumentError, match="have no classes on axis 1"):
        accumulate(kind, np.zeros((SAMPLES, IMAGES, 0), np.float32))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_element_types(dtype):
    kind, dims = KINDS["probabilities"]
    block = outputs(kind, dims, dtype=dtype)
    found = accumulate(kind, block, keep_samples=True)
    np.testing.assert_array_equal(found.samples, block.astype(found.samples.dtype))
    assert found.samples.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_allclose(found.mean, block.astype(np.float64).mean(0))


def test_quantiles_and_samples():
    kind, dims = KINDS["numbers"]
    block = outputs(kind, dims)
    found = accumulate(kind, block, quantiles=(0.05, 0.5), keep_samples=True)
    np.testing.assert_array_equal(found.samples, block)
    np.testing.assert_array_equal(found.quantiles[1], np.median(block.astype(float), 0))
    assert found.levels == (0.05, 0.5)
    lean = accumulate(kind, block, quantiles=(0.05,))
    assert lean.samples is None
    np.testing.assert_array_equal(lean.quantiles[0], found.quantiles[0])


def test_memory_does_not_grow_with_the_samples():
    made = Accumulator(LOGITS, 4, 1000)
    made.add(np.zeros((1, 4, 6), np.float32))
    before = sum(one.nbytes for one in vars(made).values() if isinstance(one, np.ndarray))
    made.add(np.zeros((999, 4, 6), np.float32))
    after = sum(one.nbytes for one in vars(made).values() if isinstance(one, np.ndarray))
    assert before == after
    assert made.finish().count == 1000


BLOCKS = {
    "too many images": (np.zeros((1, 3, 6), np.float32), 0, "images 0 to 2, but there are 2"),
    "images before the first": (np.zeros((1, 1, 6), np.float32), -1, "but there are 2"),
    "too many samples": (np.zeros((3, 1, 6), np.float32), 1, "image 1 got 4 samples, but 3 were"),
    "another shape": (np.zeros((1, 1, 7), np.float32), 0, "after rows of shape"),
    "integers": (np.zeros((1, 1, 6), np.int64), 0, "floating-point"),
    "no samples": (np.zeros(6, np.float32), 0, "of shape \\(samples, images"),
}


@pytest.mark.parametrize(("block", "first", "message"), BLOCKS.values(), ids=BLOCKS)
def test_blocks_that_do_not_fit(block, first, message):
    made = Accumulator(LOGITS, 2, 3)
    made.add(np.zeros((1, 2, 6), np.float32))
    with pytest.raises(sd.ArgumentError, match=message):
        made.add(block, first)


def test_missing_samples():
    made = Accumulator(LOGITS, 2, 3)
    with pytest.raises(sd.ArgumentError, match="image 0 has 0 samples of 3"):
        made.finish()
    made.add(np.zeros((3, 1, 6), np.float32))
    with pytest.raises(sd.ArgumentError, match="image 1 has 0 samples of 3"):
        made.finish()


@pytest.mark.parametrize("name", ["probabilities", "map of probabilities", "events"])
def test_what_turns_out_to_be_no_probabilities(name):
    kind, dims = KINDS[name]
    block = outputs(kind, dims)
    block[6, 3] = 1.5
    with pytest.raises(sd.ArgumentError, match="image 3 has values outside of 0 to 1"):
        accumulate(kind, block, (3,), (2,))


def test_probabilities_that_do_not_sum_to_one():
    kind, dims = KINDS["map of probabilities"]
    block = outputs(kind, dims)
    block[6, 3, :, 1, 2] = 0.3
    with pytest.raises(sd.ArgumentError, match="image 3 has values that do not sum to 1 on axis 1"):
        accumulate(kind, block)


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((0, 3), {}, sd.ArgumentError),
        ((2, 0), {}, sd.ArgumentError),
        ((2, True), {}, sd.ArgumentTypeError),
        ((2, 3.0), {}, sd.ArgumentTypeError),
        ((2, 3), {"quantiles": (1.2,)}, sd.ArgumentError),
        ((2, 3), {"quantiles": (np.nan,)}, sd.ArgumentError),
        ((2, 3), {"quantiles": "half"}, sd.ArgumentTypeError),
    ],
)
def test_arguments(arguments, options, error):
    with pytest.raises(error, match="allowed"):
        Accumulator(LOGITS, *arguments, **options)


@pytest.mark.parametrize("name", KINDS)
def test_concat(name):
    kind, dims = KINDS[name]
    block = outputs(kind, dims)
    options = {"quantiles": (0.5,), "keep_samples": True}
    parts = [accumulate(kind, block[:, :2], **options), accumulate(kind, block[:, 2:], **options)]
    joined, whole = Statistics.concat(parts), accumulate(kind, block, **options)
    assert joined.levels == whole.levels
    for field, array in whole.arrays().items():
        assert array.tobytes() == joined.arrays()[field].tobytes()


def test_concat_of_what_differs():
    kind, dims = KINDS["logits"]
    block = outputs(kind, dims)
    one = accumulate(kind, block)
    with pytest.raises(sd.ArgumentError, match="no statistics"):
        Statistics.concat([])
    with pytest.raises(sd.ArgumentError, match="count"):
        Statistics.concat([one, accumulate(kind, block[:3])])
    with pytest.raises(sd.ArgumentError, match="kind"):
        Statistics.concat(
            [
                one,
                dataclasses.replace(one, kind=KINDS["many logits"][0], count=7),
                dataclasses.replace(one, kind=KINDS["event"][0]),
            ]
        )
    with pytest.raises(sd.ArgumentError, match="different arrays"):
        Statistics.concat([one, accumulate(kind, block, keep_samples=True)])
    # Why it was taken so may be told in other words.
    other = dataclasses.replace(one, kind=dataclasses.replace(kind, how="as said"))
    assert len(Statistics.concat([one, other])) == 2 * IMAGES
