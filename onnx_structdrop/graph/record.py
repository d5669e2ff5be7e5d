"""What insertion writes into a model's metadata so that folding can undo it exactly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.schema import INLINED_KEY, METADATA_KEY

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Record", "check_not_inlined", "mark_inlined"]


@dataclass
class Record:
    """State of a model before insertion, as far as the nodes themselves do not show it."""

    ir_version: int
    """IR version before the first insertion."""

    ratio_inputs: list[str]
    """Graph inputs that insertion added to drive the ratio."""

    @classmethod
    def of(cls, model: ir.Model) -> Record | None:
        """Return the record that a model carries, or None if it carries none.

        Raises
        ------
        ModelError
            If the metadata entry was damaged.
        """
        text = model.metadata_props.get(METADATA_KEY)
        if text is None:
            return None
        try:
            entries = json.loads(text)
            record = cls(int(entries["ir_version"]), [str(n) for n in entries["ratio_inputs"]])
            if not 1 <= record.ir_version <= onnx.IR_VERSION:
                raise ValueError(f"there is no IR version {record.ir_version}")
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ModelError(
                f"the model's metadata entry {METADATA_KEY!r} is damaged ({error}); "
                "remove it, and folding will keep the IR version and the inputs as they are"
            ) from error
        return record

    def attach(self, model: ir.Model) -> None:
        """Write the record into the model's metadata."""
        model.metadata_props[METADATA_KEY] = json.dumps(vars(self), sort_keys=True)

    @staticmethod
    def detach(model: ir.Model) -> None:
        """Remove the record from the model's metadata."""
        model.metadata_props.pop(METADATA_KEY, None)


def mark_inlined(model: ir.Model, nodes: int) -> None:
    """Note in the metadata that live nodes were inlined, and are not ours to switch any more."""
    model.metadata_props[INLINED_KEY] = str(nodes)


def check_not_inlined(model: ir.Model) -> None:
    """Raise if live nodes of the model were inlined.

    Raises
    ------
    UnsupportedModelError
        They were; switching or folding would leave them alive without a word.
    """
    count = model.metadata_props.get(INLINED_KEY)
    if count is not None:
        raise UnsupportedModelError(
            f"the model holds {count} inlined dropout nodes, which cannot be switched, reseeded or "
            "folded any more; use the model with functions that it was made from"
        )
