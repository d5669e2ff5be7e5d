"""Where training recipes put structured dropout, chosen among the sites of a model by one word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, SiteError
from onnx_structdrop.graph.sites import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PLACEMENTS", "paper_placement", "placement"]

_CONVOLUTIONS = ("activation", "linear", "shortcut")
_LAST_STAGES = 2
_EXPANSION = 2
"""How much wider an inverted residual is inside (ResNeSt and its like stay below that)."""


def placement(sites: Iterable[Site], name: str = "paper") -> list[Site]:
    """Choose sites the way a training recipe does.

    Parameters
    ----------
    sites : iterable of Site
        What `find_sites` found, all of it: stages and families are judged on the whole model.
    name : str
        ``"dropblock"``: behind each convolution with its norm and activation, and on the
        shortcuts, in the last two stages (DropBlock on ResNet, arXiv:1810.12890).
        ``"droppath"``: the end of each residual branch, before the join (stochastic depth, as in
        EfficientNet and ConvNeXt). ``"dense"``: the output of each layer of a dense block, before
        it is concatenated (DenseNet). ``"paper"``: the one of these three that fits the family:
        dense blocks, inverted residuals, or anything else. ``"default"``: every activation and
        join, what `insert` takes by itself. ``"all"``: every site.

    Returns
    -------
    list of Site
        The chosen sites, in execution order.

    Raises
    ------
    ArgumentTypeError
        `sites` holds something else, or `name` is no string.
    ArgumentError
        An unknown name.
    SiteError
        The model has no such site.

    Examples
    --------
    >>> import onnx_structdrop as sd
    >>> site = sd.Site("y", "node", "Relu", "activation", 1, (1, 8, 7, 7), 3, 32, 1)
    >>> [chosen.value for chosen in sd.placement([site], "dropblock")]
    ['y']
    """
    if not isinstance(sites, Iterable):
        raise ArgumentTypeError(
            f"placement: sites is a {type(sites).__name__}; pass what find_sites returns"
        )
    found = list(sites)
    for site in found:
        if not isinstance(site, Site):
            raise ArgumentTypeError(
                f"placement: {site!r} ({type(site).__name__}) is no Site; pass what find_sites "
                "returns"
            )
    if not isinstance(name, str):
        raise ArgumentTypeError(f"placement: name is {name!r}; one of {_listed()} is needed")
    if name not in _RULES:
        close = difflib.get_close_matches(name, _RULES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ArgumentError(f"placement: name is {name!r}; allowed is one of {_listed()}{hint}")
    chosen = _RULES[name](found)
    if not chosen:
        kinds = ", ".join(dict.fromkeys(site.kind for site in found)) or "none at all"
        raise SiteError(
            f"placement {name!r} finds no site in this model; there are sites of kind {kinds}"
        )
    return chosen


def _listed() -> str:
    return ", ".join(map(repr, _RULES))


def _dropblock(sites: Sequence[Site]) -> list[Site]:
    last = sorted({site.stage for site in sites if site.stage is not None})[-_LAST_STAGES:]
    return [site for site in sites if site.kind in _CONVOLUTIONS and site.stage in last]


def _droppath(sites: Sequence[Site]) -> list[Site]:
    ends: dict[tuple[str, int | None, int], Site] = {}
    chosen: list[Site] = []
    for site in sites:
        if site.block is None:
            continue
        place = (site.scope, site.stage, site.block)
        if site.kind in ("linear", "activation"):
            ends[place] = site
        elif site.kind == "join" and place in ends:
            chosen.append(ends.pop(place))
    return chosen


def _dense(sites: Sequence[Site]) -> list[Site]:
    return [site for site in sites if site.kind == "concat"]


def paper_placement(sites: Sequence[Site]) -> str:
    """Return the name of the placement that ``"paper"`` stands for in a model.

    Parameters
    ----------
    sites : sequence of Site
        What `find_sites` found, all of it.

    Returns
    -------
    str
        ``"dense"``, ``"droppath"`` or ``"dropblock"``.
    """
    if _dense(sites):
        return "dense"
    return "droppath" if _is_inverted(sites) else "dropblock"


def _paper(sites: Sequence[Site]) -> list[Site]:
    return _RULES[paper_placement(sites)](sites)


def _default(sites: Sequence[Site]) -> list[Site]:
    return [site for site in sites if site.kind in ("activation", "join")]


def _is_inverted(sites: Sequence[Site]) -> bool:
    """Tell whether most residual blocks are inverted: much wider inside than at their ends."""
    widest: dict[tuple[str, int | None, int], int] = {}
    wider = narrower = 0
    for site in sites:
        width = None if site.shape is None else site.shape[site.channel_axis]
        if site.block is None or not isinstance(width, int):
            continue
        place = (site.scope, site.stage, site.block)
        if site.kind == "activation":
            widest[place] = max(width, widest.get(place, 0))
        elif site.kind == "join" and place in widest:
            inverted = widest.pop(place) >= _EXPANSION * width
            wider += inverted
            narrower += not inverted
    return wider > narrower


_RULES: dict[str, Callable[[Sequence[Site]], list[Site]]] = {
    "paper": _paper,
    "dropblock": _dropblock,
    "droppath": _droppath,
    "dense": _dense,
    "default": _default,
    "all": list,
}

PLACEMENTS = tuple(_RULES)
"""Every placement, by name."""
