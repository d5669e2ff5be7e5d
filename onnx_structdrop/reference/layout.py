"""The shape of a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.schema import DROPOUT_OPS
from onnx_structdrop.specs import arguments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "MaskLayout",
    "drop_block_layout",
    "mask_shape",
    "noise_shape_layout",
    "spatial_layout",
]


class MaskLayout(NamedTuple):
    """Shape of a mask, and the axes that are spatial."""

    mask: tuple[int, ...]
    spatial_axes: tuple[int, ...]


def _channel(op: str, axis: object, rank: int) -> int:
    value = arguments.integer(axis, op, "channel_axis")
    if not -rank <= value < rank or value % rank == 0:
        raise ArgumentError(
            f"{op}: channel_axis is {value}; allowed for data of rank {rank} is an axis "
            f"from 1 to {rank - 1}, or its negative form; axis 0 is the batch"
        )
    return value % rank


def _minimum_rank(op: str, rank: int, minimum: int) -> None:
    if rank < minimum:
        raise ArgumentError(f"{op}: data has rank {rank}; rank {minimum} or more is needed")


def spatial_layout(op: str, shape: tuple[int, ...], channel_axis: object) -> MaskLayout:
    """Return the mask of SpatialDropout: batch and channel have their own sizes."""
    _minimum_rank(op, len(shape), 2)
    kept = (0, _channel(op, channel_axis, len(shape)))
    mask = tuple(size if axis in kept else 1 for axis, size in enumerate(shape))
    return MaskLayout(mask, tuple(axis for axis in range(len(shape)) if axis not in kept))


def noise_shape_layout(op: str, shape: tuple[int, ...], noise_shape: Any) -> MaskLayout:
    """Return the mask of NoiseShapeDropout: entry 1 is shared, entry 0 has the data's size."""
    _minimum_rank(op, len(shape), 1)
    needed = "a list of integers, one per axis of data, is needed"
    entries = tuple(
        arguments.integer(entry, op, "noise_shape entry")
        for entry in arguments.entries(noise_shape, op, "noise_shape", needed)
    )
    if len(entries) != len(shape):
        raise ArgumentError(
            f"{op}: noise_shape {entries} has {len(entries)} entries; data has rank {len(shape)}"
        )
    for entry in entries:
        if entry not in (0, 1):
            raise ArgumentError(
                f"{op}: noise_shape entry is {entry}; allowed is 1 (shared along the axis) or "
                "0 (the data's own size)"
            )
    mask = tuple(1 if entry else size for entry, size in zip(entries, shape, strict=True))
    return MaskLayout(mask, ())


def drop_block_layout(
    op: str, shape: tuple[int, ...], channel_axis: object, shared_axes: Any
) -> MaskLayout:
    """Return the mask of DropBlock: the data's sizes, and 1 on shared axes."""
    rank = len(shape)
    _minimum_rank(op, rank, 3)
    channel = _channel(op, channel_axis, rank)
    shared = arguments.shared_axes(shared_axes, op, rank, channel)
    mask = tuple(1 if axis in shared else size for axis, size in enumerate(shape))
    return MaskLayout(mask, tuple(axis for axis in range(1, rank) if axis != channel))


def mask_shape(
    op_type: str, shape: Sequence[int], attributes: Mapping[str, Any]
) -> tuple[int, ...]:
    """Return the shape of the mask, which is that of the uniforms.

    Parameters
    ----------
    op_type
        ``"SpatialDropout"``, ``"NoiseShapeDropout"`` or ``"DropBlock"``.
    shape
        Shape of data.
    attributes
        Attributes of the node, as `node_attributes` of a specification returns them.

    Raises
    ------
    ArgumentError
        The operator is unknown, or does not apply to this shape.
    """
    shape = tuple(shape)
    if op_type == "SpatialDropout":
        layout = spatial_layout(op_type, shape, attributes.get("channel_axis", 1))
    elif op_type == "NoiseShapeDropout":
        layout = noise_shape_layout(op_type, shape, attributes["noise_shape"])
    elif op_type == "DropBlock":
        layout = drop_block_layout(
            op_type, shape, attributes.get("channel_axis", 1), attributes.get("shared_axes", ())
        )
    else:
        raise ArgumentError(
            f"{op_type!r} is not a dropout operator; there are {', '.join(DROPOUT_OPS)}"
        )
    return layout.mask
