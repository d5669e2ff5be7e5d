"""The operators as functions, on onnxruntime: every opset, element type, layout and option."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
import pytest
from one_node import (
    ALL,
    BASIC,
    DISABLE_ALL,
    DTYPES,
    LEVELS,
    RANDOM_OPS,
    TENSOR_TYPES,
    assert_relations,
    assert_same_values,
    attributes_of,
    dropped,
    model_of,
    one_node,
    random_data,
    run,
    session,
)
from onnx import TensorProto, helper

from onnx_structdrop.errors import ArgumentError, UnsupportedModelError
from onnx_structdrop.functions import check_opset, function_proto
from onnx_structdrop.reference import mask_shape, structured_dropout_grad
from onnx_structdrop.schema import (
    DOMAIN,
    DROPOUT_OPS,
    ELEMENT_TYPES,
    GRAD_OP,
    MAX_OPSET,
    MIN_OPSET,
    OPERATORS,
)

OPSETS = range(MIN_OPSET, MAX_OPSET + 1)
# Bodies differ below 14 (allowzero), 16 (bfloat16 branches) and 18 (axes of ReduceProd).
BODY_OPSETS = (13, 14, 16, 18, MAX_OPSET)
SIZES = (3, 4, 6, 7)
FREE = ("N", "C", "H", "W")
# Gamma on a 6x7 map with block 3 is 0.0233 * ratio / 0.1: sparse at 0.1, dense at 0.4.
RATIOS = (0.1, 0.4)

each_op = pytest.mark.parametrize("op_type", DROPOUT_OPS)
each_shape = pytest.mark.parametrize("shape", [SIZES, FREE], ids=["static", "dynamic"])
each_element = pytest.mark.parametrize("element", ELEMENT_TYPES)


@pytest.fixture(autouse=True)
def silent_onnxruntime(capfd):
    """Fail on anything that onnxruntime prints while it loads or runs a model."""
    yield
    captured = capfd.readouterr()
    assert "onnxruntime" not in captured.err
    assert "onnxruntime" not in captured.out


def check_two_runs(model, op_type, attributes, data, level=ALL):
    """Check relations on rare and on dense seeds, and that runs differ."""
    runner = session(model, level)
    for ratio in RATIOS:
        results = [dropped(runner, data, ratio) for _ in range(3)]
        for outputs in results:
            assert_relations(op_type, attributes, data, ratio, outputs)
        # Small masks often lose nothing at the lower ratio, but not sixty times.
        assert any(
            dropped(runner, data, ratio).mask.tobytes() != results[0].mask.tobytes()
            for _ in range(60)
        )


# --- Every opset and element type ----------------------------------------------------------------


@each_shape
@each_element
@pytest.mark.parametrize("opset", OPSETS)
@each_op
def test_every_opset(op_type, opset, element, shape):
    model = one_node(op_type, shape, opset=opset, element=element)
    onnx.checker.check_model(model, full_check=True)
    data = random_data(SIZES, element)
    for level in LEVELS if shape == FREE else (DISABLE_ALL, ALL):
        check_two_runs(model, op_type, attributes_of(op_type, 4), data, level)


@pytest.mark.parametrize("ir_version", [8, 9, 10, 11, 12, 13])
@each_op
def test_every_ir_version(op_type, ir_version):
    model = one_node(op_type, FREE, ir_version=ir_version)
    onnx.checker.check_model(model, full_check=True)
    check_two_runs(model, op_type, attributes_of(op_type, 4), random_data(SIZES))


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize(
    "sizes", [(4, 5, 9), (3, 4, 6, 7), (2, 3, 4, 5, 6)], ids=["1D", "2D", "3D"]
)
@pytest.mark.parametrize("channel", ["first", "last", "negative"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@each_op
def test_ranks_and_layouts(op_type, sizes, channel, opset, dynamic):
    rank = len(sizes)
    if op_type == "NoiseShapeDropout":
        own = {"first": (0, 1), "last": (0, rank - 1), "negative": (rank - 1,)}[channel]
        changes = {"noise_shape": [0 if axis in own else 1 for axis in range(rank)]}
    else:
        changes = {"channel_axis": {"first": 1, "last": rank - 1, "negative": -1}[channel]}
    shape = tuple(f"d{axis}" for axis in range(rank)) if dynamic else sizes
    model = one_node(op_type, shape, opset=opset, **changes)
    onnx.checker.check_model(model, full_check=True)
    attributes = attributes_of(op_type, rank, **changes)
    for level in (DISABLE_ALL, ALL):
        check_two_runs(model, op_type, attributes, random_data(sizes), level)


def test_channels_in_the_middle():
    """The operator allows any channel axis, though no layout of a framework needs it."""
    sizes = (2, 5, 3, 6)
    for op_type in ("SpatialDropout", "DropBlock"):
        model = one_node(op_type, FREE, channel_axis=2)
        attributes = attributes_of(op_type, 4, channel_axis=2)
        check_two_runs(model, op_type, attributes, random_data(sizes))


@pytest.mark.parametrize("rank", [1, 2, 6])
def test_noise_shape_at_other_ranks(rank):
    sizes = (7, 5, 2, 3, 2, 2)[:rank]
    noise_shape = [axis % 2 for axis in range(rank)]
    model = one_node("NoiseShapeDropout", ("N", *sizes[1:]), noise_shape=noise_shape)
    attributes = attributes_of("NoiseShapeDropout", rank, noise_shape=noise_shape)
    check_two_runs(model, "NoiseShapeDropout", attributes, random_data(sizes))


# --- Options of DropBlock ------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [17])
@pytest.mark.parametrize("shared_axes", [[], [1], [0], [0, 1], [-3], [-4, 1]])
@pytest.mark.parametrize("seed_region", [0, 1])
@pytest.mark.parametrize("normalize", [0, 1, 2])
@each_shape
def test_drop_block_options(shape, normalize, seed_region, shared_axes, opset):
    changes = {"normalize": normalize, "seed_region": seed_region}
    positive = [axis % 4 for axis in shared_axes]
    attributes = attributes_of("DropBlock", 4, shared_axes=positive, **changes)
    model = one_node("DropBlock", shape, opset=opset, shared_axes=shared_axes, **changes)
    onnx.checker.check_model(model, full_check=True)
    data = random_data(SIZES)
    check_two_runs(model, "DropBlock", attributes, data)
    outputs = dropped(session(model), data, 0.4)
    samples = 1 if 0 in positive else SIZES[0]
    assert outputs.scale.shape == ((samples, 1, 1, 1) if normalize == 2 else ())


@pytest.mark.parametrize("seed_region", [0, 1])
@pytest.mark.parametrize("shared_axes", [[0], [3], [0, 3]])
def test_shared_axes_with_channels_last(shared_axes, seed_region):
    sizes = (3, 6, 7, 4)
    changes = {"channel_axis": -1, "shared_axes": shared_axes, "seed_region": seed_region}
    model = one_node("DropBlock", ("N", "H", "W", "C"), **changes)
    attributes = attributes_of("DropBlock", 4, **changes)
    check_two_runs(model, "DropBlock", attributes, random_data(sizes))


@pytest.mark.parametrize("seed_region", [0, 1])
@pytest.mark.parametrize("block", [[1], [2], [3, 4], [5, 2], [1, 7], [6, 7], [7], [50], [2, 50]])
@each_shape
def test_block_sizes(shape, block, seed_region):
    changes = {"block_size": block, "seed_region": seed_region}
    model = one_node("DropBlock", shape, **changes)
    attributes = attributes_of("DropBlock", 4, **changes)
    runner = session(model)
    data = random_data(SIZES)
    for ratio in (0.02, 0.1, 0.4, 0.9):
        for _ in range(5):
            assert_relations("DropBlock", attributes, data, ratio, dropped(runner, data, ratio))


def test_one_block_per_spatial_axis_with_channels_last():
    changes = {"channel_axis": 3, "block_size": [4, 2]}
    model = one_node("DropBlock", ("N", "H", "W", "C"), **changes)
    attributes = attributes_of("DropBlock", 4, **changes)
    check_two_runs(model, "DropBlock", attributes, random_data((3, 7, 6, 4)))


def test_a_block_as_large_as_the_map_drops_whole_maps():
    model = one_node("DropBlock", FREE, block_size=[99])
    mask = dropped(session(model), random_data((50, 20, 3, 5)), 0.3).mask
    per_map = mask.reshape(1000, 15)
    assert (per_map.all(1) | ~per_map.any(1)).all()
    # Binomial(1000, 0.3): six standard deviations.
    assert abs((~per_map).all(1).mean() - 0.3) < 6 * math.sqrt(0.3 * 0.7 / 1000)


@pytest.mark.parametrize("seed_region", [0, 1])
def test_scale_is_counted_exactly_in_half_precision(seed_region):
    """A float16 sum would stop at 2048 and overflow at 65504."""
    sizes = (1, 1, 700, 300)
    for element in ("float16", "bfloat16"):
        changes = {"block_size": [5], "seed_region": seed_region}
        model = one_node("DropBlock", FREE, element=element, **changes)
        data = random_data(sizes, element)
        outputs = dropped(session(model), data, 0.2)
        attributes = attributes_of("DropBlock", 4, **changes)
        assert_relations("DropBlock", attributes, data, 0.2, outputs)


def test_noise_shape_without_scaling():
    model = one_node("NoiseShapeDropout", FREE, scale_by_keep=0)
    data = random_data(SIZES)
    outputs = dropped(session(model), data, 0.4)
    assert outputs.scale == 1
    attributes = attributes_of("NoiseShapeDropout", 4, scale_by_keep=0)
    assert_relations("NoiseShapeDropout", attributes, data, 0.4, outputs)


# --- Edges of the ratio, the values and the sizes ------------------------------------------------


def special_data(element):
    """Return data with every kind of number, most of them special."""
    kinds = [math.nan, math.inf, -math.inf, -0.0, 0.0, 1e-7, 65000.0, -1.5]
    with np.errstate(over="ignore"):
        return np.resize(np.asarray(kinds), (2, 2, 6, 7)).astype(DTYPES[element])


@pytest.mark.parametrize("opset", BODY_OPSETS)
@each_element
@each_op
def test_ratio_0_changes_no_bit(op_type, element, opset):
    model = one_node(op_type, FREE, opset=opset, element=element)
    data = special_data(element)
    for level in (DISABLE_ALL, ALL):
        outputs = dropped(session(model, level), data, 0.0)
        assert_same_values(outputs.output, data)
        assert outputs.mask.all()
        assert outputs.scale == 1


@pytest.mark.parametrize("normalize", [0, 1, 2])
def test_ratio_0_with_every_normalization(normalize):
    model = one_node("DropBlock", FREE, normalize=normalize)
    data = special_data("float32")
    outputs = dropped(session(model), data, 0.0)
    assert_same_values(outputs.output, data)
    assert (outputs.scale == 1).all()


@pytest.mark.parametrize("opset", BODY_OPSETS)
@each_element
@each_op
def test_ratio_1_drops_everything(op_type, element, opset):
    model = one_node(op_type, FREE, opset=opset, element=element)
    data = special_data(element)
    for level in (DISABLE_ALL, ALL):
        outputs = dropped(session(model, level), data, 1.0)
        assert not outputs.output.astype(np.float64).any()
        assert not outputs.mask.any()
        assert np.isfinite(outputs.scale).all()


@pytest.mark.parametrize("seed_region", [0, 1])
@pytest.mark.parametrize("normalize", [0, 1, 2])
def test_ratio_1_with_every_option(normalize, seed_region):
    changes = {"normalize": normalize, "seed_region": seed_region}
    model = one_node("DropBlock", FREE, **changes)
    data = random_data(SIZES)
    outputs = dropped(session(model), data, 1.0)
    assert not outputs.mask.any()
    assert_relations("DropBlock", attributes_of("DropBlock", 4, **changes), data, 1.0, outputs)


@pytest.mark.parametrize("ratio", [np.nextafter(np.float32(1), np.float32(0)), 1e-30, 1e-45])
@each_op
def test_ratios_next_to_the_edges(op_type, ratio):
    model = one_node(op_type, FREE)
    data = random_data(SIZES)
    for level in (DISABLE_ALL, ALL):
        outputs = dropped(session(model, level), data, ratio)
        assert_relations(op_type, attributes_of(op_type, 4), data, float(ratio), outputs)


@each_element
@each_op
def test_dropped_specials_become_zero(op_type, element):
    model = one_node(op_type, FREE, element=element)
    data = special_data(element)
    runner = session(model)
    attributes = attributes_of(op_type, 4)
    hidden = 0
    for _ in range(8):
        outputs = dropped(runner, data, 0.5)
        assert_relations(op_type, attributes, data, 0.5, outputs)
        gone = ~np.broadcast_to(outputs.mask, data.shape)
        assert outputs.output[gone].astype(np.float64).tobytes() == bytes(8 * int(gone.sum()))
        hidden += int((gone & ~np.isfinite(data.astype(np.float64))).sum())
    assert hidden


@pytest.mark.parametrize("ratio", [math.nan, 1.5, -0.1, math.inf, -math.inf])
@pytest.mark.parametrize("opset", [13, 20])
@each_shape
@each_op
def test_ratio_outside_its_range_is_an_error(op_type, shape, opset, ratio):
    model = one_node(op_type, shape, opset=opset)
    for level in (DISABLE_ALL, ALL):
        runner = session(model, level, severity=4)
        with pytest.raises(Exception, match="Dropout node"):
            dropped(runner, random_data(SIZES), ratio)


@pytest.mark.parametrize("opset", [14, 20])
@pytest.mark.parametrize("sizes", [(0, 4, 6, 7), (2, 0, 6, 7), (2, 4, 0, 7), (2, 4, 6, 0)])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@each_op
def test_empty_data(op_type, sizes, opset, dynamic):
    options = [{"seed_region": r, "normalize": n} for r in (0, 1) for n in (0, 1, 2)]
    for changes in options if op_type == "DropBlock" else [{}]:
        model = one_node(op_type, FREE if dynamic else sizes, opset=opset, **changes)
        attributes = attributes_of(op_type, 4, **changes)
        runner = session(model)
        for ratio in (0.0, 0.01, 0.4, 1.0):
            output, mask, scale = dropped(runner, np.zeros(sizes, np.float32), ratio)
            assert output.shape == sizes
            assert mask.shape == mask_shape(op_type, sizes, attributes)
            assert np.isfinite(scale).all()


def test_empty_maps_at_opset_13():
    """DropBlock's Reshape cannot make an empty mask there; the other two have none."""
    data = np.zeros((2, 4, 0, 7), np.float32)
    for op_type in ("SpatialDropout", "NoiseShapeDropout"):
        assert dropped(session(one_node(op_type, FREE, opset=13)), data, 0.4).output.size == 0
    runner = session(one_node("DropBlock", FREE, opset=13), severity=4)
    with pytest.raises(Exception, match="Reshape"):
        dropped(runner, data, 0.4)


