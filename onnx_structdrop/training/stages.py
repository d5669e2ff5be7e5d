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
    from collections.abc import Collection, Iterable, Mapping

    from onnx_structdrop.training.schedule import Schedule

__all__ = ["check_stages", "node_stages", "ratios_of", "split_by_stage"]


def node_stages(model: ir.Model) -> dict[str, int | None]:
    """Return the stage of the site that each dropout node stands behind, by the node's output.

    A node behind what is no site, as where it was written by hand, has no stage.
    """
    stages = {(site.scope, site.value): site.stage for site in find_sites(model)}
    return {
        _output(node): stages.get((scope, _name(node.inputs[0])))
        for scope, node in dropout_nodes(model)
    }


def split_by_stage(model: ir.Model, stages_of: Mapping[str, int | None]) -> None:
    """Give the nodes of each stage a ratio that no other stage has.

    `insert` gives all nodes of one call one ratio. Here initializers that drive several stages
    are copied, under names such as ``structdrop_ratio_stage3``. The model is changed.
    """
    users: dict[ir.Value, dict[int | None, list[ir.Node]]] = {}
    for _, node in dropout_nodes(model):
        ratio = node.inputs[1]
        if ratio is not None and ratio.is_initializer():
            stage = stages_of[_output(node)]
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


def ratios_of(
    model: ir.Model, names: Collection[str], stages_of: Mapping[str, int | None]
) -> tuple[Ratio, ...]:
    """Return what the named initializers drive.

    Raises
    ------
    UnsupportedModelError
        A ratio is no scalar that is written in the model.
    """
    rates: dict[str, float] = {}
    stages: dict[str, list[int | None]] = {name: [] for name in names}
    nodes: dict[str, list[str]] = {name: [] for name in names}
    for _, node in dropout_nodes(model):
        ratio, stage = node.inputs[1], stages_of.get(_output(node))
        name = _name(ratio)
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


def _name(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""


def _output(node: ir.Node) -> str:
    return _name(node.outputs[0])


def _text(stages: Iterable[int | None]) -> str:
    return ", ".join("none" if stage is None else str(stage) for stage in stages)
