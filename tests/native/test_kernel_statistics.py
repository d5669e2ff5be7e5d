"""What the kernels draw follows the exact law of the operators.

As for the functions, whose cases and helpers serve here: cells of one map depend on each other
under DropBlock, so their counts are compared with the exact covariance. Seeds are fixed, so every
p-value printed here (``pytest -rP``) is the same in each run; below 1e-4 a test fails.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib

import numpy as np
import pytest
from kernel_sessions import kernel_session
from one_node import dropped, one_node, run
from onnx import TensorProto, helper
from scipy import stats
from test_function_statistics import (
    CASES,
    LISTED,
    MAPS,
    RUN,
    Case,
    by_name,
    check,
    independence_p,
    pooled,
    seed_of,
    two_sided,
)

from onnx_structdrop.graph.seeds import distinct_seeds

CHANNELS = 64
# Seeds are found by gaps below this probability of one, and by a number per position above.
DENSE_FROM = 0.04

# Half a million maps, of 12 cells and more each, show what a million show to the functions.
OURS = [dataclasses.replace(case, maps=min(case.maps, MAPS // 2)) for case in CASES]

SHARED = [
    Case("one mask for all channels, sparse", (9, 7), (3, 3), 0.1, maps=MAPS // 2),
    Case("one mask for all channels, dense", (9, 7), (3, 3), 0.5, region=1, maps=MAPS // 2),
    Case("one mask for the batch, sparse", (9, 7), (3, 3), 0.1, region=1, maps=MAPS // 2),
    Case("one mask for the batch, dense", (9, 7), (3, 3), 0.5, maps=MAPS // 2),
]
# Not in the list of the functions: seeds found by gaps in maps of every layout.
SPARSE = [
    Case("whole map, 3D, sparse", (4, 3, 4), (2, 3, 2), 0.08, region=1, maps=MAPS // 8),
    Case("channels last, whole map, sparse", (5, 6), (3, 2), 0.1, 1, True, MAPS // 8),
    Case("close to the switch, sparse", (5, 5), (2, 2), 0.0399 * 4 * 16 / 25),
    Case("close to the switch, dense", (5, 5), (2, 2), 0.0401 * 4 * 16 / 25),
    Case("rate of a thousandth, sparse", (9, 7), (3, 3), 0.001),
]


def layout_of(case):
    """Return the shape of the data for one run of 65,536 maps, and the changes of the node."""
    if "all channels" in case.name:
        return (RUN, 2, *case.sizes), {"shared_axes": [1]}
    if "the batch" in case.name:
        return (2, RUN, *case.sizes), {"shared_axes": [0], "normalize": 2}
    if case.channels_last:
        return (RUN // CHANNELS, *case.sizes, CHANNELS), {}
    return (RUN // CHANNELS, CHANNELS, *case.sizes), {}


def drawn_maps(case):
    """Yield the dropped cells of many maps, a row each, in chunks."""
    shape, changes = layout_of(case)
    free = tuple(f"d{axis}" for axis in range(len(shape)))
    model = one_node("DropBlock", free, seed=seed_of(case.name), **case.attributes, **changes)
    runner = kernel_session(model, threads=2)
    data = np.zeros(shape, np.float32)
    for _ in range(case.maps // RUN):
        mask = dropped(runner, data, case.ratio).mask
        if case.channels_last:
            mask = np.moveaxis(mask, -1, 1)
        yield ~mask.reshape(RUN, -1)


@functools.cache
def summary(case):
    """Return how often each pair of cells was dropped, and the number dropped per map, by run."""
    cells = math.prod(case.sizes)
    pairs, counts = np.zeros((cells, cells)), []
    for chunk in drawn_maps(case):
        numbers = chunk.astype(np.float32)
        pairs += numbers.T @ numbers
        counts.append(chunk.sum(1, dtype=np.uint8))
    return pairs, counts


def check_positions(case, counts, draws):
    """Compare how often each cell was dropped with the exact law, covariances included."""
    covering = case.covering.astype(float)
    shared = covering @ covering.T
    own = np.diag(shared)
    kept = (1 - case.gamma) ** own
    neither = (1 - case.gamma) ** (own[:, None] + own[None, :] - shared)
    covariance = neither - np.outer(kept, kept)
    deviation = (counts - draws * (1 - kept)) / math.sqrt(draws)
    values, vectors = np.linalg.eigh(covariance)
    free = values > 1e-9 * values.max()
    along = vectors.T @ deviation
    # Cells that always go together have to be counted together.
    np.testing.assert_allclose(along[~free], 0, atol=1e-6)
    statistic = (along[free] ** 2 / values[free]).sum()
    check("every position, chi-square", stats.chi2.sf(statistic, free.sum()))
    return kept, neither, covariance


@by_name(OURS + SHARED + SPARSE)
def test_every_position_and_every_pair(case):
    pairs, _ = summary(case)
    counts = np.diag(pairs)
    print(f"gamma = {case.gamma:.5f}, {case.maps} maps, {case.maps * len(counts)} cells")
    if case not in OURS:
        assert (case.gamma < DENSE_FROM) == ("sparse" in case.name)
    kept, neither, covariance = check_positions(case, counts, case.maps)
    both = 1 - kept[:, None] - kept[None, :] + neither
    spread = np.sqrt(case.maps * both * (1 - both))
    z = np.abs(pairs - case.maps * both) / np.maximum(spread, 1e-9)
    upper = np.triu_indices(len(counts))
    check("every pair, Bonferroni", two_sided(z[upper].max(), len(upper[0])))
    rate = case.spec.realised_rate((None, None, *case.sizes))
    error = math.sqrt(covariance.sum() / len(counts) ** 2 / case.maps)
    measured = counts.sum() / len(counts) / case.maps
    print(f"realised rate: {rate:.6f} exact, {measured:.6f} measured (nominal {case.ratio})")
    check("realised rate", two_sided((measured - rate) / error))


@by_name(LISTED)
def test_the_law_of_the_whole_mask(case):
    """Every possible mask occurs as often as the seeds that make it."""
    covering = case.covering
    seeds = covering.shape[1]
    set_seeds = (np.arange(1 << seeds)[:, None] >> np.arange(seeds)) & 1
    probability = np.prod(np.where(set_seeds, case.gamma, 1 - case.gamma), axis=1)
    weights = 1 << np.arange(covering.shape[0], dtype=np.int64)
    masks, index = np.unique(
        ((set_seeds @ covering.T.astype(np.int64)) > 0) @ weights, return_inverse=True
    )
    expected = np.bincount(index, probability) * MAPS
    observed = np.zeros(len(masks), np.int64)
    for chunk in drawn_maps(case):
        drawn = chunk @ weights
        place = np.searchsorted(masks, drawn)
        np.testing.assert_array_equal(masks[np.minimum(place, len(masks) - 1)], drawn)
        observed += np.bincount(place, minlength=len(masks))
    seen, awaited = pooled(observed, expected)
    check(f"{len(seen)} classes of masks", stats.chisquare(seen, awaited).pvalue)


# --- Independence --------------------------------------------------------------------------------

INDEPENDENT = [OURS[0], OURS[1], OURS[3], OURS[4]]


@by_name(INDEPENDENT)
def test_maps_of_one_tensor_are_independent(case):
    """Neighbours, samples, and maps of different streams: 65,536 elements have one."""
    counts = np.stack(summary(case)[1])
    check("channels", independence_p(counts[:, 0::2].ravel(), counts[:, 1::2].ravel()))
    by_sample = counts.reshape(-1, 2, CHANNELS)
    check("samples", independence_p(by_sample[:, 0].ravel(), by_sample[:, 1].ravel()))
    per_map = math.prod(case.sizes)
    units = 64 // math.gcd(per_map, 64)
    group = -(-RUN // per_map // units) * units
    whole = counts[:, : counts.shape[1] // (2 * group) * 2 * group].reshape(-1, 2, group)
    check("streams", independence_p(whole[:, 0].ravel(), whole[:, 1].ravel()))


@by_name(INDEPENDENT)
def test_consecutive_runs_are_independent(case):
    counts = np.stack(summary(case)[1])
    check("runs", independence_p(counts[0::2].ravel(), counts[1::2].ravel()))
    check("later runs", independence_p(counts[:-1].ravel(), counts[1:].ravel()))


RUNS = 1 << 16


def single_runs(op_type, shape, ratio, runs=RUNS, **changes):
    """Return the dropped cells of one small tensor in many runs of one session."""
    seed = seed_of(f"{op_type} {shape} {ratio}")
    model = one_node(op_type, shape, seed=seed, only_output=True, **changes)
    runner = kernel_session(model)
    feeds = {"data": np.ones(shape, np.float32), "ratio": np.array(ratio, np.float32)}
    results = np.empty((runs, math.prod(shape)), bool)
    for row in results:
        row[:] = runner.run(None, feeds)[0].ravel() == 0
    return results


@by_name([CASES[0], CASES[1], CASES[3]])
def test_many_runs_of_one_map(case):
    """Monte Carlo sampling of one image with one mask: each run is a draw of its own."""
    shared = {"shared_axes": [0, 1]}
    drawn = single_runs("DropBlock", (1, 1, *case.sizes), case.ratio, **case.attributes, **shared)
    kept, _, _ = check_positions(case, drawn.sum(0), RUNS)
    counts = drawn.sum(1)
    for lag in (1, 2, 5):
        apart = counts[: RUNS - RUNS % (2 * lag)].reshape(-1, 2, lag)
        check(f"runs {lag} apart", independence_p(apart[:, 0].ravel(), apart[:, 1].ravel()))
    both = (drawn[:-1] & drawn[1:]).sum(0)
    p = (1 - kept) ** 2
    z = np.abs(both - (RUNS - 1) * p) / np.sqrt((RUNS - 1) * p * (1 - p))
    # Overlapping pairs of runs are correlated; their variance is below twice this one.
    check("a cell dropped twice in a row", two_sided(z.max() / math.sqrt(2), len(z)))


@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.5])
def test_many_runs_of_one_sample(ratio):
    """The channels of one image in many runs: marginals, pairs of runs, pairs of channels."""
    channels = 16
    drawn = single_runs("SpatialDropout", (1, channels, 1, 1), ratio)
    rate = float(np.float32(ratio))
    check_tosses("channels", drawn.sum(0), RUNS, rate)
    for lag in (1, 2, 5):
        apart = drawn[: RUNS - RUNS % (2 * lag)].reshape(-1, 2, lag, channels)
        both = (apart[:, 0] & apart[:, 1]).sum((0, 1))
        check_tosses(f"a channel dropped in runs {lag} apart", both, apart.shape[0] * lag, rate**2)
    numbers = drawn.astype(np.float32)
    together = (numbers.T @ numbers)[np.triu_indices(channels, 1)]
    z = (together - RUNS * rate**2) / math.sqrt(RUNS * rate**2 * (1 - rate**2))
    check("every pair of channels", two_sided(np.abs(z).max(), len(z)))


def check_tosses(name, counts, draws, rate):
    """Check counts of independent tosses by chi-square."""
    z = (counts - draws * rate) / math.sqrt(draws * rate * (1 - rate))
    check(f"{name}, chi-square", stats.chi2.sf((z**2).sum(), z.size))


# --- SpatialDropout and NoiseShapeDropout --------------------------------------------------------

NOISE = [
    ("SpatialDropout", {}, (MAPS, 8, 1)),
    ("SpatialDropout", {"channel_axis": -1}, (MAPS, 1, 8)),
    ("NoiseShapeDropout", {"noise_shape": [0, 0, 1]}, (MAPS, 8, 2)),
    ("NoiseShapeDropout", {"noise_shape": [0, 0, 0]}, (MAPS, 2, 4)),
    ("NoiseShapeDropout", {"noise_shape": [1, 0, 0]}, (2, MAPS, 8)),
    ("NoiseShapeDropout", {"noise_shape": [0, 1, 1]}, (MAPS * 8, 1, 1)),
]


@pytest.mark.parametrize("ratio", [0.003, 0.1, 0.97])
@pytest.mark.parametrize(
    ("op_type", "changes", "sizes"), NOISE, ids=lambda value: str(value).replace(" ", "")
)
def test_independent_cells(op_type, changes, sizes, ratio):
    """Each cell of the mask is one toss: counts, patterns of 8 neighbours, and the rate."""
    width = 8
    # By a checksum: two of these names are anagrams, and `seed_of` adds letters up.
    seed = next(distinct_seeds(zlib.crc32(f"{op_type}{changes}{ratio}".encode())))
    model = one_node(op_type, ("N", "C", "L"), seed=seed, element="float16", **changes)
    mask = dropped(kernel_session(model, threads=2), np.zeros(sizes, np.float16), ratio).mask
    gone = ~mask.reshape(-1, width)
    draws = len(gone)
    assert draws == MAPS
    rate = float(np.float32(ratio))
    check_tosses("every position", gone.sum(0), draws, rate)
    patterns = np.bincount(np.packbits(gone, axis=1).ravel(), minlength=1 << width)
    ones = ((np.arange(1 << width)[:, None] >> np.arange(width)) & 1).sum(1)
    seen, awaited = pooled(patterns, draws * rate**ones * (1 - rate) ** (width - ones))
    check(f"{len(seen)} patterns", stats.chisquare(seen, awaited * draws / awaited.sum()).pvalue)
    error = math.sqrt(rate * (1 - rate) / gone.size)
    check("rate", two_sided((gone.mean() - rate) / error))
    if rate < DENSE_FROM:
        return
    # From one row of 8 to the next one, and to one of another stream.
    counts = gone.sum(1)
    for lag in (1, RUN // width):
        apart = counts.reshape(-1, 2, lag)
        check(f"rows {lag} apart", independence_p(apart[:, 0].ravel(), apart[:, 1].ravel()))


@pytest.mark.parametrize("ratio", [0.002, 0.03])
def test_gaps_between_drops_are_geometric(ratio):
    """The distribution itself that rare drops are found by, across the bounds of streams."""
    model = one_node("NoiseShapeDropout", ("N",), seed=seed_of("gaps"), noise_shape=[0])
    mask = dropped(kernel_session(model), np.zeros(1 << 22, np.float32), ratio).mask
    gaps = np.diff(np.flatnonzero(~mask)) - 1
    rate = float(np.float32(ratio))
    last = int(math.log(20 / len(gaps)) / math.log1p(-rate))
    observed = np.bincount(np.minimum(gaps, last), minlength=last + 1)
    expected = len(gaps) * rate * (1 - rate) ** np.arange(last + 1)
    expected[last] = len(gaps) * (1 - rate) ** last
    seen, awaited = pooled(observed, expected)
    check(f"{len(gaps)} gaps, {len(seen)} classes", stats.chisquare(seen, awaited).pvalue)
    check("one gap and the next", independence_p(gaps[:-1:2] * 20 // last, gaps[1::2] * 20 // last))


# --- Nodes, seeds and sessions -------------------------------------------------------------------


def two_seeds(case, first, second):
    """Return the dropped cells per map of two nodes on one tensor, run by run."""
    shape = ("N", "C", "H", "W")
    model = one_node("DropBlock", shape, seed=first, **case.attributes)
    call = model.graph.node.add()
    call.CopyFrom(model.graph.node[0])
    call.name = "second"
    call.output[:] = ["second_output", "second_mask", ""]
    next(a for a in call.attribute if a.name == "seed").i = second
    model.graph.output.append(
        helper.make_tensor_value_info("second_mask", TensorProto.BOOL, [None] * 4)
    )
    runner = kernel_session(model)
    data = np.zeros((RUN // CHANNELS, CHANNELS, *case.sizes), np.float32)
    rows = []
    for _ in range(5):
        results = run(runner, {"data": data, "ratio": np.array(case.ratio, np.float32)})
        rows.append([(~results[index]).sum((2, 3)).ravel() for index in (1, 3)])
    return np.stack(rows, axis=1)


@pytest.mark.parametrize("seeds", ["inserted 0", "inserted 1", "0 1", "0 -1", f"3 {3 + 2**32}"])
@by_name([CASES[0], CASES[1]])
def test_two_nodes_of_a_model_are_independent(case, seeds):
    """With the seeds that insertion gives, and with ones that are as close as can be."""
    kind, value = seeds.split()
    if kind == "inserted":
        drawn = distinct_seeds(int(value))
        first, second = two_seeds(case, next(drawn), next(drawn))
    else:
        first, second = two_seeds(case, int(kind), int(value))
    check("two nodes", independence_p(first.ravel(), second.ravel()))
    check("one run later", independence_p(first[1:].ravel(), second[:-1].ravel()))
    check("one run earlier", independence_p(first[:-1].ravel(), second[1:].ravel()))


@pytest.mark.parametrize("op_type", ["SpatialDropout", "NoiseShapeDropout", "DropBlock"])
def test_a_new_session_replays_the_sequence(op_type):
    model = one_node(op_type, ("N", "C", "H", "W"), seed=seed_of(op_type))
    data = np.ones((4, 16, 9, 7), np.float32)
    first, second = kernel_session(model), kernel_session(model)
    sequence = [dropped(first, data, 0.3).mask.tobytes() for _ in range(6)]
    assert len(set(sequence)) == 6
    # A session replays its own sequence, whatever another one has run meanwhile.
    assert [dropped(second, data, 0.3).mask.tobytes() for _ in range(6)] == sequence
    other = kernel_session(one_node(op_type, ("N", "C", "H", "W"), seed=seed_of(op_type) + 1))
    assert dropped(other, data, 0.3).mask.tobytes() not in sequence


def test_nodes_count_their_own_runs():
    """Two nodes of one seed drop alike: a seed and a run number are all that masks depend on."""
    first, second = two_seeds(CASES[1], 5, 5)
    np.testing.assert_array_equal(first, second)
