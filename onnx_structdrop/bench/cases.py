"""What can be timed: each case is one operator in one form on one tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.bench import models
from onnx_structdrop.bench.checks import Expected, check_dropout, check_equal
from onnx_structdrop.bench.sessions import copier, session_call
from onnx_structdrop.specs.dropblock_base import DropBlock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx_structdrop.bench.tensors import Array, Tensors
    from onnx_structdrop.specs.base import DropoutSpec

__all__ = [
    "UNIT",
    "Call",
    "Case",
    "chain",
    "expected_of",
    "function",
    "gradient",
    "kernel",
    "memcpy",
    "multiply",
    "multiply_half",
    "standard_dropout",
]

UNIT = "mul"
"""Key of the case that others are compared with by default."""

Parameter = int | float | str


@dataclass(frozen=True)
class Call:
    """A case made ready on some tensors."""

    run: Callable[[], object]
    check: Callable[[], None]
    """Raise CheckFailedError unless the last run did what it should have done."""


@dataclass(frozen=True)
class Case:
    """Something to be timed.

    Attributes
    ----------
    key
        Name within a group.
    title
        Name for people.
    make
        Makes it ready on some tensors.
    threads
        Number of threads that it runs on.
    element
        Element type of the data.
    unit
        Key of the case that this one is compared with.
    parameter
        What a sweep varies: its value here.
    is_part
        Whether it is only a part of a figure, and of no interest by itself.
    """

    key: str
    title: str
    make: Callable[[Tensors], Call] = field(repr=False)
    threads: int
    element: str = "float32"
    unit: str = UNIT
    parameter: Parameter | None = None
    is_part: bool = False

    @property
    def label(self) -> str:
        """Title with the element type, where that is not float32."""
        return self.title if self.element == "float32" else f"{self.title}, {self.element}"

    def at(self, parameter: Parameter, *, unit: str = UNIT) -> Case:
        """Return the same as the point of a sweep; a unit stays its own unit."""
        key = f"{self.key}@{parameter}"
        own = key if self.key == self.unit else unit
        return replace(self, key=key, parameter=parameter, unit=own)


def multiply(threads: int) -> Case:
    """Return the unit: onnxruntime's Mul by a scalar."""

    def make(tensors: Tensors) -> Call:
        data, output = tensors.data("float32"), tensors.output("float32")
        model = models.multiply_model(tensors.shape)
        run = _session(model, data, output, threads, library=False)
        return Call(run, lambda: check_equal("Mul", data * np.float32(2), output))

    return Case(UNIT, "onnxruntime Mul", make, threads)


