"""``structdrop sites``: where dropout can go."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from onnx_structdrop.commands.selection import has_filters, select
from onnx_structdrop.console import message, print_json, print_line, print_table, shape_text
from onnx_structdrop.graph.io import load
from onnx_structdrop.graph.scopes import default_opset
from onnx_structdrop.graph.selection import DEFAULT_KINDS, quantisation_hint
from onnx_structdrop.graph.sites import find_sites

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from onnx_structdrop.graph.sites import Site

__all__ = ["print_sites", "run"]


def run(options: argparse.Namespace) -> int:
    """List the sites of a model."""
    model = load(options.model)
    sites = find_sites(model)
    if has_filters(options):
        sites = select(sites, options, default_kinds=False, hint=quantisation_hint(model))
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
    if not any(site.kind in DEFAULT_KINDS for site in sites) and quantisation_hint(model):
        message(f"note{quantisation_hint(model)[1:]}")
    return 0


def print_sites(title: str, sites: Sequence[Site]) -> None:
    """Print a table of sites and a summary."""
    if not sites:
        print_line(f"{title}: no site for structured dropout")
        return
    scoped = any(site.scope for site in sites)
    columns = {
        "site": "left",
        "kind": "left",
        "stage": "right",
        "block": "right",
        "stride": "right",
        "shape": "left",
        "operator": "left",
        **({"scope": "left"} if scoped else {}),
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
