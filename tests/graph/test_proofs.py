"""The parts of the proofs: ranges, sizes, events, and what broken nodes do to them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import Net
from onnx import helper

from onnx_structdrop.graph.clean import clean
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.proofs import intervals
from onnx_structdrop.graph.proofs.intervals import ANY, exact, span
from onnx_structdrop.graph.proofs.parameters import Parameters
from onnx_structdrop.graph.proofs.walk import Walk

NUMBERS = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 3))


@st.composite
def ranges(draw):
    low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
    return span(low, high), draw(st.sampled_from([low, high, (low + high) / 2]))


def holds(found, number):
    slack = 1e-6 * max(1.0, abs(number))
    return (found.low <= number + slack).all() and (found.high >= number - slack).all()


@given(ranges(), ranges())
def test_arithmetic_of_ranges_holds_the_numbers_in_them(x, y):
    (a, number), (b, other) = x, y
    assert holds(intervals.plus(a, b), number + other)
    assert holds(intervals.times(a, b), number * other)
    assert holds(intervals.negative(a), -number)
    assert holds(intervals.hull(a, b), number)
    if number:
        assert holds(intervals.inverse(a), 1 / number)


def test_a_dropped_place_stays_dropped_whatever_it_is_scaled_by():
    assert intervals.times(exact(0.0), exact(np.inf)).equals(0.0)
    assert intervals.times(exact(0.0), ANY).equals(0.0)


def parameters(net, *outputs):
    model = as_ir(net.model(*outputs))
    walk = Walk(model)
    values = {value.name: value for node in model.graph for value in node.outputs}
    values |= {value.name: value for value in model.graph.inputs}
    found = walk._joins.parameters
    assert isinstance(found, Parameters)
    return found, values


def test_sizes_computed_in_different_ways_agree():
    net = Net(("N", 3, "H", 8))
    y = net.op("Relu", "x")
    shape = net.op("Shape", y)
    product = net.op("ReduceProd", shape, keepdims=0)
    parts = [net.op("Gather", shape, net.const(i, np.int64), axis=0) for i in range(4)]
    other = net.op("Mul", net.op("Mul", parts[0], parts[1]), net.op("Mul", parts[2], parts[3]))
    count = net.op("Size", y)
    half = net.op("Div", count, net.const(2, np.int64))
    found, values = parameters(net, product, other, count, half, y)
    one, two, three, four = (found.number(values[name]) for name in (product, other, count, half))
    assert one.known
    assert two.equals(one.low)
    assert three.equals(one.low)
    assert not four.equals(one.low)
    assert len(set(one.low.tolist())) == 3  # One per assignment of the free sizes.


def test_data_are_no_parameters():
    net = Net((2, 3))
    mean = net.op("ReduceMean", "x", keepdims=0)
    found, values = parameters(net, mean)
    assert found.number(values[mean]) is None
    assert found.number(values["x"]) is None


def test_templates_take_no_memory():
    net = Net((2, 3))
    shape = net.const([1 << 20, 1 << 20], np.int64)
    blank = net.op("ConstantOfShape", shape)
    half = net.op("Add", blank, net.const(0.5))
    found, values = parameters(net, half, "x")
    assert found.number(values[half]).equals(0.5)


@pytest.mark.parametrize(
    ("rounding", "low", "high", "chance"),
    [("Floor", 0.7, 1.7, 0.7), ("Ceil", -0.3, 0.7, 0.7), ("Round", 0.2, 1.2, 0.7)],
)
def test_rounding_makes_masks(rounding, low, high, chance):
    net = Net((2, 3))
    kept = net.op(rounding, net.op("RandomUniformLike", "x", low=low, high=high))
    model = net.model(net.op("Relu", net.op("Div", net.op("Mul", "x", kept), net.const(chance))))
    cleaned, report = clean(model)
    assert report.residual == ()
    assert [node.op_type for node in cleaned.graph.node] == ["Relu"]


@pytest.mark.parametrize("chance", [0.5, 0.6914625])
def test_normal_numbers_make_masks_too(chance):
    net = Net((2, 3))
    kept = net.op("Less", net.op("RandomNormalLike", "x"), net.const(0.5))
    y = net.op("Div", net.op("Mul", "x", net.op("Cast", kept, to=1)), net.const(chance))
    _, report = clean(net.model(net.op("Relu", y)))
    assert bool(report.residual) == (chance == 0.5)


BROKEN = {
    "no input": lambda node: node.input.__delitem__(slice(None)),
    "one input": lambda node: node.input.__delitem__(slice(1, None)),
    "an attribute of another type": lambda node: node.attribute.append(
        helper.make_attribute("axes", "text")
    ),
    "an axis beyond the rank": lambda node: node.attribute.append(
        helper.make_attribute("axis", 17)
    ),
    "another operator": lambda node: setattr(node, "op_type", "MaxPool"),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("index", range(8))
def test_broken_nodes_are_refused_or_ignored(fault, index):
    net = Net((2, 3))
    shape = net.op("Shape", "x")
    template = net.op("ConstantOfShape", shape)
    noise = net.op("RandomUniformLike", template)
    kept = net.op("Cast", net.op("Less", noise, net.const(0.7)), to=1)
    moved = net.op("Unsqueeze", kept, net.const([0], np.int64))
    count = net.op("ReduceSum", moved, keepdims=0)
    model = net.model(net.op("Mul", "x", net.op("Div", kept, count)))
    BROKEN[fault](model.graph.node[index])
    cleaned, report = clean(model)
    assert report.residual or not report.changed or len(cleaned.graph.node) <= 9


def test_reports_do_not_depend_on_the_run():
    def one():
        net = Net(("N", 3))
        kept = net.op("Less", net.op("RandomUniformLike", "x"), net.const(0.6))
        y = net.op("Div", net.op("Mul", "x", net.op("Cast", kept, to=1)), net.const(0.7))
        return clean(ir.from_proto(net.model(y)))[1]

    assert one() == one()
