"""``structdrop insert``: put structured dropout into a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from onnx_structdrop.commands.changes import print_changes
from onnx_structdrop.commands.facts import Facts
from onnx_structdrop.commands.files import check_output, model_size, output_path, write
from onnx_structdrop.commands.selection import (
    has_filters,
    placement_notes,
    quantisation_note,
    select,
)
from onnx_structdrop.commands.specification import specification
from onnx_structdrop.console import message, percent, print_json, print_table, shape_text
from onnx_structdrop.errors import CheckFailedError
from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.inspect import StochasticNode, inspect
from onnx_structdrop.graph.io import load
from onnx_structdrop.graph.selection import quantisation_hint
from onnx_structdrop.graph.sites import Site, find_sites
from onnx_structdrop.plot.capture import expected_rate
from onnx_structdrop.specs import DropPath

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir

    from onnx_structdrop.specs import DropoutSpec

__all__ = ["Inserted", "inserted_nodes", "print_inserted", "run"]


class Inserted(NamedTuple):
    """A node that was inserted, and where."""

    site: Site
    node: StochasticNode

    @property
    def realised(self) -> float | None:
        """Fraction that the node drops on average, None if it depends on the run."""
        shape = self.site.shape if self.node.shape is None else self.node.shape
        return expected_rate(self.node, shape)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {
            "site": self.site.to_dict(),
            "node": self.node.to_dict(),
            "realised_rate": self.realised,
        }


def run(options: argparse.Namespace) -> int:
    """Insert structured dropout and show where."""
    target = None
    if not options.dry_run or options.output is not None:
        target = output_path(options)
    spec = specification(options)
    model = load(options.model)
    if target is not None:
        check_output(target, model)
    found = find_sites(model)
    hint = quantisation_hint(model)
    sites = select(found, options, default_kinds=True, hint=hint, spec=spec)
    result = insert(
        model,
        spec,
        sites,
        training_mode=not options.eval,
        ratio_input=options.ratio_input,
        calibrate=options.calibrate,
    )
    _check_reversible(model, result)
    inserted = inserted_nodes(model, result, sites)
    before = Facts.of(model, model_size(options.model, model))
    size = None
    if not options.dry_run and target is not None:
        size = write(result, target)
    # An error is one line, so all this waits until nothing can fail.
    notes = [*placement_notes(found, options, sites, spec), *quantisation_note(model)]
    for note in (*notes, *_hints(spec, options, inserted)):
        message(note)
    after = Facts.of(result, size)
    if options.json:
        print_json(
            {
                "model": options.model,
                "output": None if options.dry_run else target,
                "dry_run": options.dry_run,
                "training_mode": not options.eval,
                "spec": {"class_name": type(spec).__name__, "config": _config(spec, options)},
                "inserted": [entry.to_dict() for entry in inserted],
                "before": before.to_dict(),
                "after": after.to_dict(),
            }
        )
        return 0
    driven = f", ratio from input {options.ratio_input!r}" if options.ratio_input else ""
    mode = "inference" if options.eval else "training"
    print_inserted(f"{_title(spec, options)}{driven}, {mode} mode", inserted)
    print_changes(before, after)
    if options.dry_run:
        message("dry run: nothing was written")
    return 0


def inserted_nodes(before: ir.Model, after: ir.Model, sites: Sequence[Site]) -> list[Inserted]:
    """Pair sites with the nodes that insertion put behind them."""
    old = {(node.scope, node.name) for node in inspect(before).own}
    nodes: dict[tuple[str, str | None], StochasticNode] = {}
    for node in inspect(after).own:
        if (node.scope, node.name) not in old:
            # Where a site is a graph output, its name has moved on to the output of the node.
            nodes[node.scope, node.data] = nodes[node.scope, node.output] = node
    return [Inserted(site, nodes[site.scope, site.value]) for site in sites]


def print_inserted(title: str, inserted: Sequence[Inserted]) -> None:
    """Print a table of nodes with their sites and rates."""
    print_table(
        {
            "site": "name",
            "kind": "left",
            "stage": "right",
            "shape": "left",
            "ratio": "right",
            "expected": "right",
            "seed": "right",
        },
        (
            (
                entry.site.value,
                entry.site.kind,
                entry.site.stage,
                shape_text(entry.site.shape),
                _ratio(entry.node),
                None if isinstance(entry.node.ratio, str) else percent(entry.realised),
                entry.node.seed,
            )
            for entry in inserted
        ),
        title=title,
    )


def _ratio(node: StochasticNode) -> str:
    return f"input {node.ratio!r}" if isinstance(node.ratio, str) else percent(node.ratio)


def _rate_ignored(options: argparse.Namespace) -> bool:
    """Tell whether nobody gave a rate, since an input drives it."""
    return options.rate is None and options.config is None


def _config(spec: DropoutSpec, options: argparse.Namespace) -> dict[str, Any]:
    config = spec.get_config()
    return {**config, "rate": None} if _rate_ignored(options) else config


def _title(spec: DropoutSpec, options: argparse.Namespace) -> str:
    if not _rate_ignored(options):
        return str(spec)
    parts = (f"{name}={value!r}" for name, value in spec.get_config().items() if name != "rate")
    return f"{type(spec).__name__}({', '.join(parts)})"


def _hints(
    spec: DropoutSpec, options: argparse.Namespace, inserted: Sequence[Inserted]
) -> Iterator[str]:
    if isinstance(spec, DropPath) and not has_filters(options):
        yield (
            "hint: DropPath was put behind whole blocks; --placement droppath puts it on the "
            "residual branches, as in stochastic depth"
        )
    covered = sum(map(_is_covered, inserted))
    if covered:
        verb = "is" if covered == 1 else "are"
        yield (
            f"hint: {covered} of {len(inserted)} chosen maps {verb} not larger than the block: "
            "there DropBlock drops whole channels; see --block-size"
        )


def _is_covered(entry: Inserted) -> bool:
    """Tell whether one block covers the whole map."""
    block, shape = entry.node.attributes.get("block_size"), entry.site.shape
    if not isinstance(block, list) or shape is None:
        return False
    kept = (0, entry.site.channel_axis % len(shape))
    sizes = [size for axis, size in enumerate(shape) if axis not in kept]
    blocks = block * len(sizes) if len(block) == 1 else block
    return all(
        isinstance(size, int) and size <= side for size, side in zip(sizes, blocks, strict=True)
    )


def _check_reversible(model: ir.Model, result: ir.Model) -> None:
    """Check, before anything is written, that folding will lead back to the input."""
    found = differences(fold(model), fold(result))
    if found:
        raise CheckFailedError(
            f"folding would not lead back to the input ({found[0]}), so nothing was written"
        )