# --- Inference mode ------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", BODY_OPSETS)
@each_shape
@each_element
@each_op
def test_inference_mode_changes_no_bit(op_type, element, shape, opset):
    model = one_node(op_type, shape, opset=opset, element=element, training_mode=0)
    onnx.checker.check_model(model, full_check=True)
    data = np.resize(special_data(element), SIZES)
    for level in (DISABLE_ALL, BASIC, ALL):
        runner = session(model, level)
        for ratio in (0.0, 0.4, 1.0):
            outputs = dropped(runner, data, ratio)
            assert outputs.output.tobytes() == data.tobytes()
            assert outputs.mask.all()
            assert outputs.mask.shape == mask_shape(op_type, SIZES, attributes_of(op_type, 4))
            assert outputs.scale.dtype == np.float32
            assert (outputs.scale == 1).all()


@pytest.mark.parametrize("normalize", [0, 1, 2])
@pytest.mark.parametrize("shared_axes", [[], [0], [0, 1]])
def test_scale_in_inference_mode(normalize, shared_axes):
    changes = {"normalize": normalize, "shared_axes": shared_axes}
    model = one_node("DropBlock", FREE, training_mode=0, **changes)
    scale = dropped(session(model), random_data(SIZES), 0.4).scale
    samples = 1 if 0 in shared_axes else SIZES[0]
    assert scale.shape == ((samples, 1, 1, 1) if normalize == 2 else ())
    assert (scale == 1).all()


