"""Rows with draws of their own: what becomes of one does not depend on the others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_nodes import NodeCase, node_cases, special_numbers
from kernel_sessions import kernel_session, without_functions
from one_node import Outputs, one_node, random_data, run
from onnx import TensorProto, helper

from onnx_structdrop.schema import DROPOUT_OPS

each_op = pytest.mark.parametrize("op_type", DROPOUT_OPS)
FREE = ("N", "C", "H", "W")
MOST = 2**48


def with_draws(model: onnx.ModelProto, *, first_run: int | None = None) -> onnx.ModelProto:
    """Return a copy whose node reads draws, or begins at a run."""
    result = without_functions(model)
    node = result.graph.node[0]
    if first_run is not None:
        node.attribute.append(helper.make_attribute("first_run", first_run))
        return result
    node.input.append("draws")
    result.graph.input.append(helper.make_tensor_value_info("draws", TensorProto.INT64, [None]))
    return result


def model_of(case: NodeCase, **changes) -> onnx.ModelProto:
    return one_node(case.op_type, case.free, element=case.element, **{**case.attributes, **changes})


def by_rows(runner, data, ratio, draws) -> Outputs:
    feeds = {"data": data, "ratio": np.array(ratio, np.float32), "draws": np.array(draws, np.int64)}
    return Outputs(*run(runner, feeds))


def rows_alone(case: NodeCase) -> NodeCase:
    """Return a case whose masks are not shared along the batch and not normalised over it."""
    changes = dict(case.attributes)
    rank = len(case.sizes)
    if case.op_type == "NoiseShapeDropout":
        changes["noise_shape"] = [0, *changes["noise_shape"][1:]]
    if case.op_type == "DropBlock":
        changes["shared_axes"] = [axis for axis in changes["shared_axes"] if axis % rank != 0]
        changes["normalize"] = 2 if changes["normalize"] == 1 else changes["normalize"]
    return NodeCase(case.op_type, case.element, case.sizes, changes, case.ratio, case.seed)


@settings(max_examples=150)
@given(node_cases(), st.data())
def test_a_row_is_what_a_batch_of_it_alone_is_in_that_run(case, data_of):
    case = rows_alone(case)
    draws = data_of.draw(
        st.lists(
            st.integers(0, 5) | st.integers(0, MOST - 1),
            min_size=case.sizes[0],
            max_size=case.sizes[0],
        )
    )
    data = special_numbers(case.sizes, case.element, 0)
    model = model_of(case, seed=case.seed)
    together = by_rows(kernel_session(with_draws(model)), data, case.ratio, draws)
    for row, draw in enumerate(draws[:3]):
        alone = kernel_session(with_draws(model, first_run=draw))
        feeds = {"data": data[row : row + 1], "ratio": np.array(case.ratio, np.float32)}
        output, mask, scale = run(alone, feeds)
        assert together.output[row].tobytes() == output[0].tobytes()
        assert together.mask[row].tobytes() == mask[0].tobytes()
        assert np.array_equal(
            together.scale[row] if scale.ndim else together.scale,
            scale.squeeze(0) if scale.ndim else scale,
        )


@each_op
def test_equal_draws_give_equal_masks_and_others_do_not(op_type):
    model = with_draws(
        one_node(op_type, FREE, normalize=2) if op_type == "DropBlock" else one_node(op_type, FREE)
    )
    runner = kernel_session(model)
    data = random_data((5, 16, 12, 12))
    masks = by_rows(runner, data, 0.3, [7, 8, 7, 7 + 2**32, 2**47]).mask
    assert (masks[0] == masks[2]).all()
    distinct = {masks[row].tobytes() for row in (0, 1, 3, 4)}
    assert len(distinct) == 4
    # Neither the run nor the neighbours count.
    assert (by_rows(runner, data[:1], 0.3, [8]).mask[0] == masks[1]).all()


@each_op
def test_threads_change_nothing(op_type):
    changes = {"normalize": 2} if op_type == "DropBlock" else {}
    model = with_draws(one_node(op_type, FREE, **changes))
    data = random_data((6, 32, 28, 28))
    draws = [3, 1, 4, 1, 5, 9]
    first, second = (
        by_rows(kernel_session(model, threads=threads), data, 0.2, draws) for threads in (1, 3)
    )
    for one, other in zip(first, second, strict=True):
        assert one.tobytes() == other.tobytes()


def test_inference_mode_hands_the_data_on():
    model = with_draws(one_node("SpatialDropout", FREE, training_mode=0))
    data = random_data((2, 3, 4, 5))
    assert by_rows(kernel_session(model), data, 0.5, [1, 2]).output.tobytes() == data.tobytes()


@each_op
def test_no_rows(op_type):
    changes = {"normalize": 2} if op_type == "DropBlock" else {}
    model = with_draws(one_node(op_type, FREE, **changes))
    outputs = by_rows(kernel_session(model), random_data((0, 3, 4, 5)), 0.5, [])
    assert outputs.output.shape == (0, 3, 4, 5)


@pytest.mark.parametrize(
    ("changes", "draws", "words"),
    [
        ({}, [1], r"draws has shape \(1,\) beside data of shape \(2, 3, 4, 5\)"),
        ({}, [1, -1], "draws holds -1; allowed is 0 to 2"),
        ({}, [MOST, 0], f"draws holds {MOST}"),
        ({"normalize": 1}, [1, 2], "normalize is 1, over the batch"),
        ({"shared_axes": [0]}, [1, 2], "shared along the batch"),
    ],
)
def test_what_is_refused(changes, draws, words):
    model = with_draws(one_node("DropBlock", FREE, **{"normalize": 2, **changes}))
    runner = kernel_session(model, severity=4)
    with pytest.raises(Exception, match=words):
        by_rows(runner, random_data((2, 3, 4, 5)), 0.5, draws)


def test_a_batch_of_one_is_refused_no_more_than_it_has_to_be():
    """A mask that is shared along a batch of one is a mask of its own."""
    model = with_draws(one_node("NoiseShapeDropout", FREE, noise_shape=[1, 0, 1, 1]))
    assert by_rows(kernel_session(model), random_data((1, 3, 4, 5)), 0.5, [2]).mask.shape[0] == 1
