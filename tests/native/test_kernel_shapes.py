"""Shapes that others can rely on, and memory that is reused without harm."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_nodes import ELEMENTS, NodeCase, node_cases
from kernel_sessions import kernel_session, options_of, without_functions
from one_node import (
    LEVELS,
    TENSOR_TYPES,
    assert_selected,
    attributes_of,
    node,
    random_data,
    run,
)
from onnx import TensorProto, helper

from onnx_structdrop.functions import function_proto
from onnx_structdrop.reference import structured_dropout_grad
from onnx_structdrop.schema import DOMAIN, DROPOUT_OPS, GRAD_OP, VERSION

SIZES = (3, 4, 6, 7)
FREE = ("N", "C", "H", "W")

each_op = pytest.mark.parametrize("op_type", DROPOUT_OPS)
each_level = pytest.mark.parametrize("level", LEVELS, ids=str)


def graph_of(nodes, inputs, outputs, *, initializers=(), opset=20):
    """Return a model without functions: only the library can run it."""
    return helper.make_model(
        helper.make_graph(nodes, "shapes", inputs, outputs, list(initializers)),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=8,
    )


def value(name, shape=None, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


RATIO = onnx.numpy_helper.from_array(np.array(0.4, np.float32), "ratio")


def call(op_type, source, *targets, rank=4, seed=7, **changes):
    """Return a node of ours that reads the ratio 0.4."""
    attributes = attributes_of(op_type, rank, **changes)
    names = [*targets, *[""] * (3 - len(targets))]
    return node(op_type, [source, "ratio"], names, attributes, seed=seed)


# --- Shape inference -----------------------------------------------------------------------------


def inferred(op_type, shape, level, element="float32", **changes):
    """Return the shape that onnxruntime gives the output where the file states none."""
    kind = TENSOR_TYPES[element]
    model = graph_of(
        [call(op_type, "x", "y", rank=len(shape), **changes)],
        [value("x", shape, kind)],
        [value("y", None, kind)],
        initializers=[RATIO],
    )
    runner = kernel_session(model, level)
    (output,) = runner.get_outputs()
    assert output.type == runner.get_inputs()[0].type
    return output.shape


@each_level
@each_op
def test_output_has_the_shape_of_data(op_type, level):
    for shape in (SIZES, FREE, ("N", 4, 6, "W"), ("N", 1, 1, 1), (0, 4, 6, 7)):
        assert inferred(op_type, shape, level) == list(shape)


@settings(max_examples=40)
@given(node_cases(), st.data())
def test_any_mix_of_known_and_named_sizes(case: NodeCase, data):
    shape = [
        data.draw(st.sampled_from((size, f"size_{axis}"))) for axis, size in enumerate(case.sizes)
    ]
    attributes = {"seed": case.seed, **case.attributes}
    found = inferred(case.op_type, tuple(shape), LEVELS[-1], case.element, **attributes)
    assert found == shape


@each_op
def test_sizes_without_a_name_stay_unknown(op_type):
    """Onnxruntime cannot be told of them: all is left open, but for what the file states itself."""
    shape = ("N", None, 6, None)
    assert inferred(op_type, shape, LEVELS[-1]) == []
    for stated in (None, shape):
        model = graph_of(
            [call(op_type, "x", "y")],
            [value("x", shape)],
            [value("y", stated)],
            initializers=[RATIO],
        )
        runner = kernel_session(model)
        assert runner.get_outputs()[0].shape == list(stated or ())
        assert run(runner, {"x": random_data(SIZES)})[0].shape == SIZES


@each_op
def test_unknown_ranks(op_type):
    model = graph_of([call(op_type, "x", "y")], [value("x")], [value("y")], initializers=[RATIO])
    assert run(kernel_session(model), {"x": random_data(SIZES)})[0].shape == SIZES


@each_op
def test_shapes_reach_downstream(op_type):
    """What follows the node is inferred, too, through a product, a sum over it and a reshape."""
    model = graph_of(
        [
            call(op_type, "x", "y"),
            helper.make_node("Relu", ["y"], ["a"]),
            helper.make_node("GlobalAveragePool", ["a"], ["b"]),
            helper.make_node("Flatten", ["b"], ["c"], axis=1),
            helper.make_node("Shape", ["y"], ["d"]),
        ],
        [value("x", ("N", 4, 6, 7))],
        [value("a"), value("b"), value("c"), value("d", None, TensorProto.INT64)],
        initializers=[RATIO],
    )
    runner = kernel_session(model)
    assert [output.shape for output in runner.get_outputs()] == [
        ["N", 4, 6, 7],
        ["N", 4, 1, 1],
        ["N", 4],
        [4],
    ]
    results = run(runner, {"x": random_data(SIZES)})
    assert results[3].tolist() == list(SIZES)


def test_gradient_has_the_shape_of_what_comes_in():
    names = ["g", "mask", "scale"]
    model = graph_of(
        [helper.make_node(GRAD_OP, names, ["d"], domain=DOMAIN)],
        [value("g", FREE), value("mask", FREE, TensorProto.BOOL), value("scale", [])],
        [value("d")],
    )
    assert kernel_session(model).get_outputs()[0].shape == list(FREE)


@pytest.mark.parametrize("stated", [("N", 4, 6, "W"), (3, 4, 6, 8), (3, 4, 6)], ids=str)
def test_a_shape_that_the_file_states(stated):
    """What is less exact is completed; what is wrong is dropped, and never decides a size."""
    model = graph_of(
        [call("DropBlock", "x", "y")],
        [value("x", SIZES)],
        [value("y", stated)],
        initializers=[RATIO],
    )
    runner = kernel_session(model, severity=4)
    merged = runner.get_outputs()[0].shape
    assert merged != list(stated)
    assert merged == list(SIZES) or "N" not in stated
    assert run(runner, {"x": random_data(SIZES)})[0].shape == SIZES


# --- Memory that is reused -----------------------------------------------------------------------


def doubled(source, target):
    """Return a node whose output is the session's own memory, which may be reused."""
    return helper.make_node("Add", [source, source], [target])


