"""What random sources draw: distributions, events and their probabilities."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.graph.proofs.intervals import ANY, SAMPLES, Array, Draw, Range, exact, span
from onnx_structdrop.graph.proofs.noise import Event, Noise, NotProvenError
from onnx_structdrop.graph.proofs.sources import DEFAULT_DOMAINS
from onnx_structdrop.graph.topology.dataflow import operators

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnx_structdrop.graph.proofs.parameters import Parameters
    from onnx_structdrop.graph.proofs.sizes import Dims

__all__ = ["below", "dropout_chance", "generated", "normal_draw", "of_constant", "stepped"]

_UNIFORM = frozenset(
    {
        "RandomUniform",
        "RandomUniformLike",
        "StatelessRandomUniform",
        "StatelessRandomUniformV2",
    }
)
_NORMAL = frozenset(
    {
        "RandomNormal",
        "RandomNormalLike",
        "StatelessRandomNormal",
        "StatelessRandomNormalV2",
        "StatelessTruncatedNormal",
        "StatelessTruncatedNormalV2",
    }
)
_WEIGHING = operators("Conv ConvTranspose Einsum GRU Gather Gemm LSTM MatMul RNN")
_PASSING = operators("Cast Identity Reshape Squeeze Transpose Unsqueeze")
_DEFAULT_RATIO = 0.5


def generated(node: ir.Node, parameters: Parameters) -> Noise:
    """Return what a generator draws.

    Raises
    ------
    NotProvenError
        If it is one that nothing is known of, or its parameters are computed from data.
    """
    dims = _shape(node, parameters)
    if node.op_type == "Bernoulli":
        chance = parameters.number(node.inputs[0])
        if chance is None:
            raise NotProvenError("its probability is not one number that the file holds")
        if not chance.known or chance.draw is not None:
            raise NotProvenError("its probability differs from place to place")
        if not (chance.low == chance.low[0]).all():
            raise NotProvenError("its probability is known at run time only")
        return Noise(
            exact(1.0),
            exact(0.0),
            frozenset({(Event(("draw", id(node))), True)}),
            np.clip(chance.low, 0.0, 1.0),
            dims=dims,
            sources=frozenset({node}),
        )
    if node.op_type in _UNIFORM:
        low, high = _float(node, "low", 0.0), _float(node, "high", 1.0)
        return _continuous(node, "uniform", (low + high) / 2.0, dims)
    if node.op_type in _NORMAL:
        _float(node, "scale", 1.0)
        return _continuous(node, "normal", _float(node, "mean", 0.0), dims)
    raise NotProvenError(f"{node.op_type} samples, it drops nothing")


def dropout_chance(node: ir.Node, parameters: Parameters) -> Array | None:
    """Return the keep probability of a Dropout, or None if it depends on data."""
    attribute = node.attributes.get("ratio")
    if attribute is not None and not attribute.is_ref():
        return np.full(SAMPLES, 1.0 - attribute.as_float())
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is None:
        return np.full(SAMPLES, 1.0 - _DEFAULT_RATIO)
    ratio = parameters.number(given)
    return None if ratio is None or not ratio.known else 1.0 - ratio.low


def of_constant(node: ir.Node, parameters: Parameters) -> tuple[Noise, Noise] | None:
    """Return what a Dropout makes of one number everywhere: it draws masks, as a generator does.

    Returns
    -------
    output, mask : Noise
        Of different names for the same event: the output has no inference mode to go by. None
        if the data are no such number, or the ratio is not known.
    """
    if _is_weight(node.outputs[0]):
        return None  # Weights may happen to be alike, before training say.
    number, chance = parameters.number(node.inputs[0]), dropout_chance(node, parameters)
    if number is None or not number.known or chance is None or not (chance > 0).all():
        return None
    mask = Noise(
        exact(1.0),
        exact(0.0),
        frozenset({(Event(("dropout", id(node))), True)}),
        chance,
        dims=parameters.dims(node.inputs[0]),
        sources=frozenset({node}),
    )
    drawn = frozenset({(Event(("drawn", id(node))), True)})
    return replace(mask, first=exact(number.low / chance), sense=drawn), mask


def _is_weight(value: ir.Value) -> bool:
    """Tell whether a value is used as weights are, and not as a mask."""
    pending, seen = [value], {value}
    while pending:
        for node, _ in pending.pop().uses():
            if node.op_type in _WEIGHING and node.domain in DEFAULT_DOMAINS:
                return True
            if node.op_type in _PASSING:
                pending += [output for output in node.outputs if output not in seen]
                seen.update(node.outputs)
    return False


def _continuous(node: ir.Node, family: str, mean: float, dims: Dims | None) -> Noise:
    one, zero = np.ones(SAMPLES), np.zeros(SAMPLES)
    draw = Draw(family, np.full(SAMPLES, mean), frozenset({node}), one, zero)
    number = Range(-np.inf * one, np.inf * one, draw)
    return Noise(number, number, dims=dims, sources=frozenset({node}))


def _float(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    if attribute.is_ref():
        raise NotProvenError(f"its {name} is an attribute of the function around it")
    return attribute.as_float()


def _shape(node: ir.Node, parameters: Parameters) -> Dims | None:
    attribute = node.attributes.get("shape")
    if attribute is not None and not attribute.is_ref():
        return tuple(np.full(SAMPLES, size) for size in attribute.as_ints())
    given = node.inputs[0] if node.inputs else None
    if node.op_type.startswith("Stateless"):
        arrays = parameters.arrays(given)
        if arrays is None or len({array.size for array in arrays}) != 1:
            return parameters.dims(node.outputs[0])
        rows = np.stack([arrays[index % len(arrays)].reshape(-1) for index in range(SAMPLES)])
        return tuple(rows[:, axis] for axis in range(rows.shape[1]))
    dims = parameters.dims(given)
    return parameters.dims(node.outputs[0]) if dims is None else dims


def normal_draw(draw: Draw) -> tuple[Any, Array, Array]:
    """Return source, scale and offset of a draw.

    Raises
    ------
    NotProvenError
        If it is a mixture of several, or was transformed in another way.
    """
    if draw.scale is None or draw.offset is None or len(draw.sources) != 1:
        raise NotProvenError("several random numbers are mixed before they are compared")
    if not ((draw.scale > 0).all() or (draw.scale < 0).all()):
        raise NotProvenError("the sign of a random number depends on a ratio")
    return next(iter(draw.sources)), draw.scale, draw.offset


def _quantile(node: ir.Node, threshold: Array) -> Array:
    """Return the probability that a generator draws less than a threshold."""
    if node.op_type in _UNIFORM:
        low, high = _float(node, "low", 0.0), _float(node, "high", 1.0)
        if not high > low:
            raise NotProvenError("its bounds are equal")
        return np.asarray(np.clip((threshold - low) / (high - low), 0.0, 1.0))
    mean, scale = _float(node, "mean", 0.0), _float(node, "scale", 1.0)
    if "Truncated" in node.op_type or not scale > 0:
        raise NotProvenError("the probability of its threshold is not known")
    standard = (threshold - mean) / (scale * math.sqrt(2.0))
    return np.array([0.5 * math.erfc(-number) for number in standard])


def below(x: Noise, threshold: Range, where: ir.Node) -> Noise:
    """Return the indicator of a continuous random number being below a threshold.

    Whether it may equal the threshold makes no difference: that has probability 0 but for
    rounding.
    """
    draw = x.first.draw
    if draw is None or x.sense:
        raise NotProvenError("a random number is compared that is masked already")
    if draw.varies or not threshold.known:
        # A threshold per position, as for a region of valid seeds: no probability.
        event = Event(("varied", id(where), *sorted(id(source) for source in draw.sources)))
        return replace(
            x, first=exact(1.0), second=exact(0.0), sense=frozenset({(event, True)}), chance=None
        )
    source, scale, offset = normal_draw(draw)
    with np.errstate(all="ignore"):
        chance = _quantile(source, (threshold.low - offset) / scale)
    event = Event(("below", id(source), tuple(np.round(chance, 6).tolist())))
    happens = bool((scale > 0).all())
    # Where the number falls with its source, it is below when the source is above.
    return replace(
        x,
        first=exact(1.0),
        second=exact(0.0),
        sense=frozenset({(event, happens)}),
        chance=chance if happens else 1.0 - chance,
    )


def stepped(x: Noise, operation: str, where: ir.Node) -> Noise:
    """Return a continuous random number rounded to one of two whole numbers.

    Parameters
    ----------
    x
        The number.
    operation
        "Floor", "Ceil", "Round", "Sign", or "Cast" for the conversion to an integer.
    where
        The node that rounds.
    """
    draw = x.first.draw
    if draw is None:
        return x
    source, scale, offset = normal_draw(draw)
    if operation == "Sign":
        return _two(below(x, exact(0.0), where), -1.0, 1.0)
    if not (scale == scale[0]).all():
        raise NotProvenError(f"{operation} depends on a number that only the run knows")
    if source.op_type not in _UNIFORM:
        raise NotProvenError(f"{operation} of an unbounded random number has many values")
    ends = np.stack([scale * _float(source, "low", 0.0), scale * _float(source, "high", 1.0)])
    low, high = ends.min(axis=0) + offset, ends.max(axis=0) + offset
    if operation == "Cast" and (low < 0).any():
        raise NotProvenError("a random number that may be negative is cut to an integer")
    shift = {"Ceil": 1.0, "Round": 0.5}.get(operation, 0.0)
    step = np.floor(low + shift + 1e-9) + 1.0
    if (high + shift > step + 1.0 + 1e-6).any() or (step != step[0]).any():
        raise NotProvenError(f"{operation} of a random number has more than two values")
    if (high + shift <= step + 1e-9).all():
        number = exact(step - 1.0)
        return Noise(number, number, dims=x.dims, sources=x.sources, coarse=x.coarse)
    return _two(below(x, exact(step - shift), where), float(step[0]) - 1.0, float(step[0]))


def _two(indicator: Noise, low: float, high: float) -> Noise:
    return replace(indicator, first=exact(low), second=exact(high))


def compared(operation: str, x: Range, y: Range) -> Range:
    """Compare two numbers that are not drawn; 0 to 1 where that depends on the position."""
    if x.draw is not None or y.draw is not None:
        return ANY
    if operation == "Equal":
        if x.known and y.known:
            return exact((x.low == y.low).astype(float))
        return span(0.0, 1.0)
    if operation.startswith("Greater"):
        x, y = y, x
    if operation.endswith("OrEqual"):
        always, never = x.high <= y.low, x.low > y.high
    else:
        always, never = x.high < y.low, x.low >= y.high
    return Range(np.where(always, 1.0, 0.0), np.where(never, 0.0, 1.0))
