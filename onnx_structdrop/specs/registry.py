"""Specifications by class name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError
from onnx_structdrop.specs.arguments import shown
from onnx_structdrop.specs.dropblock import DropBlock1D, DropBlock2D, DropBlock3D
from onnx_structdrop.specs.noise import Dropout, DropPath
from onnx_structdrop.specs.spatial import SpatialDropout1D, SpatialDropout2D, SpatialDropout3D

if TYPE_CHECKING:
    from onnx_structdrop.specs.base import DropoutSpec

__all__ = ["SPECS", "spec_from_config"]

SPECS: dict[str, type[DropoutSpec]] = {
    cls.__name__: cls
    for cls in (
        SpatialDropout1D,
        SpatialDropout2D,
        SpatialDropout3D,
        DropBlock1D,
        DropBlock2D,
        DropBlock3D,
        Dropout,
        DropPath,
    )
}
"""Every specification class, by its name; the names are those of the keras layers."""


def spec_from_config(serialized: Mapping[str, Any]) -> DropoutSpec:
    """Build a specification from ``{"class_name": ..., "config": ...}``.

    This is the form that ``keras.layers.serialize`` writes; further entries are ignored.

    Raises
    ------
    ArgumentTypeError
        Not a mapping.
    ArgumentError
        An entry is missing, the class is unknown, or its configuration is refused.

    Examples
    --------
    >>> from onnx_structdrop.specs import spec_from_config
    >>> spec_from_config({"class_name": "DropPath", "config": {"rate": 0.1}})
    DropPath(rate=0.1, seed=None, scale_by_keep=True)
    """
    if not isinstance(serialized, Mapping):
        raise ArgumentTypeError(
            f"spec_from_config: found {type(serialized).__name__}; a mapping is needed"
        )
    for key in ("class_name", "config"):
        if key not in serialized:
            raise ArgumentError(f"spec_from_config: entry {key!r} is missing")
    # keras writes layers of other packages as "package>ClassName" in its older formats.
    name = str(serialized["class_name"]).rpartition(">")[2]
    if name not in SPECS:
        raise ArgumentError(
            f"spec_from_config: class_name is {shown(name)}; known are {', '.join(SPECS)}"
        )
    return SPECS[name].from_config(serialized["config"])
