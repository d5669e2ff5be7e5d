"""Where things go in the block diagram of a model: stages, blocks and sites, in rows.

All lengths are in inches. Nothing here draws.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onnx_structdrop.graph.sites import Site

__all__ = ["SLOT", "Block", "Row", "Stage", "rows", "size_text", "stage_text"]

SLOT = 0.25
"""Width that one site takes."""

_PAD = 0.11
_BLOCK_GAP = 0.1
_STAGE_PAD = 0.1
_STAGE_GAP = 0.14
_ROW_WIDTH = 14.0
_NARROWEST_STAGE, _NARROWEST_SCOPE = 1.02, 1.5
_ROOMY = 1.5
_SMALLEST, _LARGEST = 0.62, 1.55


@dataclass
class Block:
    """Sites of one block; `left` is set when the block is placed."""

    sites: list[Site]
    left: float = 0.0

    @property
    def width(self) -> float:
        """Width of the box."""
        return 2 * _PAD + SLOT * len(self.sites)

    def position(self, index: int) -> float:
        """Return the horizontal centre of a site."""
        return self.left + _PAD + SLOT * (index + 0.5)


@dataclass
class Stage:
    """Consecutive blocks of one resolution; a stage that is too wide continues in a next row."""

    blocks: list[Block]
    continued: bool = False
    height: float = _LARGEST
    left: float = 0.0

    @property
    def width(self) -> float:
        """Width of the band."""
        narrowest = _NARROWEST_SCOPE if self.scope else _NARROWEST_STAGE
        return max(_width(self.blocks), narrowest)

    @property
    def scope(self) -> str:
        """Subgraph or function that the stage is in; empty for the main graph."""
        return self.blocks[0].sites[0].scope

    @property
    def typical(self) -> Site:
        """Site that stands for the stage: its last join, else one of the most common shape."""
        sites = [site for block in self.blocks for site in block.sites]
        joins = [site for site in sites if site.kind == "join"]
        if joins:
            return joins[-1]
        shape = Counter(site.shape for site in sites).most_common(1)[0][0]
        return next(site for site in sites if site.shape == shape)

    def place(self, left: float) -> None:
        """Set the positions of the band and its blocks."""
        self.left = left
        left += (self.width - _width(self.blocks)) / 2 + _STAGE_PAD
        for block in self.blocks:
            block.left = left
            left += block.width + _BLOCK_GAP


@dataclass
class Row:
    """Stages side by side."""

    stages: list[Stage] = field(default_factory=list)

    @property
    def width(self) -> float:
        """Width with the gaps between stages."""
        return sum(stage.width + _STAGE_GAP for stage in self.stages) - _STAGE_GAP


def rows(sites: Iterable[Site]) -> list[Row]:
    """Arrange sites, which come in execution order, into placed rows."""
    stages = _sized(_stages(sites))
    total = Row(stages).width
    # Rows of about the same length, rather than full ones and a short rest.
    limit = total / math.ceil(total / _ROW_WIDTH) * 1.15
    result = [Row()]
    for stage in stages:
        row = result[-1]
        if row.stages and row.width + _STAGE_GAP + stage.width > min(limit, _ROW_WIDTH):
            row = Row()
            result.append(row)
        row.stages.append(stage)
    for row in result:
        left = 0.0
        for stage in row.stages:
            stage.place(left)
            left += stage.width + _STAGE_GAP
    return result


def _stages(sites: Iterable[Site]) -> list[Stage]:
    stages = []
    for _, members in groupby(sites, key=lambda site: (site.scope, site.stage)):
        blocks = [Block(list(group)) for _, group in groupby(members, key=_block_key)]
        part: list[Block] = []
        continued = False
        for block in (piece for whole in blocks for piece in _cut(whole)):
            if part and _width([*part, block]) > _ROW_WIDTH:
                stages.append(Stage(part, continued))
                part, continued = [], True
            part.append(block)
        stages.append(Stage(part, continued))
    return stages


def _block_key(site: Site) -> tuple[str, int | None]:
    return site.scope, site.block


def _cut(block: Block) -> list[Block]:
    """Cut a block that does not fit into a row."""
    most = int((_ROW_WIDTH - 2 * _PAD - 2 * _STAGE_PAD) / SLOT)
    return [Block(block.sites[i : i + most]) for i in range(0, len(block.sites), most)]


def _width(blocks: Sequence[Block]) -> float:
    inner = sum(block.width for block in blocks) + _BLOCK_GAP * (len(blocks) - 1)
    return inner + 2 * _STAGE_PAD


def _sized(stages: list[Stage]) -> list[Stage]:
    """Set heights: one step of the logarithm of the resolution is one step of height."""
    sizes = [_extent(stage.typical, by_stride=True) for stage in stages]
    if None in sizes:
        sizes = [_extent(stage.typical, by_stride=False) for stage in stages]
    logs = [math.log2(size) for size in sizes if size]
    if logs and max(logs) > min(logs):
        low, high = min(logs), max(logs)
        for stage, size in zip(stages, sizes, strict=True):
            share = (math.log2(size) - low) / (high - low) if size else 0.5
            stage.height = _SMALLEST + share * (_LARGEST - _SMALLEST)
    else:
        for stage in stages:
            stage.height = (_SMALLEST + _LARGEST) / 2
    return stages


def _extent(site: Site, *, by_stride: bool) -> float | None:
    if by_stride:
        return 1 / float(site.stride) if site.stride else None
    spatial = [
        size for axis, size in enumerate(site.shape or ()) if axis not in (0, site.channel_axis)
    ]
    sizes = [size for size in spatial if isinstance(size, int) and size > 0]
    if not sizes or len(sizes) < len(spatial):
        return None
    return float(math.prod(sizes) ** (1 / len(sizes)))


def size_text(stage: Stage) -> str:
    """Return the shape of a stage without the batch, in the model's order, and its stride."""
    site = stage.typical
    if site.shape is None:
        shape = "?"
    else:
        sizes = ["?" if size is None else str(size) for size in site.shape]
        shape = "\N{MULTIPLICATION SIGN}".join(sizes if len(sizes) < 2 else sizes[1:])
    if site.stride is None:
        return shape
    word = "stride " if stage.width > _ROOMY and not stage.scope else "/"
    return f"{shape} · {word}{site.stride:g}"


def stage_text(stage: Stage) -> str:
    """Return the name of a stage."""
    site = stage.typical
    if site.stage is not None:
        name = f"stage {site.stage}"
    else:
        name = "stem" if site.block is None else "no stage"
    return f"{name} (continued)" if stage.continued else name
