"""ONNXScript sources of the operators, parametrised by element type.

Every body serves every rank, layout and attribute value: shapes are computed in the
graph, and a runtime that knows the input's shape folds that arithmetic away. What
shaped the code:

- The only random source that stock onnxruntime runs at opsets 13 to 26 *and* does not
  delete is the mask output of ``Dropout``, so randomness comes from there.
- Only operators whose meaning did not change from opset 13 up are used, so one
  translation serves all of them. `onnx_structdrop.functions` rewrites the exceptions:
  ``ReduceProd`` takes its axes as an attribute below 18, ``Reshape`` has no ``allowzero``
  below 14.
- onnxruntime starts a Lehmer generator from ``seed + k`` in run ``k`` of a session, so the
  n-th number of one run is that of the run before plus a constant, and the first hardly
  changes at all. Every body therefore tosses `_JUMPS` coins more than it needs and starts
  at one of them; which one, 32 fair coins decide.
- onnxruntime warns about casts that a branch captures from outside, so every branch
  that survives optimisation makes its own.

Inside these functions Python is only syntax: ``if`` is an ONNX ``If``, and literals are
written as ``Constant`` nodes because ONNXScript would cast them with ``CastLike``, which
opset 13 lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
from onnxscript import opset18, script
from onnxscript.values import Opset

from onnx_structdrop.schema import DOMAIN, VERSION

__all__ = ["Arithmetic", "drop_block", "noise_shape_dropout", "spatial_dropout", "structured_grad"]

_BOOL = onnx.TensorProto.BOOL
_INT64 = onnx.TensorProto.INT64
_FLOAT = onnx.TensorProto.FLOAT
_DOUBLE = onnx.TensorProto.DOUBLE
_ONE = onnx.helper.make_tensor("one", _INT64, [1], [1])
_TRUE = onnx.helper.make_tensor("true", _BOOL, [1], [True])

_DOMAIN = Opset(DOMAIN, VERSION)
# Inside the bodies nothing has a Python type.
op: Any = opset18

# A prime, and as weights of the coins the powers of one of its primitive roots.
_JUMPS = 1021
_WEIGHTS = [pow(10, power, _JUMPS) for power in range(1, 33)]

# Below this seed probability, 32 coin tosses per seed cost less than one per position.
_SPARSE_BELOW = 0.025


@dataclass(frozen=True)
class Arithmetic:
    """Element types of a body, as ``TensorProto.DataType`` numbers."""

    element: int
    """Type of data and output; UNDEFINED (0) stands for "whatever data is"."""
    wide: int
    """Type in which ``data * scale`` is computed before one rounding to `element`."""


def spatial_dropout(types: Arithmetic) -> Any:
    """Return SpatialDropout: one coin toss per sample and channel."""
    element, wide = types.element, types.wide

    @script(_DOMAIN)
    def SpatialDropout(data, ratio, training_mode: int, seed: int, channel_axis: int):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        zero = op.Constant(value_int=0)
        one = op.Constant(value_int=1)
        dims = op.Shape(data)
        rank = op.Shape(dims)
        axes = op.CumSum(op.ConstantOfShape(rank, value=_ONE), zero) - one
        channel = op.Mod(op.Constant(value_int=channel_axis) + rank, rank)
        mask_dims = op.Where(op.Or(op.Equal(axes, zero), op.Equal(axes, channel)), dims, one)
        is_training = op.Cast(op.Constant(value_int=training_mode), to=_BOOL)
        if is_training:
            certain = op.Constant(value_float=1.0)
            # Dropout refuses ratio 1, so that case is tossed at 0 and cleared afterwards.
            rate = op.Where(op.Equal(ratio, certain), op.Constant(value_float=0.0), ratio)
            _, coins = op.Dropout(
                op.ConstantOfShape(op.Constant(value_ints=[32])),
                op.Constant(value_float=0.5),
                op.Cast(one, to=_BOOL),
                seed=seed,
            )
            weights = op.Where(coins, op.Constant(value_ints=_WEIGHTS), zero)
            start = op.Mod(
                op.ReduceSum(weights, op.Constant(value_ints=[0]), keepdims=1),
                op.Constant(value_int=_JUMPS),
            )
            count = op.Reshape(op.ReduceProd(mask_dims, keepdims=0), op.Constant(value_ints=[1]))
            _, tosses = op.Dropout(
                op.ConstantOfShape(count + op.Constant(value_int=_JUMPS)),
                rate,
                op.Cast(one, to=_BOOL),
                seed=seed,
            )
            kept = op.Reshape(op.Slice(tosses, start, start + count), mask_dims, allowzero=1)
            mask = op.And(kept, op.Less(ratio, certain))
            scale = certain / (certain - rate)
            scaled = op.Cast(data, to=wide) * op.Cast(scale, to=wide)
            nothing = op.Cast(op.Constant(value_float=0.0), to=wide)
            output = op.Cast(op.Where(mask, scaled, nothing), to=element)
        else:
            output = op.Identity(data)
            mask = op.Expand(op.Cast(one, to=_BOOL), mask_dims)
            scale = op.Constant(value_float=1.0)
        return output, mask, scale

    return SpatialDropout


def noise_shape_dropout(types: Arithmetic) -> Any:
    """Return NoiseShapeDropout: one coin toss per cell of an explicit noise shape."""
    element, wide = types.element, types.wide

    @script(_DOMAIN)
    def NoiseShapeDropout(  # type: ignore[no-untyped-def]  # noqa: ANN202
        data,  # noqa: ANN001
        ratio,  # noqa: ANN001
        training_mode: int,
        seed: int,
        noise_shape: list[int],
        scale_by_keep: int,
    ):
        zero = op.Constant(value_int=0)
        one = op.Constant(value_int=1)
        dims = op.Shape(data)
        is_shared = op.Cast(op.Constant(value_ints=noise_shape), to=_BOOL)
        mask_dims = op.Where(is_shared, one, dims)
        is_training = op.Cast(op.Constant(value_int=training_mode), to=_BOOL)
        if is_training:
            certain = op.Constant(value_float=1.0)
            rate = op.Where(op.Equal(ratio, certain), op.Constant(value_float=0.0), ratio)
            _, coins = op.Dropout(
                op.ConstantOfShape(op.Constant(value_ints=[32])),
                op.Constant(value_float=0.5),
                op.Cast(one, to=_BOOL),
                seed=seed,
            )
            weights = op.Where(coins, op.Constant(value_ints=_WEIGHTS), zero)
            start = op.Mod(
                op.ReduceSum(weights, op.Constant(value_ints=[0]), keepdims=1),
                op.Constant(value_int=_JUMPS),
            )
            count = op.Reshape(op.ReduceProd(mask_dims, keepdims=0), op.Constant(value_ints=[1]))
            _, tosses = op.Dropout(
                op.ConstantOfShape(count + op.Constant(value_int=_JUMPS)),
                rate,
                op.Cast(one, to=_BOOL),
                seed=seed,
            )
            kept = op.Reshape(op.Slice(tosses, start, start + count), mask_dims, allowzero=1)
            mask = op.And(kept, op.Less(ratio, certain))
            is_scaled = op.Cast(op.Constant(value_int=scale_by_keep), to=_BOOL)
            scale = op.Where(is_scaled, certain / (certain - rate), certain)
            scaled = op.Cast(data, to=wide) * op.Cast(scale, to=wide)
            nothing = op.Cast(op.Constant(value_float=0.0), to=wide)
            output = op.Cast(op.Where(mask, scaled, nothing), to=element)
        else:
            output = op.Identity(data)
            mask = op.Expand(op.Cast(one, to=_BOOL), mask_dims)
            scale = op.Constant(value_float=1.0)
        return output, mask, scale

    return NoiseShapeDropout


def structured_grad(types: Arithmetic) -> Any:
    """Return StructuredDropoutGrad: the gradient of all three, from mask and scale."""
    element, wide = types.element, types.wide

    @script(_DOMAIN)
    def StructuredDropoutGrad(output_grad, mask, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        scaled = op.Cast(output_grad, to=wide) * op.Cast(scale, to=wide)
        nothing = op.Cast(op.Constant(value_float=0.0), to=wide)
        return op.Cast(op.Where(mask, scaled, nothing), to=element)

    return StructuredDropoutGrad


def drop_block(types: Arithmetic) -> Any:
    """Return DropBlock: blocks around random seeds.

    Seeds are drawn as flat indices over the allowed positions: by geometric gaps where
    they are rare, by one toss per position otherwise. Each seed then clears its block in
    a flat canvas, which in the valid region is the mask itself and in the whole region
    has a margin of one block that is cut off at the end.
    """
    element, wide = types.element, types.wide

    @script(_DOMAIN)
    def DropBlock(  # type: ignore[no-untyped-def]  # noqa: ANN202
        data,  # noqa: ANN001
        ratio,  # noqa: ANN001
        training_mode: int,
        seed: int,
        block_size: list[int],
        channel_axis: int,
        shared_axes: list[int],
        seed_region: int,
        normalize: int,
    ):
        zero = op.Constant(value_int=0)
        one = op.Constant(value_int=1)
        dims = op.Shape(data)
        rank = op.Shape(dims)
        axes = op.CumSum(op.ConstantOfShape(rank, value=_ONE), zero) - one
        channel = op.Mod(op.Constant(value_int=channel_axis) + rank, rank)
        is_spatial = op.And(op.Greater(axes, zero), op.Not(op.Equal(axes, channel)))
        shared = op.Constant(value_ints=shared_axes)
        flags = op.Expand(op.Constant(value_float=1.0), op.Shape(shared))
        is_shared = op.Cast(
            op.ScatterElements(op.ConstantOfShape(rank), shared, flags, axis=0), to=_BOOL
        )
        mask_dims = op.Where(is_shared, one, dims)
        sample_dims = op.Where(op.Equal(axes, zero), mask_dims, one)
        normalization = op.Constant(value_int=normalize)
        per_sample = op.Equal(normalization, op.Constant(value_int=2))
        is_training = op.Cast(op.Constant(value_int=training_mode), to=_BOOL)
        if is_training:
            row = op.Constant(value_ints=[0])
            column = op.Constant(value_ints=[1])
            flat = op.Constant(value_ints=[-1])
            certain = op.Constant(value_float=1.0)

            # Geometry: block clipped to the map, positions that may seed, canvas.
            spatial = op.Cast(is_spatial, to=_INT64)
            nth_spatial = op.Max(op.CumSum(spatial, zero) - one, zero)
            sizes = op.Constant(value_ints=block_size)
            wanted = op.Gather(sizes, op.Mod(nth_spatial, op.Size(sizes)))
            clipped = op.Max(op.Min(wanted, dims), one)
            block = op.Where(is_spatial, clipped, one)
            in_whole_map = op.Cast(op.Constant(value_int=seed_region), to=_BOOL)
            fitting = op.Max(mask_dims - block + one, zero)
            positions = op.Where(in_whole_map, mask_dims, fitting)
            canvas_dims = positions + block - one
            count = op.ReduceProd(positions, keepdims=0)

            # gamma = ratio * map / (block area * fitting positions), in double.
            map_size = op.ReduceProd(op.Where(is_spatial, dims, one), keepdims=0)
            room = op.Where(is_spatial, op.Max(dims - block + one, zero), one)
            area = op.ReduceProd(block, keepdims=0) * op.ReduceProd(room, keepdims=0)
            area = op.Max(area, one)
            rate = op.Where(op.Equal(ratio, certain), op.Constant(value_float=0.0), ratio)
            density = op.Cast(map_size, to=_DOUBLE) / op.Cast(area, to=_DOUBLE)
            gamma = op.Cast(rate, to=_DOUBLE) * density
            # A ratio outside [0, 1] takes the dense branch as it is: Dropout refuses it.
            in_range = op.And(
                op.LessOrEqual(ratio, certain),
                op.GreaterOrEqual(ratio, op.Constant(value_float=0.0)),
            )
            is_rare = op.Less(gamma, op.Cast(op.Constant(value_float=_SPARSE_BELOW), to=_DOUBLE))
            is_sparse = op.And(is_rare, in_range)
            toss = op.Where(in_range, op.Cast(gamma, to=_FLOAT), ratio)
            _, coins = op.Dropout(
                op.ConstantOfShape(op.Constant(value_ints=[32])),
                op.Constant(value_float=0.5),
                op.Cast(one, to=_BOOL),
                seed=seed,
            )
            weights = op.Where(coins, op.Constant(value_ints=_WEIGHTS), zero)
            start = op.Mod(
                op.ReduceSum(weights, op.Constant(value_ints=[0]), keepdims=1),
                op.Constant(value_int=_JUMPS),
            )
            if is_sparse:
                # Gaps between seeds are geometric: floor(log u / log(1 - gamma)). Draw
                # ten standard deviations more than needed; u comes from 32 fair bits.
                unit = op.Cast(op.Constant(value_float=1.0), to=_DOUBLE)
                total = op.Cast(count, to=_DOUBLE)
                expected = total * gamma
                spread = op.Cast(op.Constant(value_float=10.0), to=_DOUBLE) * op.Sqrt(expected)
                margin = op.Cast(op.Constant(value_float=16.0), to=_DOUBLE)
                draws = op.Cast(expected + spread + margin, to=_INT64)
                words = op.Reshape(draws * op.Constant(value_int=32), op.Constant(value_ints=[1]))
                _, tosses = op.Dropout(
                    op.ConstantOfShape(words + op.Constant(value_int=_JUMPS)),
                    op.Constant(value_float=0.5),
                    op.Cast(op.Constant(value_int=1), to=_BOOL),
                    seed=seed,
                )
                bits = op.Slice(tosses, start, start + words)
                # Two halves of 16 bits each are exact in float32.
                halves = op.Reshape(op.Cast(bits, to=_FLOAT), op.Constant(value_ints=[-1, 16]))
                powers = op.Range(
                    op.Constant(value_float=15.0),
                    op.Constant(value_float=-1.0),
                    op.Constant(value_float=-1.0),
                )
                binary = op.Pow(op.Constant(value_float=2.0), powers)
                digits = op.Reshape(
                    op.ReduceSum(halves * binary, op.Constant(value_ints=[1]), keepdims=0),
                    op.Constant(value_ints=[-1, 2]),
                )
                places = op.Cast(
                    op.Pow(op.Constant(value_float=2.0), op.Constant(value_floats=[-16.0, -32.0])),
                    to=_DOUBLE,
                )
                half_step = op.Cast(
                    op.Pow(op.Constant(value_float=2.0), op.Constant(value_float=-33.0)),
                    to=_DOUBLE,
                )
                numbers = op.ReduceSum(
                    op.Cast(digits, to=_DOUBLE) * places, op.Constant(value_ints=[1]), keepdims=0
                )
                uniform = numbers + half_step
                # The bound keeps gamma = 0 finite.
                log_miss = op.Min(
                    op.Log(unit - gamma), op.Cast(op.Constant(value_float=-1e-30), to=_DOUBLE)
                )
                gaps = op.Min(op.Floor(op.Log(uniform) / log_miss), total)
                found = op.CumSum(gaps + unit, op.Constant(value_int=0)) - unit
                inside = op.Reshape(op.NonZero(op.Less(found, total)), op.Constant(value_ints=[-1]))
                seeds = op.Cast(op.Gather(found, inside), to=_INT64)
            else:
                amount = op.Reshape(count, op.Constant(value_ints=[1]))
                _, missed = op.Dropout(
                    op.ConstantOfShape(amount + op.Constant(value_int=_JUMPS)),
                    toss,
                    op.Cast(op.Constant(value_int=1), to=_BOOL),
                    seed=seed,
                )
                spared = op.Slice(missed, start, start + amount)
                seeds = op.Reshape(op.NonZero(op.Not(spared)), op.Constant(value_ints=[-1]))

            # Flat index over positions -> coordinates -> flat index of the block's corner.
            is_later = op.Less(op.Unsqueeze(axes, column), op.Unsqueeze(axes, row))
            stride = op.ReduceProd(
                op.Where(is_later, op.Unsqueeze(canvas_dims, row), one), column, keepdims=1
            )
            step = op.ReduceProd(
                op.Where(is_later, op.Unsqueeze(positions, row), one), column, keepdims=1
            )
            extent = op.Unsqueeze(op.Max(positions, one), column)
            coordinates = op.Mod(op.Unsqueeze(seeds, row) / op.Max(step, one), extent)
            corners = op.ReduceSum(coordinates * stride, row, keepdims=0)
            in_block = op.NonZero(op.ConstantOfShape(block, value=_TRUE))
            offsets = op.ReduceSum(in_block * stride, row, keepdims=0)
            cells = op.Reshape(op.Unsqueeze(corners, column) + op.Unsqueeze(offsets, row), flat)
            # At ratio 1 the canvas starts out dropped.
            canvas = op.Expand(
                op.Less(ratio, certain),
                op.Reshape(op.ReduceProd(canvas_dims, keepdims=0), op.Constant(value_ints=[1])),
            )
            dropped = op.Expand(op.Cast(zero, to=_BOOL), op.Shape(cells))
            painted = op.Reshape(
                op.ScatterElements(canvas, cells, dropped, axis=0), canvas_dims, allowzero=1
            )
            if in_whole_map:
                start = block / op.Constant(value_int=2)
                mask = op.Slice(painted, start, start + mask_dims, axes)
            else:
                mask = op.Identity(painted)

            # Exact count: a row is short enough for float32, the rest adds up in int64.
            rows = op.Cast(op.ReduceSum(op.Cast(mask, to=_FLOAT), flat, keepdims=1), to=_INT64)
            if per_sample:
                kept = op.ReduceSum(rows, op.Slice(axes, column, rank), keepdims=1)
                size = op.ReduceProd(op.Where(op.Equal(axes, zero), one, mask_dims), keepdims=0)
            else:
                kept = op.ReduceSum(rows, keepdims=0)
                size = op.Size(mask)
            is_scaled = op.Cast(normalization, to=_BOOL)
            quotient = op.Cast(size, to=_DOUBLE) / op.Cast(op.Max(kept, one), to=_DOUBLE)
            scale = op.Where(is_scaled, op.Cast(quotient, to=_FLOAT), certain)
            scaled = op.Cast(data, to=wide) * op.Cast(scale, to=wide)
            nothing = op.Cast(op.Constant(value_float=0.0), to=wide)
            output = op.Cast(op.Where(mask, scaled, nothing), to=element)
        else:
            output = op.Identity(data)
            mask = op.Expand(op.Cast(one, to=_BOOL), mask_dims)
            if per_sample:
                scale = op.Expand(op.Constant(value_float=1.0), sample_dims)
            else:
                scale = op.Constant(value_float=1.0)
        return output, mask, scale

    return DropBlock
