"""The operator set: domain, versions, operator names and attributes.

This is the one place that spells the strings which end up in model files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DOMAIN",
    "DROPOUT_OPS",
    "ELEMENT_TYPES",
    "GRAD_OP",
    "INLINED_KEY",
    "MAX_OPSET",
    "METADATA_KEY",
    "MIN_FUNCTION_IR",
    "MIN_OPSET",
    "OPERATORS",
    "VERSION",
    "Normalize",
    "OpSchema",
    "SeedRegion",
]

DOMAIN = "pkg.onnx_structdrop"
"""Operator domain; also the domain of the model-local functions."""

VERSION = 1
"""Version of the operator set."""

MIN_OPSET = 13
"""Oldest ai.onnx opset a function body is written for (Dropout takes its ratio as an input)."""

MAX_OPSET = 26
"""Newest ai.onnx opset a function body was tested with."""

MIN_FUNCTION_IR = 8
"""Oldest IR version that allows model-local functions."""

ELEMENT_TYPES = ("float16", "bfloat16", "float32", "float64")
"""Element types ``T`` of data; names as numpy and ml_dtypes spell them."""

METADATA_KEY = DOMAIN + ".inserted"
"""Model metadata entry in which insertion records what folding has to undo."""

INLINED_KEY = DOMAIN + ".inlined"
"""Model metadata entry that tells how many live nodes were inlined."""


class SeedRegion(IntEnum):
    """Where a DropBlock seed may fall: attribute ``seed_region``."""

    VALID = 0
    """Only where the whole block fits into the map (the paper, torchvision, keras-cv)."""
    WHOLE = 1
    """Anywhere; blocks are clipped at the edges (timm)."""


class Normalize(IntEnum):
    """What the kept activations are rescaled over: attribute ``normalize`` of DropBlock."""

    NONE = 0
    BATCH = 1
    """One scale for the tensor: size / kept (the paper and every framework)."""
    SAMPLE = 2
    """One scale per sample, so that a sample does not depend on its neighbours."""


@dataclass(frozen=True)
class OpSchema:
    """Attributes of one operator; ``None`` as default means that the attribute is required."""

    name: str
    attributes: Mapping[str, int | tuple[int, ...] | None] = field(default_factory=dict)


_COMMON: dict[str, int | tuple[int, ...] | None] = {"training_mode": 0, "seed": None}

OPERATORS: Mapping[str, OpSchema] = {
    schema.name: schema
    for schema in (
        OpSchema("SpatialDropout", {**_COMMON, "channel_axis": 1}),
        OpSchema("NoiseShapeDropout", {**_COMMON, "noise_shape": None, "scale_by_keep": 1}),
        OpSchema(
            "DropBlock",
            {
                **_COMMON,
                "block_size": None,
                "channel_axis": 1,
                "shared_axes": (),
                "seed_region": int(SeedRegion.VALID),
                "normalize": int(Normalize.BATCH),
            },
        ),
        OpSchema("StructuredDropoutGrad"),
    )
}
"""Every operator of the domain, by name."""

GRAD_OP = "StructuredDropoutGrad"
"""Name of the gradient operator; it is deterministic."""

DROPOUT_OPS = tuple(name for name in OPERATORS if name != GRAD_OP)
"""Names of the operators that drop: inputs (data, ratio), outputs (output, mask, scale)."""
