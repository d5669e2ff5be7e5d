"""What is timed together: the standard suite and the sweeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnx_structdrop import specs
from onnx_structdrop.bench.cases import (
    Case,
    chain,
    function,
    gradient,
    kernel,
    memcpy,
    multiply,
    multiply_half,
    standard_dropout,
)
from onnx_structdrop.bench.sessions import binds_bfloat16
from onnx_structdrop.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnx_structdrop.specs.base import DropoutSpec

__all__ = [
    "BLOCK_SIZE",
    "CHAIN",
    "RATE",
    "SMALLEST",
    "SWEEPS",
    "Group",
    "check_shape",
    "function_group",
    "smallest_group",
    "standard_group",
    "sweep",
]

RATE = 0.1
"""Rate where none is swept."""

BLOCK_SIZE = 7
"""Block size where none is swept."""

CHAIN = 6
"""Nodes in a row of which the time in place is taken."""

SMALLEST = (1, 1, 4, 4)
"""Shape of 64 bytes."""

_RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
_BLOCKS = (1, 2, 3, 5, 7, 9, 11, 15, 21)
_ELEMENTS = ("float32", "float64", "float16", "bfloat16")
_SIZES = (
    SMALLEST,
    (1, 4, 4, 4),
    (1, 4, 8, 8),
    (1, 16, 8, 8),
    (1, 16, 16, 16),
    (1, 64, 16, 16),
    (1, 64, 32, 32),
    (4, 64, 32, 32),
    (16, 64, 32, 32),
    (16, 64, 64, 64),
    (96, 64, 64, 64),
)


@dataclass(frozen=True)
class Group:
    """Cases that are timed on one shape, in the same rounds.

    Attributes
    ----------
    shape
        Shape of the data.
    cases
        What to time; units come before what is compared with them.
    """

    shape: tuple[int, ...]
    cases: list[Case]


def spatial(rate: float, rank: int) -> DropoutSpec:
    """Return spatial dropout for data of a rank."""
    made: DropoutSpec = getattr(specs, f"SpatialDropout{rank - 2}D")(rate)
    return made


def block(rate: float, block_size: int, rank: int, **settings: Any) -> DropoutSpec:
    """Return DropBlock for data of a rank."""
    made: DropoutSpec = getattr(specs, f"DropBlock{rank - 2}D")(rate, block_size, **settings)
    return made


def standard_group(shape: Sequence[int], threads: int) -> Group:
    """Return everything that the goals are about, frameworks apart."""
    rank = len(shape)
    spatial_dropout, drop_block = spatial(RATE, rank), block(RATE, BLOCK_SIZE, rank)
    shared = specs.Dropout(RATE, noise_shape=(None, 1, *[None] * (rank - 2)))
    path = specs.DropPath(RATE)
    cases = [
        multiply(threads),
        memcpy(threads),
        multiply_half(threads),
        standard_dropout(threads, RATE),
        kernel("spatial_dropout", "SpatialDropout", spatial_dropout, threads),
        kernel("drop_block", "DropBlock", drop_block, threads),
        kernel("drop_block_mask", "DropBlock + mask", drop_block, threads, with_mask=True),
        gradient(drop_block, threads),
        kernel("noise_shape", "NoiseShapeDropout, one mask for all channels", shared, threads),
        kernel("drop_path", "DropPath", path, threads),
        kernel("drop_block_float16", "DropBlock", drop_block, threads, element="float16"),
        *(
            kernel(
                f"drop_block_{size}", f"DropBlock, block {size}", block(RATE, size, rank), threads
            )
            for size in (3, 15)
        ),
        chain("chain_0", "two Mul", spatial_dropout, threads, 0, shape_known=True),
        *(
            chain(
                f"chain_{place}",
                f"{CHAIN} SpatialDropout {words} between two Mul",
                spatial_dropout,
                threads,
                CHAIN,
                shape_known=known,
            )
            for place, words, known in (("inside", "in place", True), ("outside", "apart", False))
        ),
        function("spatial_dropout_function", "SpatialDropout", spatial_dropout, threads),
        function("drop_block_function", "DropBlock", drop_block, threads),
    ]
    if threads > 1:
        alone = kernel("drop_block_alone", "DropBlock, 1 thread", drop_block, 1)
        unit = replace(multiply(1), key="mul_alone", title="onnxruntime Mul, 1 thread")
        cases += [unit, alone]
    return Group(tuple(shape), cases)


def smallest_group(threads: int) -> Group:
    """Return what a call costs where there is next to nothing to compute."""
    return Group(SMALLEST, [multiply(threads), *_three(len(SMALLEST), threads)])


def function_group(shape: Sequence[int], threads: int) -> Group:
    """Return the function forms, which need no library."""
    rank = len(shape)
    forms: list[tuple[str, str, DropoutSpec]] = [
        ("spatial_dropout", "SpatialDropout", spatial(RATE, rank)),
        ("drop_path", "DropPath", specs.DropPath(RATE)),
        ("drop_block_3", "DropBlock, block 3", block(RATE, 3, rank)),
        ("drop_block", "DropBlock", block(RATE, BLOCK_SIZE, rank)),
        (
            "drop_block_whole",
            "DropBlock, whole map",
            block(RATE, BLOCK_SIZE, rank, seed_region="whole"),
        ),
        (
            "drop_block_shared",
            "DropBlock, one mask for all channels",
            block(RATE, BLOCK_SIZE, rank, shared_axes=(1,)),
        ),
        ("drop_block_dense", "DropBlock, rate 0.3, block 2", block(0.3, 2, rank)),
    ]
    return Group(
        tuple(shape),
        [
            multiply(threads),
            memcpy(threads),
            standard_dropout(threads, RATE),
            *(function(f"{key}_function", title, spec, threads) for key, title, spec in forms),
        ],
    )


def _three(
    rank: int, threads: int, *, rate: float = RATE, block_size: int = BLOCK_SIZE
) -> list[Case]:
    drop_block = block(rate, block_size, rank)
    return [
        kernel("spatial_dropout", "SpatialDropout", spatial(rate, rank), threads),
        kernel("drop_block", "DropBlock", drop_block, threads),
        kernel("drop_block_mask", "DropBlock + mask", drop_block, threads, with_mask=True),
    ]


def sweep(name: str, shape: Sequence[int], threads: int) -> list[Group]:
    """Return the groups of a sweep.

    Parameters
    ----------
    name
        A key of `SWEEPS`.
    shape
        Shape of the data; the sweep of sizes brings its own.
    threads
        Number of threads; the sweep of threads goes up to it.
    """
    return SWEEPS[name](tuple(shape), threads)


def _sizes(_shape: tuple[int, ...], threads: int) -> list[Group]:
    groups = []
    for shape in _SIZES:
        size = 4 * math.prod(shape)
        own = [
            memcpy(threads),
            standard_dropout(threads, RATE),
            *_three(len(shape), threads),
            function("drop_block_function", "DropBlock", block(RATE, BLOCK_SIZE, 4), threads),
        ]
        unit = multiply(threads).at(size)
        groups.append(Group(shape, [unit, *(case.at(size, unit=unit.key) for case in own)]))
    return groups


def _rates(shape: tuple[int, ...], threads: int) -> list[Group]:
    cases = [multiply(threads)]
    for rate in _RATES:
        cases += [case.at(rate) for case in _three(len(shape), threads, rate=rate)]
    return [Group(shape, cases)]


def _blocks(shape: tuple[int, ...], threads: int) -> list[Group]:
    cases = [multiply(threads)]
    for size in _BLOCKS:
        # Spatial dropout has no block.
        blocks = _three(len(shape), threads, block_size=size)[1:]
        cases += [case.at(size) for case in blocks]
    return [Group(shape, cases)]


def _threads(shape: tuple[int, ...], threads: int) -> list[Group]:
    rank = len(shape)
    cases = []
    for count in sorted({*(1 << power for power in range(threads.bit_length())), threads}):
        unit = multiply(count).at(count)
        others = [
            memcpy(count),
            *_three(rank, count),
            gradient(block(RATE, BLOCK_SIZE, rank), count),
        ]
        cases += [unit, *(case.at(count, unit=unit.key) for case in others)]
    return [Group(shape, cases)]


def _elements(shape: tuple[int, ...], threads: int) -> list[Group]:
    rank = len(shape)
    drop_block = block(RATE, BLOCK_SIZE, rank)
    cases = [multiply(threads)]
    for element in _ELEMENTS:
        if element == "bfloat16" and not binds_bfloat16():
            continue
        made = [
            memcpy(threads, element),
            kernel(
                "spatial_dropout", "SpatialDropout", spatial(RATE, rank), threads, element=element
            ),
            kernel("drop_block", "DropBlock", drop_block, threads, element=element),
            gradient(drop_block, threads, element=element),
        ]
        cases += [case.at(element) for case in made]
    return [Group(shape, cases)]


SWEEPS: dict[str, Callable[[tuple[int, ...], int], list[Group]]] = {
    "size": _sizes,
    "rate": _rates,
    "block": _blocks,
    "threads": _threads,
    "dtype": _elements,
}
"""Sweeps by name."""


def check_shape(shape: Sequence[int]) -> None:
    """Raise ArgumentError unless the operators can be timed on a shape."""
    text = ",".join(map(str, shape))
    if not 3 <= len(shape) <= 5:
        raise ArgumentError(f"shape {text} has rank {len(shape)}; allowed are ranks 3 to 5")
    if min(shape) < 1:
        raise ArgumentError(f"shape {text} has a size below 1")
