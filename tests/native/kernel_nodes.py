"""Strategies: a node of any operator with any attributes, and data for it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import onnxruntime
from hypothesis import strategies as st
from one_node import DTYPES

from onnx_structdrop.reference import mask_shape
from onnx_structdrop.schema import DROPOUT_OPS, ELEMENT_TYPES

ELEMENTS = tuple(
    element
    for element in ELEMENT_TYPES
    if element != "bfloat16" or hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type")
)
"""Element types that can be handed to onnxruntime: its Python got bfloat16 after 1.19."""

RATIOS = (
    0.0,
    1e-45,
    1e-3,
    0.02,
    0.1,
    0.3,
    0.5,
    0.9,
    0.999,
    float(np.nextafter(1, 0, dtype="f4")),
    1.0,
)


@dataclasses.dataclass(frozen=True)
class NodeCase:
    """A node, the sizes of its data, and what it is run with."""

    op_type: str
    element: str
    sizes: tuple[int, ...]
    attributes: dict[str, Any]
    ratio: float
    seed: int

    @property
    def free(self) -> tuple[str, ...]:
        """Return a shape that tells nothing but the rank."""
        return tuple(f"d{axis}" for axis in range(len(self.sizes)))

    @property
    def positive(self) -> dict[str, Any]:
        """Return the attributes with axes counted from the front."""
        rank = len(self.sizes)
        changes: dict[str, Any] = {}
        if "channel_axis" in self.attributes:
            changes["channel_axis"] = self.attributes["channel_axis"] % rank
        if "shared_axes" in self.attributes:
            changes["shared_axes"] = [axis % rank for axis in self.attributes["shared_axes"]]
        return {**self.attributes, **changes}

    @property
    def mask_shape(self) -> tuple[int, ...]:
        return mask_shape(self.op_type, self.sizes, self.attributes)

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """Return the shape of the scale, which tells whether it is one per sample."""
        if self.attributes.get("normalize") != 2:
            return ()
        return (self.mask_shape[0],) + (1,) * (len(self.sizes) - 1)


def special_numbers(shape: tuple[int, ...], element: str, seed: int) -> np.ndarray[Any, Any]:
    """Return data with numbers of every kind: NaN, infinities, both zeros, huge, tiny, plain."""
    kind = DTYPES[element]
    rng = np.random.default_rng(seed)
    largest = {"float16": 65504.0, "float64": 1.7e308}.get(element, 3.3e38)
    smallest = {"float16": 6e-8, "float64": 5e-324}.get(element, 1e-45)
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, largest, -largest, smallest, -smallest]
    plain = rng.normal(0, 3, shape)
    with np.errstate(over="ignore"):
        chosen = np.where(rng.random(shape) < 0.3, rng.choice(special, shape), plain)
        return chosen.astype(kind)


def bits_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bits of an array as integers, the same for all kinds of NaN."""
    kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[array.dtype.itemsize]
    bits = np.array(array, copy=True).view(kind)
    bits[np.isnan(array)] = np.iinfo(kind).max
    return bits


def _axis(axis: int, rank: int) -> st.SearchStrategy[int]:
    return st.sampled_from((axis, axis - rank))


@st.composite
def attributes_of_any(
    draw: st.DrawFn, op_type: str, rank: int, largest_block: int = 12
) -> dict[str, Any]:
    """Draw every attribute of a node but training_mode and seed."""
    if op_type == "NoiseShapeDropout":
        bits = st.integers(0, 1)
        return {
            "noise_shape": draw(st.lists(bits, min_size=rank, max_size=rank)),
            "scale_by_keep": draw(bits),
        }
    channel = draw(st.sampled_from((1, rank - 1)) | st.integers(1, rank - 1))
    attributes: dict[str, Any] = {"channel_axis": draw(_axis(channel, rank))}
    if op_type == "SpatialDropout":
        return attributes
    block = st.integers(1, largest_block)
    shared = draw(st.sets(st.sampled_from((0, channel))))
    return {
        **attributes,
        "block_size": draw(
            st.lists(block, min_size=1, max_size=1)
            | st.lists(block, min_size=rank - 2, max_size=rank - 2)
        ),
        "shared_axes": [draw(_axis(axis, rank)) for axis in shared],
        "seed_region": draw(st.integers(0, 1)),
        "normalize": draw(st.integers(0, 2)),
    }


@st.composite
def node_cases(draw: st.DrawFn, op_type: str | None = None, least_size: int = 1) -> NodeCase:
    """Draw a node of rank 3 to 5 with data of up to a few thousand elements."""
    op_type = op_type or draw(st.sampled_from(DROPOUT_OPS))
    rank = draw(st.integers(3, 5))
    largest = {3: 40, 4: 12, 5: 6}[rank]
    sizes = draw(st.lists(st.integers(least_size, largest), min_size=rank, max_size=rank))
    return NodeCase(
        op_type,
        draw(st.sampled_from(ELEMENTS)),
        tuple(sizes),
        draw(attributes_of_any(op_type, rank)),
        draw(st.sampled_from(RATIOS)),
        draw(st.integers(-(2**63), 2**63 - 1)),
    )
