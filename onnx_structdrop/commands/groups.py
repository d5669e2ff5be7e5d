"""Options that several commands share.

Imported before anything else, so nothing heavy is: names of specifications are spelled out here,
and a test compares them with where they come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_structdrop.commands import values
from onnx_structdrop.commands.values import KINDS

if TYPE_CHECKING:
    import argparse

__all__ = [
    "SPEC_NAMES",
    "filters",
    "json_output",
    "model",
    "no_verify",
    "output",
    "picture",
    "spec",
]

SPEC_NAMES = (
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "DropBlock1D",
    "DropBlock2D",
    "DropBlock3D",
    "Dropout",
    "DropPath",
)
"""Names of the specifications."""


def model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL."""
    parser.add_argument("model", type=values.file, metavar="MODEL", help="ONNX file")


def output(parser: argparse.ArgumentParser) -> None:
    """Add the model to write."""
    parser.add_argument("-o", "--output", metavar="OUT", help="ONNX file to write")
    parser.add_argument(
        "--in-place", action="store_true", help="write over MODEL; needed where OUT is MODEL"
    )


def picture(parser: argparse.ArgumentParser) -> None:
    """Add the picture to write."""
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="picture: .png, .svg or .pdf"
    )


def no_verify(parser: argparse.ArgumentParser) -> None:
    """Add the switch that leaves the numeric check out."""
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="do not run the result against the original before writing it",
    )


def json_output(parser: argparse.ArgumentParser) -> None:
    """Add the switch for JSON on stdout."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def filters(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add what chooses sites."""
    group = parser.add_argument_group(
        "filters",
        f"Sites to {verb}. Different filters narrow each other down, one given several times "
        "takes all that it names.",
    )
    group.add_argument(
        "--placement",
        type=values.placement,
        metavar="NAME",
        help="sites that a training recipe takes: paper (what fits the family: one of the next "
        "three), dropblock (convolutions and shortcuts of the last two stages), droppath (the end "
        "of each residual branch), dense (layers before they are concatenated), default, all",
    )
    group.add_argument(
        "--stage",
        action="extend",
        type=values.integers,
        default=[],
        help="stage, counted from 1; several with commas between, such as 3,4",
    )
    group.add_argument(
        "--kind", action="extend", type=values.kinds, default=[], help=f"one of {', '.join(KINDS)}"
    )
    group.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="GLOB",
        help="name of the value or of the node that makes it, with * and ?; takes any kind",
    )


def _spec_name(text: str) -> str:
    """Return the name of a specification, whatever case it was typed in."""
    return {name.lower(): name for name in SPEC_NAMES}.get(text.lower(), text)


def spec(parser: argparse.ArgumentParser, title: str, *, block_size: int = 7) -> None:
    """Add what describes a specification; `block_size` is what is taken if none is given."""
    group = parser.add_argument_group("specification", f"{title[0].upper()}{title[1:]}.")
    group.add_argument(
        "--spec", type=_spec_name, choices=SPEC_NAMES, metavar="SPEC", help=", ".join(SPEC_NAMES)
    )
    group.add_argument("--rate", type=float, help="fraction to drop, from 0 to 1")
    group.add_argument(
        "--block-size",
        type=values.block_size,
        metavar="B",
        help=f"DropBlock: 7, or 7,5 per axis (default: {block_size})",
    )
    group.add_argument(
        "--shared-axes",
        type=values.axes,
        metavar="AXES",
        help="DropBlock: one mask along batch, channel or batch,channel",
    )
    group.add_argument(
        "--seed-region",
        choices=("valid", "whole"),
        help="DropBlock: blocks only where they fit (default), or clipped at the edges",
    )
    group.add_argument(
        "--normalize",
        choices=("batch", "sample", "none"),
        help="DropBlock: what kept values are rescaled over (default: batch)",
    )
    group.add_argument(
        "--noise-shape",
        type=values.noise_shape,
        metavar="SHAPE",
        help='Dropout: one entry per axis, 1 shared, "-" the own size, such as -,1,1,-',
    )
    group.add_argument(
        "--no-scale-by-keep",
        dest="scale_by_keep",
        action="store_false",
        default=None,
        help="DropPath: do not rescale what is kept",
    )