def optimised_ops(model, path, level=BASIC):
    """Return the operators of the graph that onnxruntime runs, subgraphs included."""
    # Above EXTENDED, onnxruntime warns that a saved model is for this machine only.
    session(model, level, optimised=path, severity=3 if level in LEVELS[3:] else 2)
    graphs, ops = [onnx.load(path).graph], []
    while graphs:
        for entry in graphs.pop().node:
            ops.append(entry.op_type)
            graphs += [attribute.g for attribute in entry.attribute if attribute.HasField("g")]
    return ops


@pytest.mark.parametrize("opset", OPSETS)
@each_element
@each_op
def test_inference_mode_vanishes(op_type, element, opset, tmp_path):
    for only_output in (True, False):
        model = one_node(
            op_type, SIZES, opset=opset, element=element, training_mode=0, only_output=only_output
        )
        ops = optimised_ops(model, tmp_path / "optimised.onnx")
        # Below 16, onnxruntime's If takes no bfloat16, and two casts become one.
        assert ops == (["Cast"] if element == "bfloat16" and opset < 16 else ["Identity"])


@pytest.mark.parametrize("opset", [13, 20, MAX_OPSET])
@each_op
def test_inference_mode_vanishes_inside_a_graph(op_type, opset, tmp_path):
    ops = optimised_ops(between_relus(op_type, SIZES, opset, 0), tmp_path / "optimised.onnx")
    assert ops == ["Relu", "Relu"]


