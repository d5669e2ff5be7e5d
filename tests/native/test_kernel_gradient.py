"""StructuredDropoutGrad as a kernel is exact, for every mask that broadcasts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_nodes import ELEMENTS, bits_of, node_cases, special_numbers
from kernel_sessions import kernel_session
from one_node import (
    TENSOR_TYPES,
    assert_same_values,
    dropped,
    model_of,
    one_node,
    random_data,
    run,
    session,
)
from onnx import TensorProto, helper

from onnx_structdrop.functions import function_proto
from onnx_structdrop.reference import structured_dropout_grad
from onnx_structdrop.schema import DOMAIN, GRAD_OP

each_element = pytest.mark.parametrize("element", ELEMENTS)


def gradient_model(element, rank, mask_rank=None, scale_rank=0):
    """Return output_grad, mask, scale -> data_grad; sizes are free."""
    shapes = (rank, rank if mask_rank is None else mask_rank, scale_rank, rank)
    names = ("output_grad", "mask", "scale", "data_grad")
    kinds = (TENSOR_TYPES[element], TensorProto.BOOL, TensorProto.FLOAT, TENSOR_TYPES[element])
    values = [
        helper.make_tensor_value_info(
            name, kind, [f"{'d' if name in (names[0], names[3]) else name}{i}" for i in range(axes)]
        )
        for name, kind, axes in zip(names, kinds, shapes, strict=True)
    ]
    call = helper.make_node(GRAD_OP, list(names[:3]), [names[3]], domain=DOMAIN, name="grad")
    function = function_proto(GRAD_OP, 20, element)
    return model_of([call], values[:3], values[3:], [function], opset=20)


def gradient(element, grad, mask, scale):
    model = gradient_model(element, grad.ndim, mask.ndim, scale.ndim)
    feeds = {"output_grad": grad, "mask": mask, "scale": scale}
    return run(kernel_session(model), feeds)[0]


@settings(max_examples=200)
@given(st.data())
def test_gradient_is_that_of_the_reference(data):
    rank = data.draw(st.integers(1, 6))
    largest = {1: 300, 2: 40, 3: 20, 4: 8, 5: 5, 6: 4}[rank]
    shape = tuple(data.draw(st.lists(st.integers(0, largest), min_size=rank, max_size=rank)))
    shared = data.draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
    mask_shape = tuple(1 if one else size for one, size in zip(shared, shape, strict=True))
    element = data.draw(st.sampled_from(ELEMENTS))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = rng.random(mask_shape) < data.draw(st.sampled_from((0.0, 0.1, 0.5, 0.97, 1.0)))
    per_sample = data.draw(st.booleans())
    scale_shape = (shape[0],) + (1,) * (rank - 1) if per_sample else ()
    scale = np.asarray(rng.uniform(0.5, 3, scale_shape), np.float32)
    grad = special_numbers(shape, element, 1)
    result = gradient(element, grad, mask, scale)
    assert result.dtype == grad.dtype
    assert result.shape == shape
    np.testing.assert_array_equal(
        bits_of(result), bits_of(structured_dropout_grad(grad, mask, scale))
    )


@each_element
@pytest.mark.parametrize("scale", [0.0, -1.5, 1e-40, np.inf, np.nan])
def test_any_scale(element, scale):
    """What is dropped is 0, though the scale be no number."""
    grad = special_numbers((3, 4, 30), element, 2)
    mask = np.random.default_rng(0).random(grad.shape) < 0.5
    result = gradient(element, grad, mask, np.asarray(scale, np.float32))
    assert not result[~mask].astype(np.float64).any()
    with np.errstate(all="ignore"):
        expected = structured_dropout_grad(grad, mask, np.asarray(scale, np.float32))
    np.testing.assert_array_equal(bits_of(result), bits_of(expected))


@each_element
def test_kernel_and_function_agree(element):
    grad = special_numbers((3, 4, 6, 7), element, 3)
    mask = np.random.default_rng(0).random((3, 1, 6, 7)) < 0.5
    scale = np.asarray(1.7, np.float32)
    model = gradient_model(element, 4)
    feeds = {"output_grad": grad, "mask": mask, "scale": scale}
    # A chosen -0.0 is 0.0 in the function form.
    kernel, function = run(kernel_session(model), feeds)[0], run(session(model), feeds)[0]
    quiet = np.where(np.isnan(kernel), 0, kernel).astype(kernel.dtype)
    np.testing.assert_array_equal(np.isnan(kernel), np.isnan(function))
    assert_same_values(quiet, np.where(np.isnan(function), 0, function).astype(kernel.dtype))


@settings(max_examples=60)
@given(node_cases())
def test_gradient_of_what_a_kernel_dropped(case):
    """Forward and backward in one model: mask and scale go over as they are."""
    shape = case.free
    model = one_node(case.op_type, shape, element=case.element, seed=case.seed, **case.attributes)
    kind = TENSOR_TYPES[case.element]
    model.graph.input.append(helper.make_tensor_value_info("output_grad", kind, shape))
    model.graph.output.append(helper.make_tensor_value_info("data_grad", kind, shape))
    names = ["output_grad", "mask", "scale"]
    model.graph.node.append(helper.make_node(GRAD_OP, names, ["data_grad"], domain=DOMAIN))
    data = random_data(case.sizes, case.element)
    grad = special_numbers(case.sizes, case.element, 4)
    feeds = {"data": data, "ratio": np.array(case.ratio, np.float32), "output_grad": grad}
    _, mask, scale, result = run(kernel_session(model), feeds)
    np.testing.assert_array_equal(
        bits_of(result), bits_of(structured_dropout_grad(grad, mask, scale))
    )


def test_gradient_is_the_derivative():
    """The output is linear in the data: the gradient of its sum is what ones become."""
    model = one_node("DropBlock", ("N", "C", "H", "W"), element="float64", normalize=2)
    ones = np.ones((3, 4, 9, 9))
    output, mask, scale = dropped(kernel_session(model), ones, 0.3)
    assert gradient("float64", ones, mask, scale).tobytes() == output.tobytes()


def test_large_tensors_on_two_threads():
    """Chunks that begin inside a sample, a row, and a word of the mask."""
    rng = np.random.default_rng(1)
    grad = rng.standard_normal((5, 7, 131, 67)).astype(np.float32)
    for mask_shape in (grad.shape, (5, 7, 1, 1), (5, 1, 131, 67), (1, 1, 131, 67), (5, 7, 131, 1)):
        mask = rng.random(mask_shape) < 0.7
        for scale_shape in ((), (5, 1, 1, 1)):
            scale = np.asarray(rng.uniform(1, 2, scale_shape), np.float32)
            model = gradient_model("float32", 4, 4, len(scale_shape))
            feeds = {"output_grad": grad, "mask": mask, "scale": scale}
            result = run(kernel_session(model, threads=2), feeds)[0]
            assert result.tobytes() == structured_dropout_grad(grad, mask, scale).tobytes()