def negated(source, target):
    """Return a node that reads what a node of ours wrote.

    Outputs of the graph never take the place of an input; what is read by another node does.
    """
    return helper.make_node("Neg", [source], [target])


def cast(source, target, kind):
    return helper.make_node("Cast", [source], [target], to=kind)


@pytest.mark.parametrize("shape", [SIZES, FREE], ids=["known", "free"])
@pytest.mark.parametrize("element", ELEMENTS)
@each_op
def test_data_that_others_read_too(op_type, element, shape):
    """Before the node, after it, and as an output of the graph."""
    kind = TENSOR_TYPES[element]
    # Few operators take bfloat16: cast there and back, for memory of the session's own.
    is_brief = element == "bfloat16"
    out = TensorProto.FLOAT if is_brief else kind
    if is_brief:
        first = [cast("x", "wide", TensorProto.FLOAT), cast("wide", "y", kind)]
        readers = [cast(name, f"{name}_read", out) for name in ("y", "dropped")]
    else:
        first = [doubled("x", "y")]
        readers = [negated(name, f"{name}_read") for name in ("y", "dropped")]
    outputs = [
        value("dropped_read", None, out),
        value("mask", None, TensorProto.BOOL),
        value("scale"),
        value("y_read", None, out),
        value("y", None, kind),
    ]
    x = random_data(SIZES, element)
    y, sign = (x, 1) if is_brief else (x + x, -1)
    dropout = call(op_type, "y", "dropped", "mask", "scale")
    for nodes in ([dropout, *readers], [readers[0], dropout, readers[1]]):
        for kept in (outputs, outputs[:-1]):
            model = graph_of(
                [*first, *nodes], [value("x", shape, kind)], kept, initializers=[RATIO]
            )
            runner = kernel_session(model, options=options_of(threads=2))
            for _ in range(3):
                results = run(runner, {"x": x})
                assert_selected(y, results[1], results[2], (sign * results[0]).astype(x.dtype))
                np.testing.assert_array_equal(sign * results[3], y.astype(results[3].dtype))
                if len(kept) > 4:
                    np.testing.assert_array_equal(results[4], y)


@each_op
def test_inputs_of_the_graph_are_not_written_to(op_type):
    model = graph_of(
        [call(op_type, "x", "y"), negated("y", "z")],
        [value("x", SIZES)],
        [value("z")],
        initializers=[RATIO],
    )
    data = random_data(SIZES)
    before = data.copy()
    runner = kernel_session(model)
    for _ in range(4):
        run(runner, {"x": data})
        np.testing.assert_array_equal(data, before)


@each_op
def test_initializers_are_not_written_to(op_type):
    """A node on a constant: kernels must not drop the constant itself, run after run."""
    constant = random_data(SIZES)
    model = graph_of(
        [call(op_type, "constant", "y", "mask", "scale"), negated("y", "z")],
        [],
        [value("z", SIZES), value("mask", None, TensorProto.BOOL), value("scale")],
        initializers=[RATIO, onnx.numpy_helper.from_array(constant, "constant")],
    )
    runner = kernel_session(model)
    masks = set()
    for _ in range(8):
        output, mask, scale = run(runner, {})
        assert_selected(constant, mask, scale, -output)
        masks.add(mask.tobytes())
    assert len(masks) > 1, "onnxruntime folded a random node into a constant"