@pytest.mark.parametrize("opset", [13, 20, MAX_OPSET])
@each_op
def test_inference_mode_is_deterministic_where_sizes_are_free(op_type, opset, tmp_path):
    ops = optimised_ops(between_relus(op_type, FREE, opset, 0), tmp_path / "optimised.onnx")
    assert not RANDOM_OPS & set(ops)
    assert "If" not in ops


@each_op
def test_inference_mode_vanishes_where_sizes_are_free(op_type, tmp_path):
    ops = optimised_ops(between_relus(op_type, FREE, 20, 0), tmp_path / "optimised.onnx")
    assert ops == ["Relu", "Relu"]


@pytest.mark.parametrize("level", LEVELS, ids=str)
@each_op
def test_training_mode_survives_every_level(op_type, level, tmp_path):
    model = between_relus(op_type, FREE, 20, 1)
    assert RANDOM_OPS & set(optimised_ops(model, tmp_path / "optimised.onnx", level))
    runner = session(model, level)
    data = np.ones((4, 8, 6, 7), np.float32)
    feeds = {"x": data, "ratio": np.array(0.4, np.float32)}
    masks = {(run(runner, feeds)[0] > 0).tobytes() for _ in range(4)}
    assert len(masks) > 1


@pytest.mark.parametrize("opset", [13, 20])
@each_element
@each_op
def test_a_function_without_masks_drops_the_same(op_type, element, opset):
    """It differs in inference mode alone, where mask and scale are scalars."""
    data = random_data(SIZES, element)
    feeds = {"data": data, "ratio": np.array(0.4, np.float32)}
    models = []
    for mask_used in (True, False):
        model = one_node(op_type, FREE, opset=opset, element=element)
        del model.functions[:]
        model.functions.append(function_proto(op_type, opset, element, mask_used=mask_used))
        models.append(model)
    for level in (DISABLE_ALL, ALL):
        results = [run(session(model, level), feeds) for model in models]
        for first, second in zip(*results, strict=True):
            assert first.tobytes() == second.tobytes()
    for attribute in models[1].graph.node[0].attribute:
        if attribute.name == "training_mode":
            attribute.i = 0
    del models[1].graph.output[1].type.tensor_type.shape.dim[:]
    output, mask, scale = run(session(models[1]), feeds)
    assert output.tobytes() == data.tobytes()
    assert mask.shape == scale.shape == ()
    assert mask
    assert scale == 1


