"""Models of a single dropout node, ways to run them, and the relations their outputs obey."""

from __future__ import annotations

import ctypes
import math
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from numpy.lib.stride_tricks import sliding_window_view
from onnx import AttributeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnx_structdrop.functions import function_proto
from onnx_structdrop.reference import mask_shape
from onnx_structdrop.schema import DOMAIN, VERSION

MODELS = pathlib.Path(__file__).parents[1] / "models"
"""The folder of the sample models."""

LEVELS = tuple(
    getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name}")
    for name in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_LAYOUT", "ENABLE_ALL")
    # Layout optimisation became a level of its own in onnxruntime 1.23.
    if hasattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name}")
)
DISABLE_ALL, BASIC = LEVELS[:2]
ALL = LEVELS[-1]

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
TENSOR_TYPES = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}
RANDOM_OPS = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


class Outputs(NamedTuple):
    """What a dropout node computes."""

    output: np.ndarray[Any, Any]
    mask: np.ndarray[Any, Any]
    scale: np.ndarray[Any, Any]


def attributes_of(op_type: str, rank: int, **changes: Any) -> dict[str, Any]:
    """Return every attribute of a node but training_mode and seed, with changes."""
    attributes: dict[str, Any] = {
        "SpatialDropout": {"channel_axis": 1},
        "NoiseShapeDropout": {"noise_shape": [0, 0] + [1] * (rank - 2), "scale_by_keep": 1},
        "DropBlock": {
            "block_size": [3],
            "channel_axis": 1,
            "shared_axes": [],
            "seed_region": 0,
            "normalize": 1,
        },
    }[op_type]
    return {**attributes, **changes}


def node(
    op_type: str,
    inputs: list[str],
    outputs: list[str],
    attributes: dict[str, Any],
    *,
    training_mode: int = 1,
    seed: int = 7,
) -> onnx.NodeProto:
    """Return a node of ours."""
    result = helper.make_node(op_type, inputs, outputs, domain=DOMAIN, name=f"{outputs[0]}_node")
    for name, value in {"training_mode": training_mode, "seed": seed, **attributes}.items():
        # An empty list has no type of its own.
        kind = AttributeProto.INT if isinstance(value, int) else AttributeProto.INTS
        result.attribute.append(helper.make_attribute(name, value, attr_type=kind))
    return result


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    functions: list[onnx.FunctionProto],
    *,
    opset: int,
    ir_version: int = 8,
    initializers: list[onnx.TensorProto] | None = None,
) -> onnx.ModelProto:
    """Return a model with functions of our domain."""
    return helper.make_model(
        helper.make_graph(nodes, "one_node", inputs, outputs, initializers or []),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
        functions=functions,
        ir_version=ir_version,
    )


def one_node(
    op_type: str,
    shape: tuple[int | str | None, ...],
    *,
    opset: int = 20,
    element: str = "float32",
    generic: bool = False,
    only_output: bool = False,
    training_mode: int = 1,
    seed: int = 7,
    ir_version: int = 8,
    **changes: Any,
) -> onnx.ModelProto:
    """Return a model data, ratio -> output, mask, scale with one node.

    `shape` is what the model states of data; `changes` are changes of the node's attributes.
    """
    attributes = attributes_of(op_type, len(shape), **changes)
    mask = tuple(
        size if isinstance(size, int) and size == own else None
        for size, own in zip(_mask_shape(op_type, shape, attributes), shape, strict=True)
    )
    per_sample = attributes.get("normalize") == 2
    element_type = TENSOR_TYPES[element]
    names = ["output", "", ""] if only_output else ["output", "mask", "scale"]
    results = [
        helper.make_tensor_value_info("output", element_type, shape),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, mask),
        helper.make_tensor_value_info(
            "scale", TensorProto.FLOAT, [None] * len(shape) if per_sample else []
        ),
    ]
    return model_of(
        [
            node(
                op_type,
                ["data", "ratio"],
                names,
                attributes,
                training_mode=training_mode,
                seed=seed,
            )
        ],
        [
            helper.make_tensor_value_info("data", element_type, shape),
            helper.make_tensor_value_info("ratio", TensorProto.FLOAT, []),
        ],
        results[:1] if only_output else results,
        [function_proto(op_type, opset, None if generic else element, mask_used=not only_output)],
        opset=opset,
        ir_version=ir_version,
    )


