"""Models with several functions' calls: seeds, threads, mixed types, the reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from one_node import (
    ALL,
    DISABLE_ALL,
    DTYPES,
    LEVELS,
    TENSOR_TYPES,
    Outputs,
    assert_relations,
    attributes_of,
    dropped,
    model_of,
    node,
    one_node,
    random_data,
    run,
    session,
)
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnx_structdrop.functions import function_proto
from onnx_structdrop.reference import structured_dropout_grad
from onnx_structdrop.schema import DOMAIN, DROPOUT_OPS, ELEMENT_TYPES, GRAD_OP, MAX_OPSET

SIZES = (3, 4, 6, 7)
FREE = ("N", "C", "H", "W")

each_op = pytest.mark.parametrize("op_type", DROPOUT_OPS)


@pytest.fixture(autouse=True)
def silent_onnxruntime(capfd):
    """Fail on anything that onnxruntime prints while it loads or runs a model."""
    yield
    captured = capfd.readouterr()
    assert "onnxruntime" not in captured.err
    assert "onnxruntime" not in captured.out


# --- Seeds ---------------------------------------------------------------------------------------


def masks_of(model, count=4, sizes=(16, 32, 9, 8), ratio=0.3, **arguments):
    runner = session(model, **arguments)
    data = random_data(sizes)
    return [dropped(runner, data, ratio).mask.tobytes() for _ in range(count)]


@pytest.mark.parametrize("ratio", [0.05, 0.3])
@each_op
def test_two_sessions_replay_one_sequence(op_type, ratio):
    model = one_node(op_type, FREE)
    first, second = (masks_of(model, ratio=ratio) for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first)


@each_op
def test_a_session_among_others_replays_the_same_sequence(op_type):
    """The sequence belongs to the node, not to what else the process has run."""
    expected = masks_of(one_node(op_type, FREE, seed=11))
    for seed in (12, 13):
        masks_of(one_node(op_type, FREE, seed=seed))
    assert masks_of(one_node(op_type, FREE, seed=11)) == expected


@each_op
def test_seeds_give_different_masks(op_type):
    # onnxruntime starts run k from seed + k, so seeds next to each other would meet.
    seeds = (1, 10**4, 10**6, 2**30)
    sequences = [masks_of(one_node(op_type, FREE, seed=seed)) for seed in seeds]
    assert len({mask for sequence in sequences for mask in sequence}) == 4 * len(seeds)


@pytest.mark.parametrize("ratio", [0.05, 0.3])
@each_op
def test_threads_do_not_matter(op_type, ratio):
    model = one_node(op_type, FREE)
    sizes = (4, 16, 64, 64)
    sequences = [masks_of(model, 2, sizes, ratio, threads=threads) for threads in (1, 2, 4)]
    assert sequences[0] == sequences[1] == sequences[2]


@pytest.mark.parametrize("ratio", [0.05, 0.3])
@each_op
def test_optimisation_does_not_change_the_masks(op_type, ratio):
    model = one_node(op_type, FREE)
    first, *others = [masks_of(model, 3, level=level, ratio=ratio) for level in LEVELS]
    assert all(masks == first for masks in others)


@each_op
def test_element_types_share_the_masks(op_type):
    masks = [
        dropped(
            session(one_node(op_type, FREE, element=element)), random_data(SIZES, element), 0.4
        ).mask.tobytes()
        for element in ELEMENT_TYPES
    ]
    assert len(set(masks)) == 1


def test_opsets_share_the_masks():
    for op_type in DROPOUT_OPS:
        sequences = [masks_of(one_node(op_type, FREE, opset=opset)) for opset in (13, 17, 20, 26)]
        assert all(sequence == sequences[0] for sequence in sequences)


@each_op
def test_a_ratio_can_change_from_run_to_run(op_type):
    runner = session(one_node(op_type, FREE))
    data = random_data((4, 8, 12, 12))
    fractions = []
    for ratio in (0.0, 0.02, 0.3, 1.0, 0.0, 0.6):
        outputs = dropped(runner, data, ratio)
        assert_relations(op_type, attributes_of(op_type, 4), data, ratio, outputs)
        fractions.append(1 - outputs.mask.mean())
    assert fractions[0] == fractions[4] == 0
    assert fractions[3] == 1
    assert fractions[1] < fractions[2] < fractions[5] < 1


@each_op
def test_sizes_can_change_from_run_to_run(op_type):
    runner = session(one_node(op_type, FREE))
    for sizes in ((1, 2, 5, 5), (3, 4, 9, 2), (2, 1, 1, 1), (1, 2, 5, 5)):
        data = random_data(sizes)
        outputs = dropped(runner, data, 0.3)
        assert_relations(op_type, attributes_of(op_type, 4), data, 0.3, outputs)


# --- Several nodes -------------------------------------------------------------------------------


def two_nodes(op_type, seeds, shape=FREE):
    """Return one data -> two dropout nodes, side by side."""
    calls = [
        node(
            op_type,
            ["data", "ratio"],
            [f"output{index}", f"mask{index}", f"scale{index}"],
            attributes_of(op_type, 4),
            seed=seed,
        )
        for index, seed in enumerate(seeds)
    ]
    return model_of(
        calls,
        [
            helper.make_tensor_value_info("data", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("ratio", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info(f"output{index}", TensorProto.FLOAT, shape)
            for index in range(len(seeds))
        ],
        [function_proto(op_type, 20, "float32")],
        opset=20,
    )


@pytest.mark.parametrize("level", LEVELS, ids=str)
@each_op
def test_two_nodes_on_one_value_differ(op_type, level):
    model = two_nodes(op_type, (3, 4))
    onnx.checker.check_model(model, full_check=True)
    runner = session(model, level)
    feeds = {"data": random_data((2, 16, 6, 7)), "ratio": np.array(0.3, np.float32)}
    for _ in range(2):
        first, second = run(runner, feeds)
        assert not np.array_equal(first, second)


@pytest.mark.parametrize("opset", [15, 16, 18, 20, MAX_OPSET])
@each_op
def test_one_function_for_all_types(op_type, opset):
    """The generic function serves calls of four element types in one model."""
    calls = [
        node(
            op_type,
            [f"data_{element}", "ratio"],
            [f"{name}_{element}" for name in Outputs._fields],
            attributes_of(op_type, 4),
            seed=10 + index,
        )
        for index, element in enumerate(ELEMENT_TYPES)
    ]
    outputs = []
    for element in ELEMENT_TYPES:
        outputs += [
            helper.make_tensor_value_info(f"output_{element}", TENSOR_TYPES[element], FREE),
            helper.make_tensor_value_info(f"mask_{element}", TensorProto.BOOL, [None] * 4),
            helper.make_tensor_value_info(f"scale_{element}", TensorProto.FLOAT, []),
        ]
    model = model_of(
        calls,
        [
            *(
                helper.make_tensor_value_info(f"data_{element}", TENSOR_TYPES[element], FREE)
                for element in ELEMENT_TYPES
            ),
            helper.make_tensor_value_info("ratio", TensorProto.FLOAT, []),
        ],
        outputs,
        [function_proto(op_type, opset, None)],
        opset=opset,
    )
    onnx.checker.check_model(model, full_check=True)
    feeds = {f"data_{element}": random_data(SIZES, element) for element in ELEMENT_TYPES}
    for level in (DISABLE_ALL, ALL):
        results = run(session(model, level), {**feeds, "ratio": np.array(0.4, np.float32)})
        for index, element in enumerate(ELEMENT_TYPES):
            triple = Outputs(*results[3 * index : 3 * index + 3])
            data = feeds[f"data_{element}"]
            assert_relations(op_type, attributes_of(op_type, 4), data, 0.4, triple)


@pytest.mark.parametrize("element", ["float16", "float32", "float64"])
@pytest.mark.parametrize("opset", [15, 17, MAX_OPSET])
@each_op
def test_generic_function_with_one_type(op_type, opset, element):
    model = one_node(op_type, FREE, opset=opset, element=element, generic=True)
    onnx.checker.check_model(model, full_check=True)
    data = random_data(SIZES, element)
    for level in (DISABLE_ALL, ALL):
        runner = session(model, level)
        for ratio in (0.1, 0.4):
            outputs = dropped(runner, data, ratio)
            assert_relations(op_type, attributes_of(op_type, 4), data, ratio, outputs)
    inference = one_node(op_type, FREE, opset=opset, element=element, generic=True, training_mode=0)
    assert dropped(session(inference), data, 0.4).output.tobytes() == data.tobytes()


@pytest.mark.parametrize("normalize", [1, 2])
def test_forward_and_gradient_in_one_model(normalize):
    changes = {"shared_axes": [1], "normalize": normalize}
    model = one_node("DropBlock", FREE, **changes)
    model.functions.append(function_proto(GRAD_OP, 20, "float32"))
    model.graph.node.append(
        helper.make_node(
            GRAD_OP, ["data", "mask", "scale"], ["gradient"], domain=DOMAIN, name="gradient"
        )
    )
    model.graph.output.append(helper.make_tensor_value_info("gradient", TensorProto.FLOAT, FREE))
    onnx.checker.check_model(model, full_check=True)
    data = random_data(SIZES)
    output, mask, scale, gradient = run(
        session(model), {"data": data, "ratio": np.array(0.4, np.float32)}
    )
    # The operator is linear, so on the same argument it equals its own gradient.
    np.testing.assert_array_equal(gradient, output)
    np.testing.assert_array_equal(gradient, structured_dropout_grad(data, mask, scale))


# --- The reference evaluator ---------------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 17, 20, 26])
@pytest.mark.parametrize("element", ELEMENT_TYPES)
@each_op
def test_reference_evaluator(op_type, element, opset):
    attributes = attributes_of(op_type, 4)
    data = random_data(SIZES, element)
    evaluator = ReferenceEvaluator(one_node(op_type, FREE, opset=opset, element=element))
    for ratio in (0.0, 0.05, 0.4, 1.0):
        outputs = dropped(evaluator, data, ratio)
        assert_relations(op_type, attributes, data, ratio, outputs)
    inference = one_node(op_type, FREE, opset=opset, element=element, training_mode=0)
    outputs = dropped(ReferenceEvaluator(inference), data, 0.4)
    assert outputs.output.tobytes() == data.tobytes()
    assert outputs.output.dtype == DTYPES[element]
    assert outputs.mask.all()


@pytest.mark.parametrize("opset", [13, 17, 20, 26])
@pytest.mark.parametrize(
    "changes",
    [
        {"seed_region": 1, "block_size": [4, 2]},
        {"shared_axes": [0, 1], "normalize": 2},
        {"channel_axis": -1, "normalize": 0},
        {"block_size": [50]},
    ],
    ids=["whole", "shared", "last", "clipped"],
)
def test_reference_evaluator_with_options(changes, opset):
    attributes = attributes_of("DropBlock", 4, **changes)
    evaluator = ReferenceEvaluator(one_node("DropBlock", FREE, opset=opset, **changes))
    data = random_data(SIZES)
    for ratio in (0.05, 0.4):
        assert_relations("DropBlock", attributes, data, ratio, dropped(evaluator, data, ratio))


@pytest.mark.parametrize("opset", [13, 17, 20, 26])
def test_reference_evaluator_runs_the_gradient(opset):
    call = helper.make_node(GRAD_OP, ["grad", "mask", "scale"], ["result"], domain=DOMAIN)
    model = model_of(
        [call],
        [
            helper.make_tensor_value_info("grad", TensorProto.FLOAT, FREE),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, FREE),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, FREE)],
        [function_proto(GRAD_OP, opset, "float32")],
        opset=opset,
    )
    grad, mask = random_data(SIZES), np.random.default_rng(0).random(SIZES) < 0.5
    scale = np.array(1.3, np.float32)
    (result,) = run(ReferenceEvaluator(model), {"grad": grad, "mask": mask, "scale": scale})
    np.testing.assert_array_equal(result, structured_dropout_grad(grad, mask, scale))
