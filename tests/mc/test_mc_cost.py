"""Costs of placements, from the graph and measured."""

from __future__ import annotations

import numpy as np
import pytest
from mc_nets import classifier
from nets import Net
from rich.console import Console

import onnx_structdrop as sd
from onnx_structdrop import mc
from onnx_structdrop.mc.work import work_of

SPEC = sd.SpatialDropout2D(0.2, seed=1)


def sites(model):
    return [site for site in sd.find_sites(model) if site.kind in ("activation", "join")]


def test_multiply_adds():
    net = Net(("N", 3, 16, 16))
    x = net.relu(net.conv("x", 8, stride=2))
    x = net.conv(x, 8, group=8)
    model = net.model(net.head(net.up(x, 4), 10))
    import onnx_ir as ir

    found = work_of(ir.from_proto(model), {"x": [2, 3, 16, 16]})
    first, second = 8 * 3 * 9 * 64, 8 * 9 * 64
    transposed, last = 8 * 64 * 4 * 4, 4 * 10
    assert found.macs == 2 * (first + second + transposed + last)
    assert found.bytes > 2 * 4 * (2 * 8 * 64 + 8 * 64 + 4 * 256)
    assert work_of(ir.from_proto(model), {}).macs is None


@pytest.mark.parametrize("where", [-1, 3, 0])
def test_predictions(where):
    model = classifier()
    found = mc.cost(model, SPEC, sites(model)[where], samples=10, measure=False)
    whole = found.macs_prefix + found.macs_suffix
    assert 0 < found.macs_suffix <= whole
    assert found.predicted_speedup == 10 * whole / (found.macs_prefix + 10 * found.macs_suffix)
    np.testing.assert_allclose(found.predicted_cost * found.predicted_speedup, 10)
    assert found.speedup is found.cost is found.seconds is None


def test_later_is_cheaper():
    model = classifier()
    found = [mc.cost(model, SPEC, site, measure=False) for site in sites(model)]
    costs = [one.predicted_cost for one in found]
    assert costs == sorted(costs, reverse=True)
    assert 1 < costs[-1] < 1.1
    assert found[0].macs_prefix + found[0].macs_suffix == (
        found[-1].macs_prefix + found[-1].macs_suffix
    )


def test_measured():
    model = classifier(("N", 3, "H", "W"))
    found = mc.cost(model, SPEC, sites(model)[-1], samples=4, input_shape=(2, 3, 32, 32), threads=1)
    assert found.batch == 2
    assert found.seconds == found.prefix_seconds + 4 * found.suffix_seconds
    assert found.speedup == 4 * found.whole_seconds / found.seconds
    assert found.cost == found.seconds / found.deterministic_seconds
    assert min(found.prefix_seconds, found.suffix_seconds, found.deterministic_seconds) > 0
    document = found.to_dict()
    assert document["cut"] == list(found.cut)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(mc.cost_table({"head": found}), found)
    assert "head" in captured.get()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (None, r"free sizes \(N, 3, H, W\); say them by input_shape \(--input-shape\)$"),
        ((1, 4, 32, 32), r"takes \(N, 3, H, W\)"),
        ((1, 3, 32), r"takes \(N, 3, H, W\)"),
        ((0, 3, 32, 32), r"takes \(N, 3, H, W\)"),
        ({"y": (1, 3, 32, 32)}, "no input 'y'"),
    ],
)
def test_wrong_shapes(shape, words):
    model = classifier(("N", 3, "H", "W"))
    with pytest.raises(sd.ArgumentError, match=words):
        mc.cost(model, SPEC, input_shape=shape, measure=False)