def _mask_shape(
    op_type: str, shape: tuple[int | str | None, ...], attributes: dict[str, Any]
) -> tuple[int, ...]:
    sizes = [size if isinstance(size, int) else 99991 for size in shape]
    return mask_shape(op_type, sizes, attributes)


def session(
    model: onnx.ModelProto | bytes,
    level: Any = ALL,
    *,
    threads: int = 1,
    optimised: Any = None,
    severity: int = 2,
) -> onnxruntime.InferenceSession:
    """Return a session; `optimised` names a file for the optimised model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    options.log_severity_level = severity
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    serialised = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(serialised, options, providers=["CPUExecutionProvider"])


def run(
    runner: onnxruntime.InferenceSession | ReferenceEvaluator, feeds: dict[str, Any]
) -> list[np.ndarray[Any, Any]]:
    """Run a session or the reference evaluator, bfloat16 inputs and outputs included."""
    arrays = {name: np.asarray(value) for name, value in feeds.items()}
    if isinstance(runner, ReferenceEvaluator):
        return [np.asarray(result) for result in runner.run(None, arrays)]
    values = {name: _ort_value(array) for name, array in arrays.items()}
    return [_array(value) for value in runner.run_with_ort_values(None, values)]


def dropped(
    runner: onnxruntime.InferenceSession | ReferenceEvaluator,
    data: np.ndarray[Any, Any],
    ratio: float,
) -> Outputs:
    """Run a model of `one_node`."""
    return Outputs(*run(runner, {"data": data, "ratio": np.asarray(ratio, np.float32)}))


def _ort_value(array: np.ndarray[Any, Any]) -> onnxruntime.OrtValue:
    if array.dtype == DTYPES["bfloat16"]:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            array.view(np.uint16), TensorProto.BFLOAT16
        )
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _array(value: onnxruntime.OrtValue) -> np.ndarray[Any, Any]:
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    # onnxruntime hands bfloat16 tensors out by address only.
    size = math.prod(value.shape())
    words = (ctypes.c_uint16 * size).from_address(value.data_ptr()) if size else []
    return np.array(words, np.uint16).view(DTYPES["bfloat16"]).reshape(value.shape())


def random_data(
    shape: tuple[int, ...], element: str = "float32", seed: int = 0
) -> np.ndarray[Any, Any]:
    """Return data without zeros, so that a zero in the output is a dropped cell."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], shape)
    return (signs * rng.uniform(0.5, 4.0, shape)).astype(DTYPES[element])


def assert_relations(
    op_type: str,
    attributes: dict[str, Any],
    data: np.ndarray[Any, Any],
    ratio: float,
    outputs: Outputs,
) -> None:
    """Check everything that mask, scale and output have to obey, whatever was drawn."""
    output, mask, scale = outputs
    assert mask.dtype == np.bool_
    assert scale.dtype == np.float32
    assert mask.shape == mask_shape(op_type, data.shape, attributes)
    np.testing.assert_array_equal(scale, expected_scale(op_type, attributes, mask, ratio))
    assert_selected(data, mask, scale, output)
    if op_type == "DropBlock":
        assert_whole_blocks(attributes, data.shape, mask)


