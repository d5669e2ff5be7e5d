"""What the kernels refuse: the message names operator, node, value and what is allowed."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from kernel_sessions import kernel_session, without_functions
from one_node import LEVELS, dropped, one_node, random_data, run
from onnx import AttributeProto, TensorProto, helper
from test_kernel_gradient import gradient_model

from onnx_structdrop.schema import DROPOUT_OPS, GRAD_OP

FREE = ("N", "C", "H", "W")
SIZES = (2, 3, 5, 6)
BLOCK, SPATIAL, NOISE = "DropBlock", "SpatialDropout", "NoiseShapeDropout"

each_op = pytest.mark.parametrize("op_type", DROPOUT_OPS)


def changed(op_type, attributes, *, rank=4, training_mode=1):
    """Return a node with attributes that one_node's own checks would refuse; None takes one out."""
    shape = tuple(f"d{axis}" for axis in range(rank))
    given = one_node(op_type, FREE, training_mode=training_mode)
    given.graph.node[0].name = "the node"
    own = given.graph.node[0].attribute
    for name, value in attributes.items():
        kept = [attribute for attribute in own if attribute.name != name]
        del own[:]
        own.extend(kept)
        if value is None:
            continue
        kind = AttributeProto.INTS if value == [] else None
        own.append(helper.make_attribute(name, value, attr_type=kind))
    values = [given.graph.input[0], given.graph.output[0], given.graph.output[1]]
    for value in values:
        kind = value.type.tensor_type.elem_type
        free = None if value is values[2] else shape
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, free))
    given.graph.output[2].CopyFrom(helper.make_tensor_value_info("scale", TensorProto.FLOAT, None))
    # No function, so that nothing else can refuse the node.
    return without_functions(given)


def refusal(model, feeds=None, level=LEVELS[-1]):
    """Return what onnxruntime says when a session is made, or run."""
    if feeds is None:
        with pytest.raises(Exception) as caught:
            kernel_session(model, level, severity=4)
    else:
        runner = kernel_session(model, level, severity=4)
        with pytest.raises(Exception) as caught:
            run(runner, feeds)
    # onnxruntime has an exception class for every status, in a module of its own.
    assert type(caught.value).__module__.startswith("onnxruntime")
    return str(caught.value)


def feeds_of(shape=SIZES, ratio=0.4):
    return {"data": np.ones(shape, np.float32), "ratio": np.asarray(ratio, np.float32)}


def check_message(text, op_type, *words):
    assert f"{op_type} node 'the node': " in text
    said = text.split(f"{op_type} node 'the node': ")[1]
    assert "\n" not in said
    for word in words:
        assert word in said, said


# --- Ratios --------------------------------------------------------------------------------------

BAD_RATIOS = {
    math.nan: "nan",
    -0.1: "-0.1",
    1.5: "1.5",
    math.inf: "inf",
    -math.inf: "-inf",
    -1e-45: "-1.4",
    float(np.nextafter(1, 2, dtype="f4")): "1.00000012",
}


@pytest.mark.parametrize("ratio", BAD_RATIOS)
@each_op
def test_ratio_outside_its_range(op_type, ratio):
    text = refusal(changed(op_type, {}), feeds_of(ratio=ratio))
    check_message(text, op_type, f"ratio is {BAD_RATIOS[ratio]}", "allowed is a number from 0 to 1")


@pytest.mark.parametrize("training_mode", [0, 1])
def test_ratio_is_checked_in_both_modes(training_mode):
    """As the reference does: a broken schedule shows, whatever the mode."""
    model = changed(BLOCK, {}, training_mode=training_mode)
    check_message(refusal(model, feeds_of(ratio=2)), BLOCK, "ratio is 2;")


def test_a_session_works_on_after_an_error():
    runner = kernel_session(one_node(BLOCK, FREE), severity=4)
    fresh = kernel_session(one_node(BLOCK, FREE))
    data = random_data(SIZES)
    with pytest.raises(Exception, match="ratio is nan"):
        dropped(runner, data, math.nan)
    pair = [dropped(each, data, 0.4) for each in (runner, fresh)]
    for first, second in zip(*pair, strict=True):
        assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_a_ratio_of_one_element_will_do(shape):
    model = changed(BLOCK, {})
    value = model.graph.input[1]
    value.CopyFrom(helper.make_tensor_value_info("ratio", TensorProto.FLOAT, shape))
    kernel_session(model).run(None, feeds_of(ratio=np.full(shape, 0.4)))


