"""Choice of the sites to insert at, from what the caller names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.errors import ArgumentTypeError, SiteError
from onnx_structdrop.graph.sites import Site, find_sites

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DEFAULT_KINDS", "choose_sites", "quantisation_hint"]

DEFAULT_KINDS = ("activation", "join")
"""Kinds of site that insertion takes when none are named."""

_QUANTISED = frozenset(
    {"ConvInteger", "MatMulInteger", "QLinearAdd", "QLinearConv", "QLinearMatMul", "QuantizeLinear"}
)


def choose_sites(
    model: ir.Model, sites: Iterable[Site | str] | Site | str | None
) -> Sequence[Site]:
    """Return sites of the model: all of the default kinds, or those asked for, once each.

    Raises
    ------
    SiteError
        None is left, or one is unknown, ambiguous, or not as it was found.
    ArgumentTypeError
        A site is neither a `Site` nor a name, or `sites` is not a collection of them.
    """
    found = find_sites(model)
    if sites is None:
        chosen = [site for site in found if site.kind in DEFAULT_KINDS]
        if not chosen:
            raise SiteError(
                "the model has no site of kind activation or join; "
                f"find_sites lists what there is, name the sites to use{quantisation_hint(model)}"
            )
        return chosen
    if isinstance(sites, Site | str):
        sites = [sites]
    if not isinstance(sites, Iterable):
        raise ArgumentTypeError(f"sites must be a list of sites, not {type(sites).__name__}")
    by_place = {(site.scope, site.value): site for site in found}
    by_name: dict[str, list[Site]] = {}
    for site in found:
        by_name.setdefault(site.value, []).append(site)
    chosen = []
    for wanted in sites:
        if isinstance(wanted, Site):
            match = by_place.get((wanted.scope, wanted.value))
            name = wanted.value
        elif isinstance(wanted, str):
            match = by_name[wanted][0] if len(by_name.get(wanted, ())) == 1 else None
            name = wanted
        else:
            raise ArgumentTypeError(
                f"a site must be a Site or the name of its value, not {type(wanted).__name__}"
            )
        if match is None:
            raise SiteError(_unknown(name, by_name))
        if isinstance(wanted, Site) and _essence(wanted) != _essence(match):
            raise SiteError(
                f"site {name!r} is not the one in this model: {_essence(wanted)} was found, "
                f"{_essence(match)} is there; call find_sites on this very model"
            )
        if match not in chosen:
            chosen.append(match)
    if not chosen:
        stages = sorted({site.stage for site in found if site.stage is not None})
        kinds = ", ".join(dict.fromkeys(site.kind for site in found)) or "none"
        raise SiteError(
            f"no site selected; the model has {len(found)}, of kinds {kinds} in stages {stages}"
        )
    return chosen


def quantisation_hint(model: ir.Model) -> str:
    """Return what to say of a quantised model that lacks the sites asked for, else nothing.

    Quantisers merge activations into the ranges of their integers, and convolutions of integers
    have no place for dropout at all.
    """
    found = dict.fromkeys(
        node.op_type
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if node.domain in ("", "com.microsoft") and node.op_type in _QUANTISED
    )
    if not found:
        return ""
    names = ", ".join(list(found)[:3])
    return f"; the model is quantised ({names}): insert before quantising"


def _essence(site: Site) -> tuple[str, int, int | None]:
    return site.op_type, site.channel_axis, None if site.shape is None else len(site.shape)


def _unknown(name: str, by_name: dict[str, list[Site]]) -> str:
    if name in by_name:
        places = ", ".join(site.scope or "the main graph" for site in by_name[name])
        return f"site {name!r} is ambiguous, it exists in {places}; pass the Site itself"
    close = difflib.get_close_matches(name, by_name, n=3)
    hint = f"; close are {', '.join(map(repr, close))}" if close else ""
    return f"the model has no site {name!r} (it has {len(by_name)}){hint}"
