"""What the functions draw on onnxruntime follows the exact law of the operators.

The cells of one map depend on each other under DropBlock, so their counts are compared with the
exact covariance; maps are independent, and each is one draw. Seeds are fixed, so every p-value
printed here (``pytest -rP``) is the same in each run; below 1e-4 a test fails.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
from one_node import dropped, one_node, run, session
from onnx import TensorProto, helper
from scipy import stats

from onnx_structdrop.functions import function_proto
from onnx_structdrop.graph.seeds import distinct_seeds
from onnx_structdrop.reference import drop_block
from onnx_structdrop.specs import DropBlock1D, DropBlock2D, DropBlock3D, SpatialDropout2D

LEAST_P = 1e-4
MAPS = 1 << 20
# Maps of one run; more would only take more memory.
RUN = 1 << 16


@dataclasses.dataclass(frozen=True)
class Case:
    """DropBlock on maps of one size."""

    name: str
    sizes: tuple[int, ...]
    block: tuple[int, ...]
    ratio: float
    region: int = 0
    channels_last: bool = False
    maps: int = MAPS

    @property
    def clipped(self):
        return tuple(min(b, size) for b, size in zip(self.block, self.sizes, strict=True))

    @property
    def gamma(self):
        places = math.prod(size - b + 1 for b, size in zip(self.clipped, self.sizes, strict=True))
        ratio = float(np.float32(self.ratio))
        return ratio * math.prod(self.sizes) / (math.prod(self.clipped) * places)

    @property
    def is_sparse(self):
        return self.gamma < 0.025

    @property
    def covering(self):
        """Return, for each cell and each seed, whether the seed's block covers the cell."""
        ranges = []
        for b, size in zip(self.clipped, self.sizes, strict=True):
            first, last = (0, size) if self.region else (b // 2, size - (b - 1) // 2)
            ranges.append(range(first, last))
        columns = []
        for seed in itertools.product(*ranges):
            cells = np.zeros(self.sizes, bool)
            spans = [
                slice(max(s - b // 2, 0), s + (b - 1) // 2 + 1)
                for s, b in zip(seed, self.clipped, strict=True)
            ]
            cells[tuple(spans)] = True
            columns.append(cells.ravel())
        return np.stack(columns, axis=1)

    @property
    def attributes(self):
        return {
            "block_size": list(self.block),
            "seed_region": self.region,
            "channel_axis": len(self.sizes) + 1 if self.channels_last else 1,
        }

    @property
    def spec(self):
        kind = {1: DropBlock1D, 2: DropBlock2D, 3: DropBlock3D}[len(self.sizes)]
        return kind(self.ratio, self.block, seed_region=("valid", "whole")[self.region])


CASES = [
    Case("valid, sparse", (9, 7), (3, 3), 0.05),
    Case("valid, dense", (9, 7), (3, 3), 0.4),
    Case("valid, dense, rate 0.9", (6, 5), (3, 3), 0.9),
    Case("whole map, sparse", (9, 7), (3, 3), 0.05, region=1),
    Case("whole map, dense", (9, 7), (3, 3), 0.4, region=1),
    Case("valid, even block, sparse", (5, 9), (2, 4), 0.05),
    Case("valid, even block, dense", (5, 9), (2, 4), 0.35),
    Case("whole map, even block, sparse", (5, 9), (2, 4), 0.05, region=1),
    Case("whole map, even block, dense", (5, 9), (2, 4), 0.35, region=1),
    Case("clipped in one axis, sparse", (3, 8), (5, 3), 0.05, maps=MAPS // 8),
    Case("clipped in one axis, dense", (3, 8), (5, 3), 0.3, region=1, maps=MAPS // 8),
    Case("as large as the map, sparse", (4, 3), (9, 9), 0.02, maps=MAPS // 8),
    Case("as large as the map, dense", (4, 3), (9, 9), 0.3, maps=MAPS // 8),
    Case("single cells", (4, 4), (1, 1), 0.1, maps=MAPS // 8),
    Case("1D, sparse", (20,), (5,), 0.08, maps=MAPS // 8),
    Case("1D, dense", (20,), (4,), 0.3, region=1, maps=MAPS // 8),
    Case("3D, sparse", (4, 3, 4), (2, 3, 2), 0.05, maps=MAPS // 8),
    Case("3D, dense", (4, 3, 4), (2, 2, 3), 0.4, region=1, maps=MAPS // 8),
    Case("channels last, sparse", (5, 6), (3, 2), 0.05, channels_last=True, maps=MAPS // 8),
    Case("channels last, dense", (5, 6), (3, 2), 0.4, region=1, channels_last=True, maps=MAPS // 8),
]
# 12 positions at most, so that every pattern of seeds can be listed.
LISTED = [
    Case("valid, sparse", (6, 5), (3, 3), 0.08),
    Case("valid, dense", (6, 5), (3, 3), 0.5),
    Case("valid, even block, dense", (4, 7), (2, 4), 0.3),
    Case("whole map, sparse", (3, 4), (2, 2), 0.04, region=1),
    Case("whole map, dense", (3, 4), (3, 2), 0.4, region=1),
    Case("whole map, even block, dense", (2, 6), (2, 4), 0.3, region=1),
    Case("1D, dense", (12,), (3,), 0.3),
]


def seed_of(name):
    """Return a seed as insertion would write it."""
    return next(distinct_seeds(sum(name.encode())))


def by_name(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def check(name, p):
    print(f"{name}: p = {p:.4g}")
    assert p > LEAST_P, name


def two_sided(z, count=1):
    """Return the p-value of the largest of `count` normal deviates."""
    return min(1.0, count * 2 * stats.norm.sf(abs(z)))


def drawn_maps(case, maps=None, seed=None):
    """Yield the dropped cells of many maps, a row each, in chunks."""
    rank = len(case.sizes) + 2
    shape = tuple(f"d{axis}" for axis in range(rank))
    seed = seed_of(case.name) if seed is None else seed
    runner = session(one_node("DropBlock", shape, seed=seed, **case.attributes))
    samples, channels = RUN // 64, 64
    lead = (samples, *case.sizes, channels) if case.channels_last else None
    data = np.zeros(lead or (samples, channels, *case.sizes), np.float32)
    for _ in range((maps or case.maps) // RUN):
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


def pooled(observed, expected, least=10.0):
    """Merge classes of small expectation into one, so that chi-square holds."""
    rare = expected < least
    seen = [*observed[~rare], observed[rare].sum()]
    awaited = [*expected[~rare], expected[rare].sum()]
    if awaited[-1] < least:
        # The rest is too small for a class of its own.
        place = int(np.argmin(awaited[:-1]))
        seen[place] += seen.pop()
        awaited[place] += awaited.pop()
    return np.asarray(seen), np.asarray(awaited)


def independence_p(first, second):
    """Return the p-value of the chi-square test of two rows of classes for independence.

    Rare classes are counted to the next common one below, so that the least expectation of a pair
    of classes is 20: with less, chi-square promises too much.
    """
    rows = []
    for row in (first, second):
        common = np.flatnonzero(np.bincount(row) >= math.sqrt(20 * row.size))
        rows.append(np.maximum(np.searchsorted(common, row, side="right") - 1, 0))
    table = np.zeros([row.max() + 1 for row in rows])
    np.add.at(table, tuple(rows), 1)
    return stats.chi2_contingency(table, correction=False).pvalue


def _merged(table, least):
    """Merge rare rows, so that expectations are not small."""
    rare = table.sum(1) < least
    rows = [*table[~rare], table[rare].sum(0)] if rare.any() else [*table]
    return np.stack([row for row in rows if row.sum()])


# --- DropBlock: marginals, pairs and rates -------------------------------------------------------


@by_name(CASES)
def test_every_position_and_every_pair(case):
    """Counts of dropped cells and of dropped pairs follow the exact law.

    A cell is kept when none of the seeds is set whose block covers it, a pair of cells when none
    of the union is; that gives every marginal and every covariance.
    """
    covering = case.covering.astype(float)
    shared = covering @ covering.T
    own = np.diag(shared)
    kept = (1 - case.gamma) ** own
    neither = (1 - case.gamma) ** (own[:, None] + own[None, :] - shared)
    both = 1 - kept[:, None] - kept[None, :] + neither
    covariance = neither - np.outer(kept, kept)

    cells = covering.shape[0]
    pairs, _ = summary(case)
    counts = np.diag(pairs)
    assert case.is_sparse == ("sparse" in case.name)

    deviation = (counts - case.maps * (1 - kept)) / math.sqrt(case.maps)
    values, vectors = np.linalg.eigh(covariance)
    free = values > 1e-9 * values.max()
    along = vectors.T @ deviation
    # Cells that always go together have to be counted together.
    np.testing.assert_allclose(along[~free], 0, atol=1e-6)
    statistic = (along[free] ** 2 / values[free]).sum()
    check("every position, chi-square", stats.chi2.sf(statistic, free.sum()))

    spread = np.sqrt(case.maps * both * (1 - both))
    z = np.abs(pairs - case.maps * both) / np.maximum(spread, 1e-9)
    upper = np.triu_indices(cells)
    check("every pair, Bonferroni", two_sided(z[upper].max(), len(upper[0])))

    rate = case.spec.realised_rate((None, None, *case.sizes))
    error = math.sqrt(covariance.sum() / cells**2 / case.maps)
    measured = counts.sum() / cells / case.maps
    print(f"realised rate: {rate:.6f} exact, {measured:.6f} measured (nominal {case.ratio})")
    check("realised rate", two_sided((measured - rate) / error))


@by_name(LISTED)
def test_the_law_of_the_whole_mask(case):
    """Every possible mask occurs as often as the seeds that make it."""
    covering = case.covering
    seeds = covering.shape[1]
    assert seeds <= 12
    set_seeds = (np.arange(1 << seeds)[:, None] >> np.arange(seeds)) & 1
    probability = np.prod(np.where(set_seeds, case.gamma, 1 - case.gamma), axis=1)
    codes = ((set_seeds @ covering.T.astype(np.int64)) > 0) @ (
        1 << np.arange(covering.shape[0], dtype=np.int64)
    )
    masks, index = np.unique(codes, return_inverse=True)
    expected = np.bincount(index, probability) * MAPS

    observed = np.zeros(len(masks), np.int64)
    for chunk in drawn_maps(case):
        drawn = chunk @ (1 << np.arange(covering.shape[0], dtype=np.int64))
        place = np.searchsorted(masks, drawn)
        np.testing.assert_array_equal(masks[np.minimum(place, len(masks) - 1)], drawn)
        observed += np.bincount(place, minlength=len(masks))
    assert case.is_sparse == ("sparse" in case.name)
    seen, awaited = pooled(observed, expected)
    check(f"{len(seen)} classes of masks", stats.chisquare(seen, awaited).pvalue)


@by_name([case for case in CASES if case.name.startswith(("valid", "whole"))])
def test_dropped_cells_per_map_against_the_reference(case):
    """The number of dropped cells is distributed as in the reference with NumPy's uniforms."""
    cells = math.prod(case.sizes)
    attributes = {
        "block_size": list(case.block),
        "seed_region": case.region,
        "channel_axis": 1,
    }
    rng = np.random.default_rng(5)
    count = MAPS // 8
    ours, reference = np.zeros(cells + 1), np.zeros(cells + 1)
    for chunk in drawn_maps(case, count, seed_of("reference" + case.name)):
        ours += np.bincount(chunk.sum(1), minlength=cells + 1)
        uniforms = rng.random((RUN // 64, 64, *case.sizes), np.float32)
        data = np.zeros(uniforms.shape, np.float32)
        mask = drop_block(data, case.ratio, uniforms, **attributes).mask.reshape(RUN, -1)
        reference += np.bincount((~mask).sum(1), minlength=cells + 1)
    table = _merged(np.stack([ours, reference], axis=1), least=20)
    check(f"{len(table)} classes", stats.chi2_contingency(table).pvalue)


# --- DropBlock: independence ---------------------------------------------------------------------


@by_name([CASES[0], CASES[1], CASES[3], CASES[4]])
def test_maps_of_one_tensor_are_independent(case):
    counts = np.stack(summary(case)[1])
    check("channels", independence_p(counts[:, 0::2].ravel(), counts[:, 1::2].ravel()))
    by_sample = counts.reshape(-1, 2, 64)
    check("samples", independence_p(by_sample[:, 0].ravel(), by_sample[:, 1].ravel()))


@by_name([CASES[0], CASES[1], CASES[3], CASES[4]])
def test_consecutive_runs_are_independent(case):
    counts = np.stack(summary(case)[1])
    check("runs", independence_p(counts[0::2].ravel(), counts[1::2].ravel()))


RUNS = 12_000


def single_runs(op_type, shape, ratio, runs=RUNS, **changes):
    """Return the dropped cells of one small tensor in many runs of one session."""
    seed = seed_of(f"{op_type} {shape} {ratio}")
    runner = session(one_node(op_type, shape, seed=seed, only_output=True, **changes))
    binding = {"data": np.ones(shape, np.float32), "ratio": np.array(ratio, np.float32)}
    return np.stack([runner.run(None, binding)[0].ravel() == 0 for _ in range(runs)])


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[3]], ids=lambda case: case.name)
def test_many_runs_of_one_map(case):
    """Monte Carlo sampling of one image with one mask: each run is a draw of its own.

    onnxruntime starts run k from seed + k, and its generator is a plain Lehmer generator. Used as
    it comes, the first cell would not change for thousands of runs.
    """
    drawn = single_runs("DropBlock", (1, 1, *case.sizes), case.ratio, **case.attributes)
    covering = case.covering.astype(float)
    own = covering.sum(1)
    kept = (1 - case.gamma) ** own
    shared = covering @ covering.T
    covariance = (1 - case.gamma) ** (own[:, None] + own[None, :] - shared) - np.outer(kept, kept)
    deviation = (drawn.sum(0) - RUNS * (1 - kept)) / math.sqrt(RUNS)
    values, vectors = np.linalg.eigh(covariance)
    free = values > 1e-9 * values.max()
    statistic = ((vectors.T @ deviation)[free] ** 2 / values[free]).sum()
    check("every position, chi-square", stats.chi2.sf(statistic, free.sum()))
    counts = drawn.sum(1)
    for lag in (1, 2, 5):
        apart = counts[: RUNS - RUNS % (2 * lag)].reshape(-1, 2, lag)
        check(f"runs {lag} apart", independence_p(apart[:, 0].ravel(), apart[:, 1].ravel()))
    both = (drawn[:-1] & drawn[1:]).sum(0)
    p = (1 - kept) ** 2
    z = np.abs(both - (RUNS - 1) * p) / np.sqrt((RUNS - 1) * p * (1 - p))
    # Overlapping pairs of runs are correlated; their variance is below twice this one.
    check("a cell dropped twice in a row", two_sided(z.max() / math.sqrt(2), len(z)))


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_many_runs_of_one_sample(ratio):
    """The channels of one image in many runs: marginals, pairs of runs, pairs of channels."""
    channels = 16
    drawn = single_runs("SpatialDropout", (1, channels, 1, 1), ratio)
    rate = float(np.float32(ratio))
    z = (drawn.sum(0) - RUNS * rate) / math.sqrt(RUNS * rate * (1 - rate))
    check("every channel, chi-square", stats.chi2.sf((z**2).sum(), channels))
    for lag in (1, 2, 5):
        apart = drawn[: RUNS - RUNS % (2 * lag)].reshape(-1, 2, lag, channels)
        both = (apart[:, 0] & apart[:, 1]).sum((0, 1))
        pairs = apart.shape[0] * lag
        z = (both - pairs * rate**2) / math.sqrt(pairs * rate**2 * (1 - rate**2))
        check(f"a channel dropped in runs {lag} apart", stats.chi2.sf((z**2).sum(), channels))
    numbers = drawn.astype(float)
    together = numbers.T @ numbers
    z = (together - RUNS * rate**2) / math.sqrt(RUNS * rate**2 * (1 - rate**2))
    upper = np.triu_indices(channels, 1)
    check("every pair of channels", two_sided(np.abs(z[upper]).max(), len(upper[0])))


# --- SpatialDropout and NoiseShapeDropout --------------------------------------------------------


@pytest.mark.parametrize(
    ("op_type", "ratio"),
    [
        ("SpatialDropout", 0.003),
        ("SpatialDropout", 0.1),
        ("SpatialDropout", 0.97),
        ("NoiseShapeDropout", 0.5),
    ],
)
def test_independent_cells(op_type, ratio):
    """Each cell of the mask is one toss: counts, patterns of 8 neighbours, and the rate."""
    width, draws = 8, MAPS
    changes = {"noise_shape": [0, 0, 1]} if op_type == "NoiseShapeDropout" else {}
    model = one_node(op_type, ("N", "C", "L"), seed=seed_of(f"{op_type}{ratio}"), **changes)
    mask = dropped(session(model), np.zeros((draws, width, 1), np.float32), ratio).mask
    gone = ~mask.reshape(draws, width)
    rate = float(np.float32(ratio))
    counts = gone.sum(0)
    z = (counts - draws * rate) / math.sqrt(draws * rate * (1 - rate))
    check("every position, chi-square", stats.chi2.sf((z**2).sum(), width))
    patterns = np.bincount(gone @ (1 << np.arange(width)), minlength=1 << width)
    ones = ((np.arange(1 << width)[:, None] >> np.arange(width)) & 1).sum(1)
    expected = draws * rate**ones * (1 - rate) ** (width - ones)
    seen, awaited = pooled(patterns, expected)
    check(f"{len(seen)} patterns", stats.chisquare(seen, awaited * draws / awaited.sum()).pvalue)
    assert SpatialDropout2D(ratio).realised_rate((None, None, 7, 7)) == ratio
    measured = counts.sum() / gone.size
    error = math.sqrt(rate * (1 - rate) / gone.size)
    check("rate", two_sided((measured - rate) / error))


def test_channels_last_cells():
    model = one_node("SpatialDropout", ("N", "H", "C"), channel_axis=2, seed=seed_of("last"))
    mask = dropped(session(model), np.zeros((MAPS, 1, 8), np.float32), 0.2).mask
    counts = (~mask).sum((0, 1))
    z = (counts - MAPS * 0.2) / math.sqrt(MAPS * 0.2 * 0.8)
    check("every channel, chi-square", stats.chi2.sf((z**2).sum(), 8))


# --- Two nodes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("user_seed", [0, 1])
@pytest.mark.parametrize("case", [CASES[0], CASES[1]], ids=lambda case: case.name)
def test_two_nodes_of_a_model_are_independent(case, user_seed):
    """Two nodes with the seeds that insertion gives them, on one tensor."""
    shape = ("N", "C", "H", "W")
    seeds = distinct_seeds(user_seed)
    model = one_node("DropBlock", shape, seed=next(seeds), **case.attributes)
    call = model.graph.node.add()
    call.CopyFrom(model.graph.node[0])
    call.name = "second"
    call.output[:] = ["", "second_mask", ""]
    call.output[0] = "second_output"
    for attribute in call.attribute:
        if attribute.name == "seed":
            attribute.i = next(seeds)
    model.graph.output.append(
        helper.make_tensor_value_info("second_mask", TensorProto.BOOL, [None] * 4)
    )
    assert function_proto("DropBlock", 20, "float32") == model.functions[0]
    runner = session(model)
    data = np.zeros((RUN // 64, 64, *case.sizes), np.float32)
    first, second = [], []
    for _ in range(5):
        results = run(runner, {"data": data, "ratio": np.array(case.ratio, np.float32)})
        first.append((~results[1]).sum((2, 3)).ravel())
        second.append((~results[3]).sum((2, 3)).ravel())
    check("two nodes", independence_p(np.concatenate(first), np.concatenate(second)))
    check("one run later", independence_p(np.concatenate(first[1:]), np.concatenate(second[:-1])))
    check("one run earlier", independence_p(np.concatenate(first[:-1]), np.concatenate(second[1:])))