@pytest.mark.parametrize("shape", [(2,), (0,), (1, 3)])
@each_op
def test_ratio_of_several_elements(op_type, shape):
    model = changed(op_type, {})
    model.graph.input[1].CopyFrom(
        helper.make_tensor_value_info("ratio", TensorProto.FLOAT, [None] * len(shape))
    )
    text = refusal(model, feeds_of(ratio=np.full(shape, 0.4)))
    shown = re.sub(r"\s", " ", str(shape))
    check_message(text, op_type, f"ratio has shape {shown}", "allowed is a scalar")


# --- Attributes ----------------------------------------------------------------------------------

# Found when the session is made, before there is any data.
AT_ONCE = [
    (BLOCK, {"block_size": [0]}, "block_size is 0", ">= 1"),
    (BLOCK, {"block_size": [3, -2]}, "block_size is -2", ">= 1"),
    (BLOCK, {"block_size": []}, "block_size is empty", "one integer per spatial axis"),
    (BLOCK, {"block_size": None}, "block_size is missing", "list of integers"),
    (BLOCK, {"block_size": 7}, "block_size has the wrong type", "list of integers"),
    (BLOCK, {"block_size": [1.5]}, "block_size has the wrong type", "list of integers"),
    (BLOCK, {"block_size": 2.0}, "block_size has the wrong type", "list of integers"),
    (BLOCK, {"block_size": "7"}, "block_size has the wrong type", "list of integers"),
    (BLOCK, {"shared_axes": 1}, "shared_axes has the wrong type", "list of integers"),
    (BLOCK, {"shared_axes": [1.0]}, "shared_axes has the wrong type", "list of integers"),
    (BLOCK, {"shared_axes": "1"}, "shared_axes has the wrong type", "list of integers"),
    (BLOCK, {"seed_region": 2}, "seed_region is 2", "0 (valid) or 1 (whole)"),
    (BLOCK, {"seed_region": "whole"}, "seed_region has the wrong type", "an integer"),
    (BLOCK, {"normalize": 3}, "normalize is 3", "0 (none), 1 (batch) or 2 (sample)"),
    (BLOCK, {"normalize": -1}, "normalize is -1", "0 (none), 1 (batch) or 2 (sample)"),
    (BLOCK, {"channel_axis": [1]}, "channel_axis has the wrong type", "an integer"),
    (SPATIAL, {"channel_axis": 1.0}, "channel_axis has the wrong type", "an integer"),
    (NOISE, {"noise_shape": [0, 2, 1, 1]}, "noise_shape entry is 2", "1 (shared"),
    (NOISE, {"noise_shape": [-1, 0, 1, 1]}, "noise_shape entry is -1", "0 (the data's own"),
    (NOISE, {"noise_shape": None}, "noise_shape is missing", "list of integers"),
    (NOISE, {"noise_shape": 1}, "noise_shape has the wrong type", "list of integers"),
    (NOISE, {"scale_by_keep": 2}, "scale_by_keep is 2", "0 or 1"),
    (NOISE, {"scale_by_keep": 1.0}, "scale_by_keep has the wrong type", "an integer"),
    *((op, {"seed": None}, "seed is missing", "an integer") for op in DROPOUT_OPS),
    *((op, {"seed": 1.5}, "seed has the wrong type", "an integer") for op in DROPOUT_OPS),
    *((op, {"seed": [1]}, "seed has the wrong type", "an integer") for op in DROPOUT_OPS),
    *((op, {"first_run": -1}, "first_run is -1", "0 or more") for op in DROPOUT_OPS),
    *((op, {"first_run": 1.0}, "first_run has the wrong type", "an integer") for op in DROPOUT_OPS),
    *((op, {"training_mode": 2}, "training_mode is 2", "0 or 1") for op in DROPOUT_OPS),
    *((op, {"training_mode": "1"}, "training_mode has the", "integer") for op in DROPOUT_OPS),
]