def between_relus(op_type, shape, opset, training_mode):
    """Return x -> Relu -> dropout -> Relu -> y, with a ratio as second input."""
    model = one_node(op_type, shape, opset=opset, only_output=True, training_mode=training_mode)
    graph = model.graph
    graph.input[0].name, graph.output[0].name = "x", "y"
    graph.node.insert(0, helper.make_node("Relu", ["x"], ["data"]))
    graph.node.append(helper.make_node("Relu", ["output"], ["y"]))
    onnx.checker.check_model(model, full_check=True)
    return model


# --- The gradient --------------------------------------------------------------------------------


def gradient_model(element, opset, shape=FREE, generic=False):
    values = [
        helper.make_tensor_value_info(name, kind, sizes)
        for name, kind, sizes in (
            ("output_grad", TENSOR_TYPES[element], shape),
            ("mask", TensorProto.BOOL, [None] * 4),
            ("scale", TensorProto.FLOAT, None),
            ("data_grad", TENSOR_TYPES[element], shape),
        )
    ]
    if values[2].type.tensor_type.HasField("shape") is False:
        values[2].type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto())
    call = helper.make_node(
        GRAD_OP, ["output_grad", "mask", "scale"], ["data_grad"], domain=DOMAIN, name="grad"
    )
    function = function_proto(GRAD_OP, opset, None if generic else element)
    return model_of([call], values[:3], values[3:], [function], opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@each_element
def test_gradient(element, opset):
    model = gradient_model(element, opset)
    onnx.checker.check_model(model, full_check=True)
    rng = np.random.default_rng(3)
    grad = special_data(element)
    mask = rng.random((2, 1, 6, 7)) < 0.5
    scale = np.array(1.7, np.float32)
    for level in LEVELS:
        (result,) = run(session(model, level), {"output_grad": grad, "mask": mask, "scale": scale})
        assert_same_values(result, structured_dropout_grad(grad, mask, scale))


# --- function_proto itself -----------------------------------------------------------------------


@pytest.mark.parametrize("element", [None, *ELEMENT_TYPES])
@pytest.mark.parametrize("op_type", OPERATORS)
def test_proto_carries_what_the_schema_says(op_type, element):
    proto = function_proto(op_type, 20, element)
    assert (proto.domain, proto.name) == (DOMAIN, op_type)
    assert list(proto.attribute) == list(OPERATORS[op_type].attributes)
    assert not proto.attribute_proto
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 20)]
    if op_type == GRAD_OP:
        assert list(proto.input) == ["output_grad", "mask", "scale"]
        assert len(proto.output) == 1
    else:
        assert list(proto.input) == ["data", "ratio"]
        assert [name.split("_")[0] for name in proto.output] == ["output", "mask", "scale"]
    assert proto.doc_string