def multiply_half(threads: int) -> Case:
    """Return the unit on half of the data: as many bytes as all of it has in 16 bits."""

    def make(tensors: Tensors) -> Call:
        half = max(math.prod(tensors.shape) // 2, 1)
        data, output = (
            array.reshape(-1)[:half]
            for array in (tensors.data("float32"), tensors.output("float32"))
        )
        run = _session(models.multiply_model((half,)), data, output, threads, library=False)
        return Call(run, lambda: check_equal("Mul", data * np.float32(2), output))

    return Case("mul_half", "onnxruntime Mul on half of the data", make, threads)


def memcpy(threads: int, element: str = "float32") -> Case:
    """Return a copy by ``memmove`` on several threads."""

    def make(tensors: Tensors) -> Call:
        data, output = tensors.data(element), tensors.output(element)
        run = copier(data, output, threads)
        return Call(run, lambda: check_equal("memcpy", data, output))

    return Case(f"memcpy_{element}", "memcpy", make, threads, element)


def standard_dropout(threads: int, rate: float) -> Case:
    """Return onnxruntime's own Dropout in training mode."""

    def make(tensors: Tensors) -> Call:
        data, output = tensors.data("float32"), tensors.output("float32")
        mask = tensors.output("bool")
        run = session_call(
            models.dropout_model(tensors.shape, rate),
            {models.DATA: data},
            {models.OUTPUT: output, models.MASK: mask},
            threads,
            library=False,
        )
        expected = Expected(rate, data.size)
        return Call(run, lambda: check_dropout("Dropout", data, output, expected, mask))

    return Case("dropout", "onnxruntime Dropout", make, threads)


def kernel(
    key: str,
    title: str,
    spec: DropoutSpec,
    threads: int,
    *,
    element: str = "float32",
    with_mask: bool = False,
) -> Case:
    """Return a native kernel; see `models` for why it cannot be anything else."""
    return _structured(
        key, title, spec, threads, element=element, with_mask=with_mask, as_function=False
    )


def function(key: str, title: str, spec: DropoutSpec, threads: int) -> Case:
    """Return the function form of an operator."""
    return _structured(
        key, f"{title}, function", spec, threads, element="float32", with_mask=False,
        as_function=True,
    )  # fmt: skip


def _structured(
    key: str,
    title: str,
    spec: DropoutSpec,
    threads: int,
    *,
    element: str,
    with_mask: bool,
    as_function: bool,
) -> Case:
    def make(tensors: Tensors) -> Call:
        data, output = tensors.data(element), tensors.output(element)
        mask = tensors.output("bool") if with_mask else None
        model = models.structured_model(
            spec,
            tensors.shape,
            element=element,
            as_function=as_function,
            mask_shape=None if mask is None else mask.shape,
        )
        run = _session(model, data, output, threads, library=not as_function, mask=mask)
        expected = expected_of(spec, tensors.shape)
        return Call(run, lambda: check_dropout(title, data, output, expected, mask))

    return Case(key, title, make, threads, element)


def gradient(spec: DropoutSpec, threads: int, *, element: str = "float32") -> Case:
    """Return the gradient kernel on a mask that the kernel of `spec` drew."""

    def make(tensors: Tensors) -> Call:
        data, output = tensors.data(element), tensors.output(element)
        mask = tensors.empty("bool")
        forward = models.structured_model(
            spec, tensors.shape, element=element, mask_shape=mask.shape
        )
        _session(forward, data, output, threads, library=True, mask=mask)()
        scale = np.asarray(mask.size / max(int(np.count_nonzero(mask)), 1), np.float32)
        run = session_call(
            models.gradient_model(tensors.shape, element=element),
            {models.DATA: data, models.MASK: mask, models.SCALE: scale},
            {models.OUTPUT: output},
            threads,
            library=True,
        )
        dropped = Expected(1 - float(mask.mean()), math.inf)
        return Call(run, lambda: check_dropout("gradient", data, output, dropped, mask))

    return Case("gradient", "StructuredDropoutGrad", make, threads, element)


def chain(
    key: str, title: str, spec: DropoutSpec, threads: int, length: int, *, shape_known: bool
) -> Case:
    """Return nodes in a row, which onnxruntime runs in place where it knows the shape."""

    def make(tensors: Tensors) -> Call:
        data, output = tensors.data("float32"), tensors.output("float32")
        model = models.chain_model(spec, tensors.shape, length, shape_known=shape_known)
        run = _session(model, data, output, threads, library=True)
        once = expected_of(spec, tensors.shape)
        expected = Expected(1 - (1 - once.rate) ** length, once.trials)
        return Call(run, lambda: check_dropout(title, data, output, expected))

    return Case(key, title, make, threads, is_part=True)


def _session(
    model: bytes,
    data: Array,
    output: Array,
    threads: int,
    *,
    library: bool,
    mask: Array | None = None,
) -> Callable[[], None]:
    outputs = {models.OUTPUT: output}
    if mask is not None:
        outputs[models.MASK] = mask
    return session_call(model, {models.DATA: data}, outputs, threads, library=library)


def expected_of(spec: DropoutSpec, shape: Sequence[int]) -> Expected:
    """Return what a specification has to drop of a shape, and in how many pieces."""
    attributes: dict[str, Any] = spec.node_attributes(len(shape))
    rate = spec.realised_rate(shape)
    if isinstance(spec, DropBlock):
        spatial = [size for axis, size in enumerate(shape) if axis not in (0, 1)]
        sizes = attributes["block_size"]
        sizes = sizes * len(spatial) if len(sizes) == 1 else sizes
        piece = math.prod(min(b, size) for b, size in zip(sizes, spatial, strict=True))
        piece *= math.prod(shape[axis] for axis in attributes["shared_axes"])
    elif "noise_shape" in attributes:
        shared = attributes["noise_shape"]
        piece = math.prod(size for size, own in zip(shape, shared, strict=True) if own == 1)
    else:
        piece = math.prod(shape[2:])
    return Expected(rate, max(math.prod(shape) / piece, 1))