# These depend on the rank of the data.
AT_A_RUN = [
    (SPATIAL, {"channel_axis": 0}, "channel_axis is 0", "from 1 to 3"),
    (SPATIAL, {"channel_axis": 4}, "channel_axis is 4", "from 1 to 3"),
    (SPATIAL, {"channel_axis": -4}, "channel_axis is -4", "from 1 to 3"),
    (BLOCK, {"channel_axis": 2**62}, f"channel_axis is {2**62}", "from 1 to 3"),
    (BLOCK, {"channel_axis": -(2**63)}, f"channel_axis is {-(2**63)}", "from 1 to 3"),
    (BLOCK, {"block_size": [2, 3, 4]}, "block_size (2, 3, 4) has 3 entries", "1, or 2"),
    (BLOCK, {"shared_axes": [2]}, "shared axis 2 is a spatial axis", "channel axis 1"),
    (BLOCK, {"shared_axes": [-1]}, "shared axis -1 is a spatial axis", "channel axis 1"),
    (BLOCK, {"shared_axes": [9]}, "shared axis 9 is outside", "batch axis 0"),
    (BLOCK, {"shared_axes": [-5]}, "shared axis -5 is outside", "batch axis 0"),
    (BLOCK, {"shared_axes": [1, -3]}, "names an axis twice", "(1, -3)"),
    (NOISE, {"noise_shape": [0, 1]}, "noise_shape (0, 1) has 2 entries", "rank 4"),
    (NOISE, {"noise_shape": []}, "noise_shape () has 0 entries", "rank 4"),
]


@pytest.mark.parametrize(("op_type", "attributes", "value", "allowed"), AT_ONCE)
def test_attributes_refused_at_once(op_type, attributes, value, allowed):
    check_message(refusal(changed(op_type, attributes)), op_type, value, allowed)


@pytest.mark.parametrize("training_mode", [0, 1])
@pytest.mark.parametrize(("op_type", "attributes", "value", "allowed"), AT_A_RUN)
def test_attributes_refused_for_this_data(op_type, attributes, value, allowed, training_mode):
    model = changed(op_type, attributes, training_mode=training_mode)
    check_message(refusal(model, feeds_of()), op_type, value, allowed)


def test_known_shapes_do_not_hide_the_fault():
    """Shape inference sees it first, and leaves it to the run to report it."""
    for op_type, attributes, value, allowed in AT_A_RUN:
        model = changed(op_type, attributes)
        for entry in (model.graph.input[0], model.graph.output[0]):
            entry.CopyFrom(helper.make_tensor_value_info(entry.name, TensorProto.FLOAT, SIZES))
        check_message(refusal(model, feeds_of()), op_type, value, allowed)


def test_defaults_of_optional_attributes():
    """What the function form insists on, the kernel takes as DESIGN's defaults."""
    full = one_node(BLOCK, FREE)
    short = changed(
        BLOCK, dict.fromkeys(("channel_axis", "shared_axes", "seed_region", "normalize"))
    )
    data = random_data(SIZES)
    pair = [dropped(kernel_session(model), data, 0.4) for model in (full, short)]
    for first, second in zip(*pair, strict=True):
        assert first.tobytes() == second.tobytes()
    quiet = changed(BLOCK, {"training_mode": None})
    assert dropped(kernel_session(quiet), data, 0.4).output.tobytes() == data.tobytes()
    noise = changed(NOISE, {"scale_by_keep": None})
    assert dropped(kernel_session(noise), data, 0.4).scale == np.float32(1) / np.float32(0.6)


# --- Shapes and types ----------------------------------------------------------------------------

RANKS = [
    (SPATIAL, 0, {}, "data has rank 0; allowed is a rank from 2"),
    (SPATIAL, 1, {}, "data has rank 1; allowed is a rank from 2"),
    (BLOCK, 0, {}, "data has rank 0; allowed is a rank from 3"),
    (BLOCK, 2, {}, "data has rank 2; allowed is a rank from 3"),
    (NOISE, 0, {"noise_shape": []}, "data has rank 0; allowed is a rank from 1"),
    (SPATIAL, 13, {}, "rank 13; allowed is a rank up to 12"),
    (BLOCK, 32, {}, "rank 32; allowed is a rank up to 12"),
    (NOISE, 13, {"noise_shape": [0] * 13}, "rank 13; allowed is a rank up to 12"),
]


