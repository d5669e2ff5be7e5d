"""``structdrop inspect``: the nodes of models that draw random numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from onnx_structdrop.console import percent, print_json, print_line, print_table, shape_text, some
from onnx_structdrop.graph.inspect import InspectReport, StochasticNode, inspect
from onnx_structdrop.graph.io import load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Mapping, Sequence

__all__ = ["run"]

_FATES = {
    "deleted": "onnxruntime removes this node at its default level, so it never drops there",
    "deleted?": "as deleted, or not: that depends on what only a run knows",
    "frozen": "it reads constants only, so onnxslim and others make it a constant",
    "merged": "a node reads the same, so onnxsim, onnxoptimizer and onnxslim make them one",
}


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
    title: str | None = path
    if report.own:
        _print_own(path, report.own)
        title = None
    if report.foreign:
        if title is None:
            print_line()
        _print_foreign(title, report.foreign)
    for node in report.nodes:
        for problem in node.problems:
            print_line(f"malformed: {node.op_type} {node.name or node.output or '?'}: {problem}")
    print_line(f"{len(report.own)} of structdrop, {len(report.foreign)} foreign")


def _print_own(title: str, nodes: Sequence[StochasticNode]) -> None:
    scoped = any(node.scope for node in nodes)
    common = _common(nodes)
    rest = [_attributes(node, without=common[node.op_type]) for node in nodes]
    differing = any(rest)
    print_table(
        {
            "node": "name",
            "operator": "left",
            "active": "left",
            "ratio": "right",
            "seed": "right",
            "behind": "name",
            "shape": "left",
            **({"attributes": "left"} if differing else {}),
            **({"scope": "name"} if scoped else {}),
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
                *((text or None,) if differing else ()),
                *((node.scope or None,) if scoped else ()),
            )
            for node, text in zip(nodes, rest, strict=True)
        ),
        title=title,
    )
    counts = Counter(node.op_type for node in nodes)
    for op_type, shared in common.items():
        if shared:
            which = f"all {counts[op_type]} {op_type}" if counts[op_type] > 1 else op_type
            print_line(f"{which}: {_text(shared)}")


def _common(nodes: Sequence[StochasticNode]) -> dict[str, dict[str, Any]]:
    """Return what all nodes of an operator have in common, by operator."""
    common: dict[str, dict[str, Any]] = {}
    for node in nodes:
        own = node.to_dict()["attributes"]
        shared = common.setdefault(node.op_type, own)
        common[node.op_type] = {
            name: value for name, value in shared.items() if name in own and own[name] == value
        }
    return common


def _print_foreign(title: str | None, nodes: Sequence[StochasticNode]) -> None:
    # A table per scope: names of scopes are long.
    for scope in dict.fromkeys(node.scope for node in nodes):
        inside = [node for node in nodes if node.scope == scope]
        above = ", ".join(filter(None, (title, scope and f"in {scope}")))
        print_table(
            {
                "foreign node": "name",
                "operator": "left",
                "active": "left",
                "fed by": "name",
                "reaches": "name",
                "other tools": "left",
            },
            (
                (
                    node.name or node.output,
                    some([node.op_type], 18),
                    " ".join(filter(None, (_active(node), _rate(node)))),
                    node.data,
                    some(node.reaches),
                    _fate(node),
                )
                for node in inside
            ),
            title=above or None,
        )
    for word, meaning in _FATES.items():
        if any(word in (_fate(node) or "").split() for node in nodes):
            print_line(f"{word}: {meaning}")


def _rate(node: StochasticNode) -> str | None:
    if node.ratio is None:
        return None
    return some([node.ratio], 10) if isinstance(node.ratio, str) else percent(node.ratio)


def _fate(node: StochasticNode) -> str | None:
    """Return what other tools make of a live node."""
    if node.active is False:
        return None
    fates = {
        "deleted?": node.deleted is None,
        "deleted": bool(node.deleted),
        "frozen": node.frozen,
        "merged": len(node.alike) > 1,
    }
    return " ".join(word for word, holds in fates.items() if holds) or None


def _active(node: StochasticNode) -> str:
    return "at run time" if node.active is None else "yes" if node.active else "no"


def _attributes(node: StochasticNode, without: Collection[str]) -> str:
    attributes = node.to_dict()["attributes"]
    return _text({name: value for name, value in attributes.items() if name not in without})


def _text(attributes: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={'x'.join(map(str, value)) or '-' if isinstance(value, list) else value}"
        for name, value in attributes.items()
    )