@pytest.mark.parametrize("shape", [SIZES, FREE], ids=["known", "free"])
@each_op
def test_chains_of_two_and_three_nodes(op_type, shape):
    nodes = [doubled("x", "a")]
    outputs = []
    for index, (source, target) in enumerate((("a", "b"), ("b", "c"), ("c", "d"))):
        nodes.append(call(op_type, source, target, f"m{index}", f"s{index}", seed=index))
        outputs += [value(f"m{index}", None, TensorProto.BOOL), value(f"s{index}")]
    model = graph_of(nodes, [value("x", shape)], [value("d"), *outputs], initializers=[RATIO])
    runner = kernel_session(model)
    x = random_data(SIZES)
    for _ in range(3):
        result, *rest = run(runner, {"x": x})
        expected = x + x
        for mask, scale in zip(rest[::2], rest[1::2], strict=True):
            expected = structured_dropout_grad(expected, mask, scale)
        assert result.tobytes() == expected.tobytes()


@each_op
def test_two_nodes_on_one_tensor(op_type):
    """Neither may take the memory that the other still reads."""
    model = graph_of(
        [
            doubled("x", "a"),
            call(op_type, "a", "b", "m0", "s0", seed=1),
            call(op_type, "a", "c", "m1", "s1", seed=2),
            negated("b", "minus_b"),
            negated("c", "minus_c"),
        ],
        [value("x", SIZES)],
        [
            value("minus_b"),
            value("m0", None, TensorProto.BOOL),
            value("s0"),
            value("minus_c"),
            value("m1", None, TensorProto.BOOL),
            value("s1"),
        ],
        initializers=[RATIO],
    )
    x = random_data(SIZES)
    runner = kernel_session(model)
    for _ in range(4):
        results = run(runner, {"x": x})
        for output, mask, scale in (results[:3], results[3:]):
            assert_selected(x + x, mask, scale, -output)
        assert results[1].tobytes() != results[4].tobytes()


@each_op
def test_forward_and_backward_share_no_memory_by_mistake(op_type):
    """The gradient's output may take the place of the gradient that comes in."""
    model = graph_of(
        [
            doubled("x", "a"),
            call(op_type, "a", "y", "mask", "scale"),
            doubled("g", "gg"),
            helper.make_node(GRAD_OP, ["gg", "mask", "scale"], ["d"], domain=DOMAIN),
            helper.make_node("Sub", ["y", "gg"], ["both"]),
            negated("y", "minus_y"),
            negated("d", "minus_d"),
        ],
        [value("x", SIZES), value("g", SIZES)],
        [
            value("minus_y"),
            value("minus_d"),
            value("both"),
            value("mask", None, TensorProto.BOOL),
        ],
        initializers=[RATIO],
    )
    x, g = random_data(SIZES, seed=1), random_data(SIZES, seed=2)
    y, d, both, mask = run(kernel_session(model), {"x": x, "g": g})
    kept = np.broadcast_to(mask, SIZES)
    np.testing.assert_array_equal(d != 0, kept)
    np.testing.assert_array_equal(y != 0, kept)
    np.testing.assert_array_equal(both, -y - 2 * g)


@pytest.mark.parametrize("training_mode", [0, 1])
def test_large_tensors_in_place_and_apart(training_mode):
    """Beyond 64 KiB on two threads; the input's memory is taken where its size is known."""
    sizes = (2, 16, 61, 67)
    results = []
    for shape in (sizes, FREE, (None,) * 4):
        model = graph_of(
            [
                doubled("x", "a"),
                node(
                    "DropBlock",
                    ["a", "ratio"],
                    ["y", "", ""],
                    attributes_of("DropBlock", 4),
                    training_mode=training_mode,
                ),
                negated("y", "z"),
            ],
            [value("x", shape)],
            [value("z", shape)],
            initializers=[RATIO],
        )
        x = random_data(sizes)
        results.append(run(kernel_session(model, threads=2), {"x": x})[0])
    assert len({result.tobytes() for result in results}) == 1
    if not training_mode:
        assert results[0].tobytes() == (-x - x).tobytes()


def test_functions_do_not_hide_shapes():
    """A file that also holds the function is inferred as one that does not."""
    model = graph_of(
        [call("DropBlock", "x", "y")], [value("x", FREE)], [value("y")], initializers=[RATIO]
    )
    model.functions.append(function_proto("DropBlock", 20, "float32"))
    for each in (model, without_functions(model)):
        assert kernel_session(each).get_outputs()[0].shape == list(FREE)
