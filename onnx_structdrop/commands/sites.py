"""``structdrop sites``: where dropout can go."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnx_structdrop.commands.selection import (
    has_filters,
    placement_notes,
    quantisation_note,
    select,
)
from onnx_structdrop.console import message, print_json, print_line, print_table, shape_text
from onnx_structdrop.graph.io import load
from onnx_structdrop.graph.scopes import default_opset
from onnx_structdrop.graph.selection import quantisation_hint
from onnx_structdrop.graph.sites import find_sites

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from onnx_structdrop.graph.sites import Site

__all__ = ["print_sites", "run"]


def run(options: argparse.Namespace) -> int:
    """List the sites of a model."""
    model = load(options.model)
    sites = every = find_sites(model)
    if has_filters(options):
        sites = select(sites, options, default_kinds=False, hint=quantisation_hint(model))
    for note in (*placement_notes(every, options, sites), *quantisation_note(model)):
        message(note)
    if options.json:
        print_json(
            {
                "model": options.model,
                "opset": default_opset(model),
                "sites": [site.to_dict() for site in sites],
            }
        )
        return 0
    print_sites(options.model, sites)
    return 0


def print_sites(title: str, sites: Sequence[Site]) -> None:
    """Print a table of sites and a summary."""
    if not sites:
        print_line(f"{title}: no site for structured dropout")
        return
    scoped = any(site.scope for site in sites)
    columns = {
        "site": "name",
        "kind": "left",
        "stage": "right",
        "block": "right",
        "stride": "right",
        "shape": "left",
        "operator": "left",
        **({"scope": "name"} if scoped else {}),
    }
    print_table(
        columns,
        (
            (
                site.value,
                site.kind,
                site.stage,
                site.block,
                None if site.stride is None else f"{site.stride:g}",
                shape_text(site.shape),
                site.op_type,
                *((site.scope or None,) if scoped else ()),
            )
            for site in sites
        ),
        title=title,
    )
    kinds = ", ".join(
        f"{count} {kind}" for kind, count in Counter(site.kind for site in sites).items()
    )
    print_line(f"{len(sites)} {'sites' if len(sites) > 1 else 'site'}: {kinds}")
