"""The stage that each dropout node is in, and a ratio of its own for each stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_structdrop.errors import ArgumentError, UnsupportedModelError
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.nodes import dropout_nodes
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.training.manifest import Ratio

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from onnx_structdrop.training.schedule import Schedule

__all__ = ["check_stages", "ratios_of", "split_by_stage"]


def node_stages(model: ir.Model) -> list[tuple[ir.Node, int | None]]:
    """Return every dropout node with the stage of the site that it stands behind.

    A node behind what is no site, as where it was written by hand, has no stage.
    """
    stages = {(site.scope, site.value): site.stage for site in find_sites(model)}
    nodes = []
    for scope, node in dropout_nodes(model):
        data = node.inputs[0] if node.inputs else None
        nodes.append((node, None if data is None else stages.get((scope, data.name or ""))))
    return nodes


def split_by_stage(model: ir.Model) -> None:
    """Give the nodes of each stage a ratio that no other stage has.

    `insert` gives all nodes of one call one ratio. Here initializers that drive several stages
    are copied, under names such as ``structdrop_ratio_stage3``. The model is changed.
    """
    users: dict[ir.Value, dict[int | None, list[ir.Node]]] = {}
    for node, stage in node_stages(model):
        ratio = node.inputs[1]
        if ratio is not None and ratio.is_initializer():
            users.setdefault(ratio, {}).setdefault(stage, []).append(node)
    names = Names(model)
    for ratio, stages in users.items():
        if len(stages) < 2 or ratio.graph is None or ratio.const_value is None:
            continue
        for stage, nodes in stages.items():
            name = names.take(f"{ratio.name}_{'rest' if stage is None else f'stage{stage}'}")
            tensor = ir.tensor(ratio.const_value.numpy(), name=name)
            copy = ir.Value(name=name, type=ratio.type, shape=ratio.shape, const_value=tensor)
            ratio.graph.register_initializer(copy)
            for node in nodes:
                node.replace_input_with(1, copy)
        if not ratio.uses() and ratio.graph is not None and not ratio.is_graph_output():
            del ratio.graph.initializers[ratio.name or ""]


def ratios_of(model: ir.Model, names: Collection[str]) -> tuple[Ratio, ...]:
    """Return what the named initializers drive.

    Raises
    ------
    UnsupportedModelError
        A ratio is no scalar that is written in the model.
    """
    rates: dict[str, float] = {}
    stages: dict[str, list[int | None]] = {name: [] for name in names}
    nodes: dict[str, list[str]] = {name: [] for name in names}
    for node, stage in node_stages(model):
        ratio = node.inputs[1]
        name = "" if ratio is None else ratio.name or ""
        if ratio is None or name not in stages:
            continue
        if ratio.const_value is None or ratio.const_value.size != 1:
            raise UnsupportedModelError(
                f"the ratio {name!r} of node {node.name!r} is not one number; insert it anew"
            )
        # The shortest decimal: 0.2, not the float32 next to it.
        rates[name] = float(str(np.float32(ratio.const_value.numpy().reshape(()))))
        nodes[name].append(node.name or "")
        if stage not in stages[name]:
            stages[name].append(stage)
    return tuple(
        Ratio(name, rates[name], tuple(stages[name]), tuple(nodes[name])) for name in rates
    )


def check_stages(schedule: Schedule, ratios: Iterable[Ratio]) -> None:
    """Check that a schedule can drive the ratios of a model.

    Raises
    ------
    ArgumentError
        It names a stage that holds no dropout, has two factors for one ratio, or leaves [0, 1).
    """
    ratios = tuple(ratios)
    present = {stage for ratio in ratios for stage in ratio.stages}
    for stage in schedule.factors:
        if stage not in present:
            known = ", ".join(str(number) for number in sorted(present - {None}, key=str))
            raise ArgumentError(
                f"schedule: stage {stage} holds no dropout; stages that do: {known or 'none'}"
            )
    for ratio in ratios:
        if len({schedule.factor(stage) for stage in ratio.stages}) > 1:
            raise ArgumentError(
                f"schedule: ratio {ratio.name!r} drives stages {_text(ratio.stages)}, which have "
                "different factors; give generate_artifacts this schedule, so that each gets one"
            )
        schedule.check(ratio.rate, ratio.stages[0])


def _text(stages: Iterable[int | None]) -> str:
    return ", ".join("none" if stage is None else str(stage) for stage in stages)
