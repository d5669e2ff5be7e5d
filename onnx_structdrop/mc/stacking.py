"""Whether rows of several images and samples may share a run: tried, not assumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.mc.inputs import Feeds
from onnx_structdrop.mc.sessions import PartSession, as_array, as_ort_value
from onnx_structdrop.mc.suffix import ROWS, foreign_sources, in_rows, still

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["Stacking", "examine", "two_images"]

_TOLERANCES = {"float16": 0.03, "bfloat16": 0.1}
_GOLDEN = (5**0.5 - 1) / 2
_TOLERANCE = 1e-3
"""Of the largest number: what another order of summation may change, neighbours may not."""


@dataclass(frozen=True)
class Stacking:
    """How rows may be put together."""

    per_image: frozenset[str] | None
    """Inputs of the suffix with images along axis 0. None where the suffix has to run on whole
    batches, once for each sample."""
    reason: str
    """Why, for reports."""


def two_images(feeds: Feeds, count: int) -> Feeds:
    """Return `count` finite images; the second is made from the first and differs from it.

    So do its sums: a flipped or repeated image would hide what rows do to each other by means.
    """
    images = {}
    for name, array in feeds.piece(0, min(count, feeds.count)).images.items():
        missing = count - len(array)
        whole = np.concatenate([array, np.repeat(array[:1], missing, axis=0)])
        if _is_floating(whole):
            whole[~np.isfinite(whole)] = 0
        if count > 1:
            whole[1:2] = _another(whole[:1])
        images[name] = whole
    return Feeds(count, images, feeds.shared)


def _another(image: Array) -> Array:
    """Return an image within the range of another: flipped, its numbers made less unevenly."""
    turned = image[..., ::-1] if image.ndim > 1 else image
    weights = 0.5 + 0.5 * (np.arange(image.size) * _GOLDEN % 1).reshape(image.shape)
    made: Array = (turned.astype(np.float64) * weights).astype(image.dtype)
    return np.ones_like(image) if np.array_equal(made, image) else made


def examine(
    prepared: ir.Model,
    before: Callable[[Feeds], Mapping[str, Any]],
    feeds: Feeds,
    *,
    batch: int | None,
    threads: int | None,
    library: bool,
) -> Stacking:
    """Find out whether a suffix can take its rows in any number and order.

    Its rows are compared, with dropout off, with those of runs on one batch each.

    Parameters
    ----------
    prepared
        The suffix, from `suffix.prepare`.
    before
        Returns the inputs of the suffix for some images, values of onnxruntime.
    feeds
        Some images.
    batch
        Size of the batch where it is fixed.
    threads, library
        Of sessions.
    """
    foreign = foreign_sources(prepared)
    if foreign:
        return Stacking(
            None,
            f"{foreign[0]} is not of this package: what it draws for one row may not be "
            "independent of other rows",
        )
    names = [value.name or "" for value in prepared.graph.inputs]
    try:
        together, alone = _starts(before, feeds, batch)
    except ModelError as error:
        return Stacking(None, f"the deterministic part takes no other number of images: {error}")
    names = [name for name in names if name in together]  # others have defaults
    arrays = [{name: as_array(one[name]) for name in names} for one in (together, *alone)]
    per_image = set()
    for name in names:
        kind = _kind([one[name] for one in arrays], batch)
        if kind is None:
            return Stacking(
                None,
                f"{quoted(name)}, of shape {arrays[0][name].shape}, hangs on the batch as a whole",
            )
        if kind:
            per_image.add(name)
    whole = arrays[0]
    if batch == 1:
        whole = {
            name: np.concatenate([one[name] for one in arrays[1:]]) if name in per_image else array
            for name, array in whole.items()
        }
    try:
        one_by_one = PartSession(
            still(prepared, native=library), threads=threads, library=library,
            what="the stochastic part of the model", quick=True,
        )  # fmt: skip
        expected = _joined([one_by_one.run(one) for one in alone])
    except ModelError as error:
        return Stacking(None, f"the stochastic part cannot be tried: {error}")
    if all(
        np.array_equal(one[0], one[1], equal_nan=True) for one in expected.values() if len(one) > 1
    ):
        # Equal rows show nothing: of black images, what comes before a ReLU may be dead.
        whole = {
            name: _noise(array) if name in per_image else array for name, array in whole.items()
        }
        step = batch or 1
        starts = range(0, len(whole[min(per_image)]), step) if per_image else range(1)
        try:
            runs = [
                one_by_one.run(
                    _values(
                        {
                            name: array[at : at + step] if name in per_image else array
                            for name, array in whole.items()
                        },
                        prepared,
                    )
                )
                for at in starts
            ]
        except ModelError as error:
            return Stacking(None, f"the stochastic part cannot be tried: {error}")
        expected = _joined(runs)
    count = 2 if batch is None else max(2, batch)
    rows = np.array([*range(count), *reversed(range(count)), 1], np.int64)
    try:
        stacked = PartSession(
            still(in_rows(prepared, per_image), native=library), threads=threads, library=library,
            what="it in rows", quick=True,
        )  # fmt: skip
        values = _values(whole, prepared)
        values[ROWS] = as_ort_value(rows, ir.DataType.INT64)
        found = {name: as_array(value) for name, value in stacked.run(values).items()}
    except ModelError as error:
        return Stacking(None, f"the stochastic part takes no other number of rows: {error}")
    for name, array in found.items():
        if not _agree(array, expected[name], rows):
            return Stacking(None, f"rows of {quoted(name)} depend on the rows beside them")
    return Stacking(frozenset(per_image), "rows do not depend on each other, as tried")


def _values(arrays: Mapping[str, Array], prepared: ir.Model) -> dict[str, Any]:
    fixed = {value.name: value.dtype for value in prepared.graph.inputs}
    return {
        name: as_ort_value(array, fixed[name] or ir.DataType.FLOAT)
        for name, array in arrays.items()
    }


def _noise(array: Array) -> Array:
    """Return what could have been there: of numbers, others of about their size."""
    if not _is_floating(array):
        return array
    wide = array.astype(np.float64)
    scale = float(np.abs(wide[np.isfinite(wide)]).max(initial=0)) or 1.0
    made: Array = (np.random.default_rng(0).standard_normal(array.shape) * scale / 3).astype(
        array.dtype
    )
    return made


def _starts(
    before: Callable[[Feeds], Mapping[str, Any]], feeds: Feeds, batch: int | None
) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """Return what the suffix starts from for two images or more, and for parts of them."""
    if batch is None:
        pair = two_images(feeds, 2)
        return before(pair), [before(pair.piece(0, 1)), before(pair.piece(1, 2))]
    some = two_images(feeds, max(2, batch))
    alone = [before(some.piece(at, at + batch)) for at in range(0, max(2, batch), batch)]
    return alone[0], alone


def _is_floating(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating)) or array.dtype.name == "bfloat16"


def _kind(arrays: list[Array], batch: int | None) -> bool | None:
    """Tell whether a value has images along axis 0; False if it is always the same, else None."""
    together, first, second = arrays[0], arrays[1], arrays[-1]
    if batch is None:
        axes = (together.shape[:1], first.shape[:1])
        if axes == ((2,), (1,)) and together.shape[1:] == first.shape[1:]:
            return True
    elif together.shape[:1] == (batch,):
        return True
    same = together.shape == first.shape == second.shape
    if same and np.array_equal(together, first) and np.array_equal(first, second):
        return False
    return None


def _joined(runs: list[dict[str, Any]]) -> dict[str, Array]:
    parts = [{name: as_array(value) for name, value in run.items()} for run in runs]
    return {
        name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]
    }


def _agree(found: Array, expected: Array, rows: npt.NDArray[np.int64]) -> bool:
    if found.shape[:1] != (len(rows),) or found.shape[1:] != expected.shape[1:]:
        return False
    if len(expected) <= rows.max():
        return False
    wanted = expected[rows]
    if not np.issubdtype(found.dtype, np.number) and not _is_floating(found):
        return bool((found == wanted).all())
    wide, right = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(right)
    if not np.array_equal(wide[~finite], right[~finite], equal_nan=True):
        return False
    scale = np.abs(right[finite]).max(initial=0.0)
    limit = _TOLERANCES.get(found.dtype.name, _TOLERANCE) * scale
    return bool((np.abs(wide[finite] - right[finite]) <= limit).all())
