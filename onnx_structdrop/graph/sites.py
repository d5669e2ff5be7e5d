"""Where dropout can be inserted: the ends of convolution blocks, and the joins of branches."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnx_structdrop.graph.collector import uncollected
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.files.calls import check_calls
from onnx_structdrop.graph.topology.blocks import Blocks
from onnx_structdrop.graph.topology.chains import Chains
from onnx_structdrop.graph.topology.dataflow import Dataflow
from onnx_structdrop.graph.topology.resolution import Resolution
from onnx_structdrop.graph.topology.shapes import Dim, Shapes
from onnx_structdrop.graph.topology.stages import BlockMap, number_stages
from onnx_structdrop.schema import ELEMENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

    import onnx

__all__ = ["KINDS", "Site", "find_sites"]

KINDS = ("activation", "linear", "shortcut", "join", "concat")
"""Every kind of site."""


@dataclass(frozen=True)
class Site:
    """A place where dropout can be inserted: right behind a value.

    Attributes
    ----------
    value : str
        Name of the value.
    producer : str
        Name of the node that makes it.
    op_type : str
        Operator of that node.
    kind : str
        ``"activation"``: the end of a conv-norm-act block. ``"linear"``: the end of a block without
        an activation, such as one that enters a residual join, or a linear bottleneck.
        ``"shortcut"``: the other branch entering a join, where it holds a conv or a pool.
        ``"join"``: a block's output, the activation after a join or the join itself.
        ``"concat"``: a layer's output that enters a dense concatenation.
    channel_axis : int
        Axis of the channels.
    shape : tuple or None
        Sizes, names of free sizes, None for unknown ones; None as a whole if the rank is unknown.
    stage : int or None
        Resolution stage from 1, counted on block outputs; None before the first of them.
    stride : int, float or None
        Size of the model's input over size of this map, the largest over the spatial axes.
    block : int or None
        Index of the block within the stage, from 1; None for what is in no block, such as a stem.
    scope : str
        Empty for the main graph, else the subgraph or function the value is in.
    dtype : str or None
        Element type.
    """

    value: str
    producer: str
    op_type: str
    kind: str
    channel_axis: int
    shape: tuple[Dim, ...] | None
    stage: int | None
    stride: int | float | None
    block: int | None
    scope: str = ""
    dtype: str | None = None

    @property
    def rank(self) -> int | None:
        """Number of axes, None if unknown."""
        return None if self.shape is None else len(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
        fields = asdict(self)
        fields["shape"] = None if self.shape is None else list(self.shape)
        return fields


@dataclass(frozen=True)
class _Found:
    """A site before stages and blocks are numbered."""

    site: Site
    index: int
    coarseness: Fraction | None
    owner: int | None


@uncollected()
def find_sites(model: onnx.ModelProto | ir.Model) -> list[Site]:
    """Return every place where structured dropout fits, in execution order.

    Each convolution block gives one site, each join one, and each shortcut that holds a pool.
    Convolutions of squeeze-and-excitation gates and of classifiers give none. Dropout that is
    already there is looked through.

    Parameters
    ----------
    model : onnx.ModelProto or onnx_ir.Model
        The model; it is not changed, and its weights are not read.

    Raises
    ------
    ArgumentTypeError
        If `model` is neither.
    ModelError
        If it is broken, or functions call themselves.
    UnsupportedModelError
        If calls of functions stand for too many nodes.
    """
    if isinstance(model, ir.Model):
        check_calls(model)
        source = model  # It is only read: a copy, which as_ir makes, would be for nothing.
    else:
        source = as_ir(model)  # Refuses what is neither.
    flow = Dataflow(source)
    shapes = Shapes(source, flow.scopes)
    resolution = Resolution(flow, shapes)
    chains = Chains(flow, resolution)
    maps: list[BlockMap] = []
    found: list[list[_Found]] = []
    for scope in flow.scopes:
        blocks = Blocks(scope, flow, resolution, chains)
        maps.append(BlockMap(blocks))
        found.append(sorted(_scope_sites(blocks, maps[-1], shapes), key=lambda f: f.index))
    outputs = [coarseness for block_map in maps for coarseness in block_map.outputs.values()]
    stages = number_stages((f.coarseness for group in found for f in group), outputs)
    return [
        site
        for group, block_map in zip(found, maps, strict=True)
        for site in _numbered(group, block_map, stages, plain=not outputs)
    ]


def _scope_sites(blocks: Blocks, block_map: BlockMap, shapes: Shapes) -> Iterator[_Found]:
    values: dict[ir.Value, tuple[int, str]] = {}
    for index, conv in blocks.convs.items():
        values.setdefault(conv.end, (index, conv.kind))
    for index, merge in blocks.merges.items():
        if merge.is_join:
            values.setdefault(merge.end, (index, "join"))
    for value in blocks.pooled:
        values.setdefault(value, (blocks.producer(value), "shortcut"))
    for value, (index, kind) in values.items():
        node = value.producer()
        dtype = _type_name(shapes.dtype(value))
        if node is None or (dtype is not None and dtype not in ELEMENT_TYPES):
            continue
        layout = blocks.resolution.layout(value)
        axis = None if layout is None else layout.channel_axis
        dims = shapes.dims(value)
        if dims is None and layout is not None:
            dims = (None,) * len(layout.axes)
        owner, coarseness = block_map.place(index, value)
        # A function that is called at different resolutions has no place of its own.
        ambiguous = blocks.resolution.is_ambiguous(blocks.scope)
        if ambiguous:
            owner = coarseness = None
        site = Site(
            value=value.name or "",
            producer=node.name or "",
            op_type=node.op_type,
            kind=kind,
            channel_axis=1 if axis is None else axis,
            shape=dims,
            stage=None,
            stride=None if layout is None or ambiguous else layout.stride,
            block=None,
            scope=blocks.scope.name,
            dtype=dtype,
        )
        yield _Found(site, blocks.producer(value), coarseness, owner)


def _numbered(
    found: list[_Found], block_map: BlockMap, stages: dict[Fraction, int], *, plain: bool
) -> Iterator[Site]:
    counts: dict[int | None, int] = {}
    numbers: dict[int, int] = {}
    for owner, coarseness in block_map.outputs.items():
        stage = None if coarseness is None else stages.get(coarseness)
        counts[stage] = counts.get(stage, 0) + 1
        numbers[owner] = counts[stage]
    for item in found:
        stage = None if item.coarseness is None else stages.get(item.coarseness)
        block = None if item.owner is None else numbers[item.owner]
        if plain and stage is not None:
            # Without joins or bottlenecks every convolution is a block of its own.
            counts[stage] = counts.get(stage, 0) + 1
            block = counts[stage]
        yield replace(item.site, stage=stage, block=block)


def _type_name(dtype: ir.DataType | None) -> str | None:
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        return None
    return {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}.get(
        dtype, dtype.name.lower()
    )
