"""What the kernels compute, whatever they draw: against the reference and the function form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from kernel_nodes import ELEMENTS, NodeCase, bits_of, node_cases, special_numbers
from kernel_sessions import kernel_session, options_of
from one_node import (
    DTYPES,
    Outputs,
    assert_whole_blocks,
    attributes_of,
    dropped,
    expected_scale,
    one_node,
    random_data,
    run,
    session,
)

from onnx_structdrop import reference
from onnx_structdrop.functions import function_proto
from onnx_structdrop.reference.outputs import select
from onnx_structdrop.schema import DROPOUT_OPS

each_op = pytest.mark.parametrize("op_type", DROPOUT_OPS)
each_element = pytest.mark.parametrize("element", ELEMENTS)
RUNS = 2


def model_of(case: NodeCase, shape=None, **changes):
    return one_node(
        case.op_type,
        shape or case.free,
        element=case.element,
        **{"seed": case.seed, **case.attributes, **changes},
    )


def assert_exact(case: NodeCase, data, outputs: Outputs):
    """Check the outputs against the reference: bits, and no tolerance."""
    output, mask, scale = outputs
    assert output.dtype == data.dtype
    assert mask.dtype == np.bool_
    assert scale.dtype == np.float32
    assert output.shape == case.sizes
    assert mask.shape == case.mask_shape
    assert scale.shape == case.scale_shape
    np.testing.assert_array_equal(
        scale, expected_scale(case.op_type, case.positive, mask, case.ratio)
    )
    if case.ratio == 0:
        assert mask.all()
        assert output.tobytes() == data.tobytes()
        return
    np.testing.assert_array_equal(bits_of(output), bits_of(select(data, mask, scale)))
    if case.ratio == 1:
        assert not mask.any()
    elif case.op_type == "DropBlock" and mask.size:
        assert_whole_blocks(case.positive, case.sizes, mask)


@settings(max_examples=600)
@given(node_cases())
def test_outputs_are_those_of_the_reference(case):
    runner = kernel_session(model_of(case))
    for turn in range(RUNS):
        data = special_numbers(case.sizes, case.element, turn)
        assert_exact(case, data, dropped(runner, data, case.ratio))


@settings(max_examples=60)
@given(node_cases(least_size=0))
def test_empty_data(case):
    runner = kernel_session(model_of(case))
    for axis in range(len(case.sizes)):
        sizes = tuple(0 if at == axis else size for at, size in enumerate(case.sizes))
        empty = NodeCase(case.op_type, case.element, sizes, case.attributes, case.ratio, case.seed)
        data = special_numbers(sizes, case.element, 0)
        assert_exact(empty, data, dropped(runner, data, case.ratio))


@settings(max_examples=40)
@given(node_cases())
def test_shapes_and_types_are_those_of_the_function(case):
    """And where both keep or drop everything, so are the bits."""
    data = special_numbers(case.sizes, case.element, 0)
    model = model_of(case)
    kernel, function = kernel_session(model), session(model)
    for ratio in (0.0, 0.4, 1.0):
        first, second = (dropped(runner, data, ratio) for runner in (kernel, function))
        for ours, theirs in zip(first, second, strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.shape == theirs.shape
        if ratio in (0, 1):
            np.testing.assert_array_equal(first.mask, second.mask)
            np.testing.assert_array_equal(first.scale, second.scale)
            np.testing.assert_array_equal(
                first.output.astype(np.float64), second.output.astype(np.float64)
            )


@settings(max_examples=60)
@given(node_cases())
def test_outputs_that_nobody_uses_change_nothing(case):
    data = special_numbers(case.sizes, case.element, 3)
    full, short = kernel_session(model_of(case)), kernel_session(model_of(case, only_output=True))
    feeds = {"data": data, "ratio": np.array(case.ratio, np.float32)}
    for _ in range(RUNS):
        assert run(full, feeds)[0].tobytes() == run(short, feeds)[0].tobytes()


@pytest.mark.parametrize("used", [("mask",), ("scale",), ("output", "scale")])
@each_op
def test_any_subset_of_outputs(op_type, used):
    """One output may be fetched without the others, and mask without scale."""
    model = one_node(op_type, ("N", "C", "H", "W"))
    node = model.graph.node[0]
    names = ("output", "mask", "scale")
    for index, name in enumerate(names):
        if name not in used and index:
            node.output[index] = ""
    kept = [value for value in model.graph.output if value.name in used]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    data = random_data((3, 4, 6, 7))
    feeds = {"data": data, "ratio": np.array(0.4, np.float32)}
    expected = dropped(kernel_session(one_node(op_type, ("N", "C", "H", "W"))), data, 0.4)
    for name, result in zip(used, run(kernel_session(model), feeds), strict=True):
        assert result.tobytes() == getattr(expected, name).tobytes()


@settings(max_examples=60)
@given(node_cases(least_size=0))
def test_inference_mode_changes_no_bit(case):
    data = special_numbers(case.sizes, case.element, 4)
    for shape in (case.free, case.sizes):
        runner = kernel_session(model_of(case, shape, training_mode=0))
        outputs = dropped(runner, data, case.ratio)
        assert outputs.output.dtype == data.dtype
        assert outputs.output.tobytes() == data.tobytes()
        assert outputs.mask.shape == case.mask_shape
        assert outputs.mask.all()
        assert outputs.scale.dtype == np.float32
        assert outputs.scale.shape == case.scale_shape
        assert (outputs.scale == 1).all()


@settings(max_examples=40)
@given(node_cases())
def test_known_shapes_draw_the_same_as_free_ones(case):
    """Output in place of the input, or in memory of its own: the bytes are the same."""
    data = special_numbers(case.sizes, case.element, 5)
    free, known = kernel_session(model_of(case)), kernel_session(model_of(case, case.sizes))
    for _ in range(RUNS):
        pair = [dropped(runner, data, case.ratio) for runner in (free, known)]
        for ours, theirs in zip(*pair, strict=True):
            assert ours.tobytes() == theirs.tobytes()


@each_element
def test_the_product_is_rounded_once(element):
    """Every finite half, and many wider numbers, times a scale that is no power of two."""
    if DTYPES[element].itemsize == 2:
        data = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[element]).reshape(1, 256, 256)
    else:
        data = special_numbers((1, 256, 256), element, 9)
    model = one_node("SpatialDropout", ("N", "C", "L"), element=element)
    for ratio in (0.1, 0.3, 0.7):
        outputs = dropped(kernel_session(model), data, ratio)
        case = NodeCase("SpatialDropout", element, data.shape, {"channel_axis": 1}, ratio, 7)
        assert_exact(case, data, outputs)
        assert outputs.mask.sum() not in (0, 256)


@each_element
@each_op
def test_overflow_is_infinite_as_in_the_function(op_type, element):
    """The largest number times a scale above 1 is infinite, never a wrapped one or NaN."""
    largest = {"float16": 65504.0, "float64": np.finfo(np.float64).max}.get(element, 3.38e38)
    data = np.full((8, 16, 9, 9), largest).astype(DTYPES[element])
    model = one_node(op_type, ("N", "C", "H", "W"), element=element)
    for runner in (kernel_session(model), session(model)):
        output, mask, scale = dropped(runner, data, 0.4)
        assert scale > 1.1
        wide = output.astype(np.float64)
        kept = np.broadcast_to(mask, data.shape)
        assert (wide[kept] == np.inf).all()
        assert not wide[~kept].any()


@pytest.mark.parametrize("seed_region", [0, 1])
@each_element
def test_the_count_is_exact_on_large_maps(element, seed_region):
    """A float16 sum would stop at 2048 and overflow at 65504, a float32 one lose digits at 2^24."""
    sizes = (1, 3, 2600, 2200) if element == "float16" else (2, 3, 300, 200)
    attributes = attributes_of("DropBlock", 4, block_size=[5], seed_region=seed_region)
    case = NodeCase("DropBlock", element, sizes, attributes, 0.2, 11)
    data = np.ones(sizes, DTYPES[element])
    output, mask, scale = dropped(kernel_session(model_of(case)), data, 0.2)
    kept = np.count_nonzero(mask)
    assert scale == np.float32(mask.size / kept)
    one = (np.ones((), DTYPES[element]).astype(np.float64) * scale).astype(DTYPES[element])
    assert np.count_nonzero(output == one) == kept
    assert np.count_nonzero(output) == kept


def test_ranks_beyond_the_usual():
    for rank in (1, 2, 6, 8, 12):
        noise_shape = [axis % 2 for axis in range(rank)]
        sizes = (3, 2, 5)[:rank] + (2,) * max(rank - 3, 0)
        attributes = {"noise_shape": noise_shape, "scale_by_keep": 1}
        case = NodeCase("NoiseShapeDropout", "float32", sizes, attributes, 0.4, 3)
        data = random_data(sizes)
        assert_exact(case, data, dropped(kernel_session(model_of(case)), data, 0.4))
    for sizes in ((5, 7), (2, 3, 2, 3, 2, 3)):
        case = NodeCase("SpatialDropout", "float32", sizes, {"channel_axis": 1}, 0.4, 3)
        data = random_data(sizes)
        assert_exact(case, data, dropped(kernel_session(model_of(case)), data, 0.4))
    sizes = (2, 2, 3, 4, 3, 4)
    attributes = attributes_of("DropBlock", 6, block_size=[2])
    case = NodeCase("DropBlock", "float32", sizes, attributes, 0.4, 3)
    data = random_data(sizes)
    assert_exact(case, data, dropped(kernel_session(model_of(case)), data, 0.4))


@pytest.mark.parametrize("block", [5, 99, 2**40, 2**63 - 1])
def test_a_block_as_large_as_the_map_drops_whole_maps(block):
    """Sizes beyond 32 bits are clipped, too."""
    sizes = (50, 20, 3, 5)
    data = random_data(sizes)
    for region in (0, 1):
        attributes = attributes_of("DropBlock", 4, block_size=[block], seed_region=region)
        case = NodeCase("DropBlock", "float32", sizes, attributes, 0.03, 5)
        outputs = dropped(kernel_session(model_of(case)), data, 0.03)
        assert_exact(case, data, outputs)
        per_map = outputs.mask.reshape(1000, 15)
        assert (per_map.all(1) | ~per_map.any(1)).all() == (region == 0)
        assert 0 < (~outputs.mask).sum() < outputs.mask.size


@each_op
def test_the_reference_agrees_on_what_the_kernel_drew(op_type):
    """Uniforms that make the reference draw the kernel's mask make it compute the same outputs."""
    sizes = (4, 5, 8, 9)
    attributes = attributes_of(op_type, 4, **({"block_size": [1]} if "Block" in op_type else {}))
    case = NodeCase(op_type, "float32", sizes, attributes, 0.3, 5)
    data = random_data(sizes)
    ours = dropped(kernel_session(model_of(case)), data, 0.3)
    function = {
        "SpatialDropout": reference.spatial_dropout,
        "NoiseShapeDropout": reference.noise_shape_dropout,
        "DropBlock": reference.drop_block,
    }[op_type]
    theirs = function(data, 0.3, np.where(ours.mask, 0.999, 0.0), **attributes)
    for first, second in zip(ours, theirs, strict=True):
        assert first.tobytes() == second.tobytes()


def test_the_same_session_serves_every_shape_and_ratio():
    """Scratch memory is kept between runs; a smaller or larger next run must not see it."""
    model = one_node("DropBlock", ("N", "C", "H", "W"), normalize=2)
    runner = kernel_session(model, options=options_of(threads=2))
    rng = np.random.default_rng(0)
    for turn in range(40):
        sizes = tuple(int(size) for size in rng.integers(0, (5, 40, 30, 30)))
        ratio = float(rng.choice([0.0, 0.01, 0.3, 0.9, 1.0]))
        case = NodeCase(
            "DropBlock", "float32", sizes, attributes_of("DropBlock", 4, normalize=2), ratio, 7
        )
        data = random_data(sizes, seed=turn)
        assert_exact(case, data, dropped(runner, data, ratio))


def test_models_of_this_module_hold_functions():
    """So the kernel took a function's place in every test above."""
    model = one_node("DropBlock", ("N", "C", "H", "W"))
    assert model.functions[0] == function_proto("DropBlock", 20, "float32")