@pytest.mark.parametrize("training_mode", [0, 1])
@pytest.mark.parametrize(("op_type", "rank", "attributes", "message"), RANKS)
def test_ranks_that_no_operator_takes(op_type, rank, attributes, message, training_mode):
    model = changed(op_type, attributes, rank=rank, training_mode=training_mode)
    check_message(refusal(model, feeds_of((1,) * rank)), op_type, message)


@pytest.mark.parametrize(
    ("index", "kind"),
    [
        (0, TensorProto.INT32),
        (0, TensorProto.BOOL),
        (0, TensorProto.FLOAT8E4M3FN),
        (1, TensorProto.DOUBLE),
        (1, TensorProto.FLOAT16),
    ],
)
@each_op
def test_types_that_no_operator_takes(op_type, index, kind):
    """Onnxruntime itself refuses them, by what the library declares."""
    model = changed(op_type, {})
    model.graph.input[index].type.tensor_type.elem_type = kind
    if index == 0:
        model.graph.output[0].type.tensor_type.elem_type = kind
    text = refusal(model)
    name = ("data", "ratio")[index]
    assert f"input parameter ({name}) of operator ({op_type}) in node (the node)" in text


@each_op
def test_output_of_another_type_than_data(op_type):
    model = changed(op_type, {})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    text = refusal(model)
    assert "output arg (output) of node (the node)" in text


def test_missing_inputs():
    model = changed(BLOCK, {})
    del model.graph.node[0].input[1]
    assert "the node" in refusal(model)


# --- The gradient --------------------------------------------------------------------------------

GRADIENTS = [
    ((2, 3, 4), (2, 3, 5), (), "mask has shape (2, 3, 5)"),
    ((2, 3, 4), (3, 4), (), "mask has shape (3, 4)"),
    ((2, 3, 4), (), (), "mask has shape ()"),
    ((2, 3, 4), (2, 3, 4, 1), (), "mask has shape (2, 3, 4, 1)"),
    ((1, 3, 4), (2, 3, 4), (), "mask has shape (2, 3, 4)"),
    ((2, 3, 4), (0, 3, 4), (), "mask has shape (0, 3, 4)"),
    ((2, 3, 4), (2, 3, 4), (3,), "scale has shape (3,)"),
    ((2, 3, 4), (2, 3, 4), (2,), "scale has shape (2,)"),
    ((2, 3, 4), (2, 3, 4), (0,), "scale has shape (0,)"),
    ((2, 3, 4), (2, 3, 4), (1, 3, 1), "scale has shape (1, 3, 1)"),
    ((2, 3, 4), (2, 3, 4), (3, 1, 1), "scale has shape (3, 1, 1)"),
]


@pytest.mark.parametrize(("grad", "mask", "scale", "message"), GRADIENTS)
def test_shapes_that_the_gradient_refuses(grad, mask, scale, message):
    model = without_functions(gradient_model("float32", len(grad), len(mask), len(scale)))
    model.graph.node[0].name = "the node"
    feeds = {
        "output_grad": np.ones(grad, np.float32),
        "mask": np.ones(mask, bool),
        "scale": np.ones(scale, np.float32),
    }
    allowed = str(grad) if message.startswith("mask") else "a scalar, or (2, 1, 1)"
    check_message(refusal(model, feeds), GRAD_OP, message, "allowed", allowed)


@pytest.mark.parametrize(("index", "name"), [(1, "mask"), (2, "scale")])
def test_types_that_the_gradient_refuses(index, name):
    model = without_functions(gradient_model("float32", 3))
    model.graph.input[index].type.tensor_type.elem_type = TensorProto.DOUBLE
    assert f"({name}) of operator ({GRAD_OP}) in node (grad)" in refusal(model)


# --- Names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a" * 500, "knoten_äöü", "quote ' and \" and %s %n"])
@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_any_name_of_a_node(name, level):
    model = changed(BLOCK, {})
    model.graph.node[0].name = name
    text = refusal(model, feeds_of(ratio=2), level)
    assert f"DropBlock node '{name}': ratio is 2; allowed is" in text