def test_proto_is_the_callers_own():
    changed = function_proto("DropBlock", 20, "float32")
    del changed.node[:]
    assert function_proto("DropBlock", 20, "float32").node


@pytest.mark.parametrize("op_type", OPERATORS)
def test_proto_is_reproducible(op_type):
    first, second = (function_proto(op_type, 17, "float16") for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


def test_only_dropout_is_random():
    for op_type in OPERATORS:
        text = str(function_proto(op_type, 20, "float32"))
        used = {name for name in RANDOM_OPS if f'op_type: "{name}"' in text}
        assert used == (set() if op_type == GRAD_OP else {"Dropout"})


@pytest.mark.parametrize("opset", [1, 7, 12])
def test_old_opsets_are_refused(opset):
    with pytest.raises(UnsupportedModelError, match=rf"opset {opset}\b.*at least 13.*convert"):
        check_opset(opset)
    with pytest.raises(UnsupportedModelError, match="at least 13"):
        function_proto("DropBlock", opset, "float32")


def test_newer_opsets_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"opset 27, newer.*26"):
        function_proto("SpatialDropout", MAX_OPSET + 1, "float32")


@pytest.mark.parametrize("opset", [13, 14])
@pytest.mark.parametrize("op_type", OPERATORS)
def test_mixed_types_need_opset_15(op_type, opset):
    with pytest.raises(UnsupportedModelError, match=rf"{op_type}.*opset 15.*imports {opset}"):
        function_proto(op_type, opset, None)


def test_unknown_operator():
    with pytest.raises(ArgumentError, match=r"'DropBloc'.*DropBlock"):
        function_proto("DropBloc", 20, "float32")


@pytest.mark.parametrize("element", ["int8", "float", "FLOAT", "float8e4m3fn", ""])
def test_unknown_element_type(element):
    with pytest.raises(ArgumentError, match=f"DropBlock.*{element!r}.*float16, bfloat16"):
        function_proto("DropBlock", 20, element)


def test_bfloat16_is_ml_dtypes():
    """The helper that reads bfloat16 out of onnxruntime is right about the bits."""
    model = one_node("SpatialDropout", FREE, element="bfloat16", training_mode=0)
    data = np.arange(-4, 4, 0.125).astype(ml_dtypes.bfloat16).reshape(1, 4, 4, 4)
    assert dropped(session(model), data, 0.5).output.tolist() == data.tolist()
