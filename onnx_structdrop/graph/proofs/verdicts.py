"""Whether a join of data and noise is, with nothing dropped, its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnx_structdrop.graph.proofs.intervals import Array, Draw, Range, close
from onnx_structdrop.graph.proofs.noise import (
    ROUNDING,
    Affine,
    Noise,
    NotProvenError,
    Sense,
    align,
    merge_place,
)
from onnx_structdrop.graph.proofs.sampling import check_deviation

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_structdrop.graph.proofs.sizes import Dims

__all__ = ["Proof", "verdict"]


@dataclass(frozen=True)
class Proof:
    """A value that is another one when nothing is dropped."""

    value: ir.Value
    anchor: ir.Value
    """What it is then."""
    strength: str
    """How it was proven: "rescaled", "alpha", "noise", "constant" and "definition" stand by
    themselves; "unscaled" holds if no scale is hidden elsewhere; "companion" needs another proof
    about the same event."""
    pattern: str
    evidence: str
    events: Sense = frozenset()
    """The events, as they are when nothing is dropped."""
    sources: frozenset[ir.Node] = frozenset()
    chance: Array | None = None
    """Probability to keep, where one is known."""
    carried: tuple[ir.Node, ...] = ()
    """Nodes that the anchor has to go through: they move or convert."""
    slope: float | None = None
    """Set where the value is a LeakyRelu of the anchor instead."""
    counted: bool = False
    """Whether the join normalises by what was kept."""
    joins: tuple[ir.Node, ...] = ()
    added: bool = False
    """Whether random numbers are added that drop nothing."""

    @property
    def certain(self) -> bool:
        """Whether more arithmetic behind it cannot belong to it."""
        return self.strength != "companion" and (self.strength != "unscaled" or self.counted)


def verdict(join: Affine, value: ir.Value, mask: Dims | None, data: Dims | None) -> Proof:
    """Decide about a join.

    Parameters
    ----------
    join
        What the value is, in terms of data and noise.
    value
        The value.
    mask, data
        Shapes of the noise and of the anchor, where known; they name the pattern.

    Raises
    ------
    NotProvenError
        If it is not the anchor when nothing is dropped; the message says what stands against it.
    """
    pair = align(join.factor, join.offset)
    if pair is None:
        raise NotProvenError("independent random masks are mixed")
    factor, offset = pair
    if factor.sense or offset.sense:
        return _of_event(join, value, factor, offset, _name(mask, data))
    return _of_draw(join, value, factor.first, offset.first, max(factor.coarse, offset.coarse))


def _of_event(join: Affine, value: ir.Value, factor: Noise, offset: Noise, name: str) -> Proof:
    tolerance = max(factor.coarse, offset.coarse)
    local, _ = merge_place(factor, offset)
    first = factor if factor.sense else offset
    complaint = ""
    constant = (factor.first, factor.second, offset.first, offset.second)
    if local and all(
        part.equals(wanted, 1e-6) for part, wanted in zip(constant, (1, 1, 0, 0), strict=True)
    ):
        return Proof(
            value, join.anchor, "constant", "constant", "the random numbers cancel out",
            sources=join.sources, carried=join.carried, joins=join.joins,
        )  # fmt: skip
    candidates: list[tuple[str, str, str, bool]] = []
    for flipped in (False, True):
        f, o = (factor.swapped(), offset.swapped()) if flipped else (factor, offset)
        chance = first.chance if local else None
        if chance is not None and flipped:
            chance = 1.0 - chance
        found = _kept(f.first, f.second, o.first, o.second, chance, tolerance)
        if found[0]:
            candidates.append((*found, flipped))
        elif found[2]:
            complaint = complaint or found[2]
    if (factor.damped or offset.damped) and any(node.op_type != "Dropout" for node in join.sources):
        raise NotProvenError("the data are scaled by the share that a mask keeps")
    if first.reduced:
        candidates = [
            ("companion", *found[1:]) if found[0] == "unscaled" else found for found in candidates
        ]
    order = ("rescaled", "alpha", "unscaled", "companion")
    if not candidates:
        raise NotProvenError(complaint or "no constant of the mask leaves the data as they are")
    best = min(candidates, key=lambda found: order.index(found[0]))
    strength, suffix, evidence, flipped = best
    counted = not local and factor.normalised
    if counted and strength == "unscaled":
        evidence = "values are kept and divided by the share that the mask keeps, or dropped"
    sense = first.swapped().sense if flipped else first.sense
    chance = first.chance if local else None
    if chance is not None and flipped:
        chance = 1.0 - chance
    pattern = name if local else "DropBlock"
    return Proof(
        value=value,
        anchor=join.anchor,
        strength=strength,
        pattern=_named(pattern, suffix),
        evidence=evidence,
        events=sense,
        sources=join.sources,
        chance=chance,
        carried=join.carried,
        counted=counted,
        joins=join.joins,
    )


def _named(pattern: str, suffix: str) -> str:
    if suffix == "alpha":
        return "feature alpha dropout" if pattern == "feature dropout" else "alpha dropout"
    return pattern


def _kept(
    scale: Range, rest: Range, shift: Range, fill: Range, chance: Array | None, tolerance: float
) -> tuple[str, str, str]:
    """Judge one world as the one in which everything is kept.

    Kept values are ``scale * x + shift``, dropped ones ``rest * x + fill``. Returns how it is
    proven ("" if it is not), a suffix for the pattern, and the evidence or the complaint.
    """
    if not (scale.known and shift.known):
        return "", "", ""
    zero = shift.equals(0.0, 1e-6)
    blank = rest.equals(0.0, 1e-6)
    if chance is not None and blank and zero and fill.equals(0.0, 1e-6):
        with np.errstate(all="ignore"):
            expected = scale.low * chance
        # A threshold near 1 was rounded as such, which weighs more in a small probability.
        if close(expected, 1.0, max(tolerance, ROUNDING * float(np.abs(scale.low).max()))):
            return (
                "rescaled", "",
                f"kept with {_quantity('probability', chance)} and scaled by "
                f"{_quantity('', scale.low)}, "
                "dropped to 0: the expectation is the input",
            )  # fmt: skip
        if not scale.equals(1.0, tolerance):
            return (
                "", "",
                f"values are kept with {_quantity('probability', chance)}, but scaled by "
                f"{_quantity('', scale.low)} and not by its inverse",
            )  # fmt: skip
    if chance is not None and blank and not zero and fill.known:
        mean = chance * shift.low + (1.0 - chance) * fill.low
        square = chance * (scale.low**2 + shift.low**2) + (1.0 - chance) * fill.low**2
        if close(mean, 0.0, 10 * tolerance) and close(square, 1.0, 10 * tolerance):
            return (
                "alpha", "alpha",
                f"kept with {_quantity('probability', chance)}, dropped to a constant, and mapped "
                "affinely so that mean 0 and variance 1 are kept",
            )  # fmt: skip
        return "", "", "an offset is added that does not keep mean and variance"
    if not (zero and scale.equals(1.0, tolerance)):
        return "", "", ""
    empty = fill.equals(0.0, 1e-6) or (fill.draw is not None and not fill.draw.mean.any())
    if empty and rest.draw is None and (rest.low == 0.0).all() and (rest.high >= 0.0).all():
        kept = "" if chance is None else f" with {_quantity('probability', chance)}"
        return "unscaled", "", f"values are kept as they are{kept}, or dropped"
    return "companion", "", "with nothing dropped, this is its input"


def _of_draw(
    join: Affine, value: ir.Value, factor: Range, offset: Range, tolerance: float
) -> Proof:
    pattern = ""
    if factor.draw is not None and offset.equals(0.0, 1e-6):
        draw = factor.draw
        if draw.family == "mixed":
            raise NotProvenError(
                "the data are multiplied by a mixture of random numbers, which no layer does"
            )
        if draw.family == "normal" and close(draw.mean, 0.0, 1e-6):
            raise NotProvenError(
                "normal random numbers of mean 0 are multiplied by the data: their deviation is "
                "computed, as where a model samples"
            )
        if not close(draw.mean, 1.0, ROUNDING):
            raise NotProvenError(
                f"the data are multiplied by random numbers of mean {_text(draw.mean)}, not 1"
            )
        normal = draw.family == "normal"
        pattern = "Gaussian dropout" if normal else "multiplicative uniform noise"
        evidence = f"the data are multiplied by {draw.family} random numbers of mean 1"
    elif offset.draw is not None and factor.equals(1.0, ROUNDING):
        draw = offset.draw
        if draw.family != "normal":
            raise NotProvenError(
                f"{draw.family} random numbers are added, which may stand for rounding or sampling"
            )
        if not close(draw.mean, 0.0, 1e-6):
            raise NotProvenError(f"Gaussian noise of mean {_text(draw.mean)} is added, not 0")
        if draw.scale is None or not (draw.scale == draw.scale[0]).all():
            raise NotProvenError(
                "noise whose deviation the model computes or is given is not a regulariser's"
            )
        check_deviation(_deviation(draw), tolerance)
        pattern = "Gaussian noise"
        evidence = "normal random numbers of mean 0 and constant deviation are added to the data"
    elif factor.equals(1.0, 1e-6) and offset.equals(0.0, 1e-6):
        pattern, evidence = "constant", "the random numbers cancel out"
    else:
        if factor.known and offset.known:
            raise NotProvenError("the random numbers cancel out, and what is left is not the data")
        if not factor.equals(1.0, ROUNDING):
            raise NotProvenError("nothing is known of the numbers that the data are multiplied by")
        raise NotProvenError("the deviation of the noise is no constant, or depends on data")
    return Proof(
        value, join.anchor, "noise" if pattern != "constant" else "constant", pattern, evidence,
        sources=join.sources, carried=join.carried, joins=join.joins,
        added=pattern == "Gaussian noise",
    )  # fmt: skip


def _deviation(draw: Draw) -> float:
    """Return the deviation of a normal random number."""
    number = 1.0 if draw.scale is None else float(draw.scale[0])
    for source in draw.sources:
        attribute = source.attributes.get("scale")
        number *= 1.0 if attribute is None else attribute.as_float()
    return number


def _name(mask: Dims | None, data: Dims | None) -> str:
    """Name a pattern after the axes along which the mask varies."""
    if mask is None or data is None or not data or len(mask) > len(data):
        return "dropout"
    padded = (np.ones(1),) * (len(data) - len(mask)) + tuple(mask)
    varies = [
        not (size == 1).all() or bool((whole == 1).all())
        for size, whole in zip(padded, data, strict=True)
    ]
    if all(varies):
        return "dropout"
    if not any(np.asarray((size != 1).any()) for size in padded):
        return "stochastic depth by batch"
    if varies[0] and not any(varies[1:]):
        return "stochastic depth by row"
    if len(varies) > 2 and varies[0] and sum(varies) == 2:
        return "feature dropout"
    return "dropout with shared axes"


def _text(numbers: Array) -> str:
    return _quantity("", numbers)


def _quantity(name: str, numbers: Array) -> str:
    """Return a name and its number, or that only the run knows it."""
    if (numbers == numbers[0]).all():
        return f"{name} {numbers[0]:.6g}".strip()
    return f"a {name or 'number'} that only the run knows"
