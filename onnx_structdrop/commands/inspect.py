"""``structdrop inspect``: the nodes of models that draw random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.console import percent, print_json, print_line, print_table, shape_text
from onnx_structdrop.graph.inspect import InspectReport, StochasticNode, inspect
from onnx_structdrop.graph.io import load

if TYPE_CHECKING:
    import argparse

__all__ = ["run"]


def run(options: argparse.Namespace) -> int:
    """List the stochastic nodes of each model; all of them are read before any is reported."""
    reports = [(path, inspect(load(path))) for path in options.models]
    if options.json:
        print_json({"models": [{"model": path, **report.to_dict()} for path, report in reports]})
        return 0
    for index, (path, report) in enumerate(reports):
        if index:
            print_line()
        _print_report(path, report)
    return 0


def _print_report(path: str, report: InspectReport) -> None:
    if not report.nodes:
        print_line(f"{path}: nothing draws random numbers")
        return
    scoped = any(node.scope for node in report.nodes)
    print_table(
        {
            "node": "left",
            "operator": "left",
            "active": "left",
            "ratio": "right",
            "seed": "right",
            "behind": "left",
            "shape": "left",
            "attributes": "left",
            **({"scope": "left"} if scoped else {}),
        },
        (
            (
                node.name or None,
                node.op_type,
                _active(node),
                None if node.ratio is None else percent(node.ratio),
                node.seed,
                node.data,
                shape_text(node.shape),
                _attributes(node),
                *((node.scope or None,) if scoped else ()),
            )
            for node in report.nodes
        ),
        title=path,
    )
    print_line(f"{len(report.own)} of structdrop, {len(report.foreign)} foreign")


def _active(node: StochasticNode) -> str:
    return "at run time" if node.active is None else "yes" if node.active else "no"


def _attributes(node: StochasticNode) -> str:
    return " ".join(
        f"{name}={'x'.join(map(str, value)) or '-' if isinstance(value, list) else f'{value:g}'}"
        for name, value in node.attributes.items()
    )