def assert_selected(
    data: np.ndarray[Any, Any],
    mask: np.ndarray[Any, Any],
    scale: np.ndarray[Any, Any],
    output: np.ndarray[Any, Any],
) -> None:
    """Check output = where(mask, data * scale, 0): bits, or 1 ulp in the half precisions."""
    assert output.dtype == data.dtype
    assert output.shape == data.shape
    wide = np.float64 if data.dtype == np.float64 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.where(mask, data.astype(wide) * scale.astype(wide), wide(0))
        expected = expected.astype(data.dtype)
    kept = np.broadcast_to(mask, data.shape)
    assert not output[~kept].astype(np.float64).any()
    if data.dtype.itemsize > 2:
        np.testing.assert_array_equal(output, expected)
        return
    # Neighbouring numbers of one sign have neighbouring bit patterns.
    finite = ~np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(output.astype(np.float32)), ~finite)
    gap = _unsigned_zeros(output) - _unsigned_zeros(expected)
    assert np.abs(gap[finite]).max(initial=0) <= 1


def _unsigned_zeros(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bits of a half precision array as integers, the same for -0.0 and 0.0."""
    return np.where(array == 0, 0, array.view(np.uint16).astype(np.int64))


def assert_same_values(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> None:
    """Check bit equality but for the sign of zeros.

    onnxruntime's Where turns a chosen -0.0 into 0.0 when neither side is broadcast.
    """
    assert first.dtype == second.dtype
    assert first.shape == second.shape
    np.testing.assert_array_equal(first == 0, second == 0)
    nonzero = first != 0
    assert first[nonzero].tobytes() == second[nonzero].tobytes()


def expected_scale(
    op_type: str, attributes: dict[str, Any], mask: np.ndarray[Any, Any], ratio: float
) -> np.ndarray[Any, Any]:
    """Return the scale that belongs to a mask, of the right shape."""
    one = np.float32(1)
    if op_type != "DropBlock":
        if not attributes.get("scale_by_keep", 1) or ratio == 1:
            return np.ones((), np.float32)
        return np.asarray(one / (one - np.float32(ratio)), np.float32)
    if attributes["normalize"] == 0:
        return np.ones((), np.float32)
    if attributes["normalize"] == 1:
        return np.asarray(mask.size / max(int(np.count_nonzero(mask)), 1), np.float32)
    rows = [sample.size / max(int(np.count_nonzero(sample)), 1) for sample in mask]
    return np.asarray(rows, np.float32).reshape(-1, *[1] * (mask.ndim - 1))


def assert_whole_blocks(
    attributes: dict[str, Any], shape: tuple[int, ...], mask: np.ndarray[Any, Any]
) -> None:
    """Check that what is dropped is a union of whole blocks, clipped as the region says."""
    rank = len(shape)
    axes = [axis for axis in range(1, rank) if axis != attributes["channel_axis"] % rank]
    maps = np.moveaxis(~mask, axes, range(rank - len(axes), rank))
    sizes = [shape[axis] for axis in axes]
    wanted = list(attributes["block_size"])
    wanted = wanted * len(sizes) if len(wanted) == 1 else wanted
    block = [min(b, size) for b, size in zip(wanted, sizes, strict=True)]
    lead = [(0, 0)] * (rank - len(axes))
    margin = lead + [(b // 2, (b - 1) // 2) if attributes["seed_region"] else (0, 0) for b in block]
    # Outside the map counts as dropped: there a clipped block may lie.
    padded = np.pad(maps, margin, constant_values=True)
    spatial = tuple(range(-len(axes), 0))
    places = sliding_window_view(padded, block, axis=spatial).all(axis=spatial)
    covered = np.zeros_like(padded)
    for offset in np.ndindex(*block):
        where = tuple(
            slice(o, o + n) for o, n in zip(offset, places.shape[-len(axes) :], strict=True)
        )
        covered[(..., *where)] |= places
    inner = tuple(
        slice(low, size - high) for (low, high), size in zip(margin, padded.shape, strict=True)
    )
    np.testing.assert_array_equal(covered[inner], maps)


def random_feeds(model: onnx.ModelProto, batch: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    """Return random float32 inputs for a model whose free sizes may be `batch` or 32."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = [dim.dim_value or (32 if axis else batch) for axis, dim in enumerate(dims)]
        feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds
