"""``structdrop cost``: what it costs to sample a model, by where its dropout begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.commands.selection import has_filters, select
from onnx_structdrop.commands.specification import specification
from onnx_structdrop.console import message, print_json, print_line, print_table
from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.inspect import inspect
from onnx_structdrop.graph.io import load
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.mc import cost

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from onnx_structdrop.graph.sites import Site
    from onnx_structdrop.mc import Cost
    from onnx_structdrop.specs import DropoutSpec

__all__ = ["run"]

_RATE = 0.1
"""Where none is given: what sampling costs hardly hangs on it."""


def run(options: argparse.Namespace) -> int:
    """Predict and measure the cost of placements."""
    if options.rate is None:
        options.rate = _RATE
    model = load(options.model)
    if inspect(model).own:
        raise ModelError(
            f"{options.model}: it holds structured dropout already, and what is asked for is the "
            "cost of inserting it; take it out first (structdrop fold)"
        )
    spec = specification(options)
    sites = find_sites(model)
    costs = {}
    for name, chosen in _placements(sites, options, spec).items():
        message(f"{name}: {len(chosen)} {'sites' if len(chosen) > 1 else 'site'}")
        costs[name] = cost(
            model,
            spec,
            chosen,
            samples=options.samples,
            input_shape=options.input_shape,
            threads=options.threads,
            native=False if options.functions else "auto",
            measure=options.measure,
        )
    if options.json:
        print_json(
            {
                "model": options.model,
                "samples": options.samples,
                "placements": {name: one.to_dict() for name, one in costs.items()},
            }
        )
        return 0
    _print(options, costs)
    return 0


def _placements(
    sites: Sequence[Site], options: argparse.Namespace, spec: DropoutSpec
) -> dict[str, list[Site]]:
    """Return the sites that were chosen, or else more and more of them from the end."""
    chosen = select(sites, options, default_kinds=True, spec=spec)
    if has_filters(options):
        return {"chosen sites": chosen}
    found = {"last site": chosen[-1:]}
    stages = sorted({site.stage for site in chosen if site.stage is not None}, reverse=True)
    for stage in stages:
        name = f"stage {stage}" if stage == stages[0] else f"stages {stage} to {stages[0]}"
        found[name] = [site for site in chosen if (site.stage or 0) >= stage]
    found["all sites"] = chosen
    return found


def _print(options: argparse.Namespace, costs: dict[str, Cost]) -> None:
    columns = {
        "dropout": "left",
        "sites": "right",
        "once, ms": "right",
        "a sample, ms": "right",
        "speed-up": "right",
        "predicted": "right",
        "cost, runs": "right",
        "predicted ": "right",
    }
    rows = [
        [
            name,
            one.sites,
            _text(one.prefix_seconds, 1e3),
            _text(one.suffix_seconds, 1e3),
            _text(one.speedup),
            _text(one.predicted_speedup),
            _text(one.cost),
            _text(one.predicted_cost),
        ]
        for name, one in costs.items()
    ]
    print_table(columns, rows, title=options.model)
    batch = next(iter(costs.values())).batch
    print_line(
        f"{options.samples} samples of {batch} {'images' if batch > 1 else 'image'}; speed-up: "
        "over running the whole model for every sample"
    )
    print_line("cost: in runs without dropout; predicted: by multiply-adds alone")


def _text(number: float | None, unit: float = 1.0) -> str | None:
    return None if number is None else f"{number * unit:.3g}"
