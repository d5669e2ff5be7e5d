"""Choosing sites by stage, kind and name."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from onnx_structdrop.errors import SiteError
from onnx_structdrop.graph.placement import paper_placement, placement
from onnx_structdrop.graph.selection import DEFAULT_KINDS, quantisation_hint
from onnx_structdrop.specs import DropPath

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    import onnx_ir as ir

    from onnx_structdrop.graph.sites import Site
    from onnx_structdrop.specs import DropoutSpec

__all__ = ["has_filters", "placement_notes", "quantisation_note", "select"]


def has_filters(options: argparse.Namespace) -> bool:
    """Tell whether the command line restricts the sites."""
    return bool(options.placement or options.stage or options.kind or options.name)


def quantisation_note(model: ir.Model) -> list[str]:
    """Return what to say where sites are taken in a quantised model."""
    hint = quantisation_hint(model)
    return [f"note: {hint.removeprefix('; ')}"] if hint else []


def placement_notes(
    sites: Sequence[Site],
    options: argparse.Namespace,
    chosen: Sequence[Site],
    spec: DropoutSpec | None = None,
) -> list[str]:
    """Return what to say of ``--placement paper``: what it stood for.

    Parameters
    ----------
    sites
        Every site of the model.
    options
        With ``placement``.
    chosen
        What `select` returned.
    spec
        What is inserted, if anything.
    """
    if options.placement != "paper":
        return []
    taken = _taken(sites, options, spec)
    placed = len(placement(sites, taken))
    count = str(placed) if placed == len(chosen) else f"{len(chosen)} of {placed}"
    notes = [f"placement paper: {taken}, {count} {'site' if placed == 1 else 'sites'}"]
    if taken == "droppath" and spec is not None and spec.op_type == "DropBlock":
        notes.append("hint: networks of this family are trained with DropPath, see --spec DropPath")
    return notes


def _taken(sites: Sequence[Site], options: argparse.Namespace, spec: DropoutSpec | None) -> str:
    """Return the placement that is meant: DropPath has one place only in every paper."""
    if options.placement != "paper":
        return str(options.placement)
    return "droppath" if isinstance(spec, DropPath) else paper_placement(sites)


def select(
    sites: Sequence[Site],
    options: argparse.Namespace,
    *,
    default_kinds: bool,
    hint: str = "",
    spec: DropoutSpec | None = None,
) -> list[Site]:
    """Return the sites that pass all filters.

    Parameters
    ----------
    sites
        Every site of the model.
    options
        With ``placement``, ``stage``, ``kind`` and ``name``.
    default_kinds
        Whether to keep to activation and join where neither a placement nor a kind nor a name is
        given.
    hint
        Put behind the error where no site is left; what is special about the model.
    spec
        What is inserted, if anything: DropPath decides what the placement paper is.

    Raises
    ------
    SiteError
        A stage, kind or name matches nothing, or no site is left.
    """
    if not sites:
        raise SiteError(f"the model has no site for structured dropout{hint}")
    for pattern in options.name:
        if not any(_matches(site, pattern) for site in sites):
            raise SiteError(
                f"no site is called {pattern!r}; the model has {len(sites)}, "
                f"structdrop sites lists them{_close(sites, pattern)}"
            )
    for word, wanted, there in (
        ("stage", options.stage, {site.stage for site in sites}),
        ("kind", options.kind, {site.kind for site in sites}),
    ):
        absent = [value for value in wanted if value not in there]
        if absent:
            raise SiteError(
                f"no site selected: none is of {word} {absent[0]}; {_offer(sites)}{hint}"
            )
    kinds = options.kind
    if not kinds and not options.name and not options.placement and default_kinds:
        kinds = DEFAULT_KINDS
    placed = placement(sites, _taken(sites, options, spec)) if options.placement else sites
    chosen = [
        site
        for site in placed
        if (not options.stage or site.stage in options.stage)
        and (not kinds or site.kind in kinds)
        and (not options.name or any(_matches(site, pattern) for pattern in options.name))
    ]
    if not chosen:
        asked = _asked(options.stage, kinds, options.name)
        of = f" of placement {options.placement}" if options.placement else ""
        raise SiteError(
            f"no site selected: none of {len(placed)}{of} is {asked}; {_offer(placed)}{hint}"
        )
    return chosen


def _matches(site: Site, pattern: str) -> bool:
    # A name may hold brackets itself, so the plain name counts first.
    names = (site.value, site.producer)
    return pattern in names or any(fnmatchcase(name, pattern) for name in names)


def _close(sites: Sequence[Site], pattern: str) -> str:
    """Return a hint at names like a pattern that matches none, empty where there is none."""
    plain = pattern.translate(str.maketrans("", "", "*?[]"))
    names = list(dict.fromkeys(name for site in sites for name in (site.value, site.producer)))
    lower = {name.lower(): name for name in reversed(names) if name}
    close = [name for name in lower if plain and plain.lower() in name][:3]
    close += difflib.get_close_matches(plain.lower(), lower, n=3)
    close = list(dict.fromkeys(close))[:3]
    return f"; close are {', '.join(repr(lower[name]) for name in close)}" if close else ""


def _asked(stages: Iterable[int], kinds: Iterable[str], names: Iterable[str]) -> str:
    parts = [
        f"of {word} {' or '.join(map(str, values))}"
        for word, values in (("kind", kinds), ("stage", stages))
        if values
    ]
    if names:
        parts.append(f"called {' or '.join(map(repr, names))}")
    return ", ".join(parts)


def _offer(sites: Sequence[Site]) -> str:
    stages = sorted({site.stage for site in sites if site.stage is not None})
    kinds = dict.fromkeys(site.kind for site in sites)
    there = f"stages {', '.join(map(str, stages))}" if stages else "no stages"
    return f"there are {there} and kinds {', '.join(kinds)}"
