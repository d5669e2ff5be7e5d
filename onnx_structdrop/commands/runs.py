"""Options of the commands that run models: mc, cost, train and bench.

Like the parser, this module imports nothing heavy.
"""

from __future__ import annotations

import argparse

from onnx_structdrop.commands import groups, values

__all__ = ["TRAIN_BLOCK_SIZE", "bench", "cost", "mc", "train"]

TRAIN_BLOCK_SIZE = 3
"""Of DropBlock in training on digits, whose maps are small."""


def mc(parser: argparse.ArgumentParser) -> None:
    """Add what ``structdrop mc`` takes."""
    groups.model(parser)
    parser.add_argument(
        "input",
        type=values.file,
        metavar="INPUT",
        help=".npy with images along axis 0, .npz of arrays by input name, or folder of pictures",
    )
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help=".npz to write")
    parser.add_argument(
        "-T", "--samples", type=int, default=30, help="samples of each image (default: 30)"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the result: .png, .svg or .pdf")
    parser.add_argument(
        "--plot-kind",
        choices=("map", "histogram", "reliability", "risk-coverage"),
        help="default: the map of an output that has one, else its reliability where there are "
        "labels, else the histogram of its uncertainty",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help=".npy with the class number of each image, to score the result; pictures are in the "
        "order of their names",
    )
    groups.spec(parser, "what to insert first; without it, MODEL has dropout of its own")
    groups.filters(parser, "insert at (default: of kind activation and join)")
    group = parser.add_argument_group("outputs", "What outputs hold is found out and reported.")
    group.add_argument(
        "--output-name",
        dest="outputs",
        action="append",
        default=[],
        metavar="NAME",
        help="output to sum up, may be given several times (default: all that are random)",
    )
    group.add_argument(
        "--task", choices=("auto", "classification", "regression", "dense"), default="auto"
    )
    group.add_argument("--values", choices=("auto", "logits", "probabilities"), default="auto")
    group.add_argument(
        "--class-axis",
        type=_class_axis,
        default="auto",
        metavar="AXIS",
        help="axis of the classes, or none: each number is an event of its own (sigmoids)",
    )
    group.add_argument(
        "--quantile",
        dest="quantiles",
        action="append",
        type=float,
        default=[],
        metavar="Q",
        help="level of a quantile, from 0 to 1; may be given several times",
    )
    group.add_argument("--keep-samples", action="store_true", help="write all samples, too")
    group = parser.add_argument_group("pictures", "How those of a folder become inputs.")
    group.add_argument(
        "--size",
        type=values.integers,
        metavar="H,W",
        help="resize to (default: the model's size, or else that of the first picture)",
    )
    for name, default in (("mean", 0.0), ("std", 1.0)):
        group.add_argument(
            f"--{name}",
            type=values.numbers,
            default=[default],
            metavar="R,G,B",
            help=f"(pixel / 255 - mean) / std (default: {default:g})",
        )
    group = parser.add_argument_group("sampling")
    group.add_argument("--seed", type=int, help="of masks (default: 0)")
    group.add_argument("--functions", action="store_true", help="do without the native kernels")
    group.add_argument("--threads", type=int, help="threads of a run (default: all processors)")
    group.add_argument("--chunk", type=int, help="rows of a run (default: what measures fastest)")
    group.add_argument("--batch", type=int, help="images that are prepared at once")
    groups.json_output(parser)


def cost(parser: argparse.ArgumentParser) -> None:
    """Add what ``structdrop cost`` takes."""
    groups.model(parser)
    groups.spec(parser, "what to insert")
    groups.filters(parser, "insert at (default: the last one, and then stage by stage)")
    parser.add_argument(
        "-T", "--samples", type=int, default=30, help="samples of each image (default: 30)"
    )
    parser.add_argument(
        "--input-shape",
        type=values.integers,
        metavar="N,C,H,W",
        help="shape of the images, where the model leaves sizes free",
    )
    parser.add_argument("--functions", action="store_true", help="do without the native kernels")
    parser.add_argument("--threads", type=int, help="threads of a run (default: all processors)")
    parser.add_argument(
        "--no-measure",
        dest="measure",
        action="store_false",
        help="only predict, by multiply-adds: nothing is run",
    )
    groups.json_output(parser)
    parser.set_defaults(seed=None)


def train(parser: argparse.ArgumentParser) -> None:
    """Add what ``structdrop train`` takes."""
    parser.add_argument(
        "model",
        type=values.file,
        metavar="MODEL",
        nargs="?",
        help="ONNX file with one image as input and ten classes as output (default: a ResNet with "
        "batch normalisation for 16x16 images, which comes with the package)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        default="structdrop-train",
        help="folder for artifacts, checkpoint, model and picture (default: structdrop-train)",
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        help="train with the artifacts of an earlier run instead of making them; this works with "
        "the plain onnxruntime, too",
    )
    groups.spec(
        parser, "what to insert (default: DropBlock2D, rate 0.2)", block_size=TRAIN_BLOCK_SIZE
    )
    groups.filters(parser, "insert at (default: those of --placement paper)")
    group = parser.add_argument_group("training")
    group.add_argument("--no-dropout", action="store_true", help="train the model as it is")
    group.add_argument(
        "--schedule",
        choices=("linear", "cosine", "constant"),
        help="course of the ratios over the run: from 0 to the rate, or constant (default: linear)",
    )
    group.add_argument(
        "--batch-norm",
        choices=("train", "frozen"),
        help="normalise with the statistics of the batch (default), or with those of the file",
    )
    group.add_argument("--optimizer", choices=("adamw", "sgd"), help="default: adamw")
    group.add_argument("--learning-rate", type=float, default=0.002, help="default: 0.002")
    group.add_argument("--steps", type=int, default=400, help="default: 400")
    group.add_argument("--batch", type=int, default=32, help="images in a step (default: 32)")
    group.add_argument(
        "--images", type=int, default=1000, help="images to train on, of 1,797 (default: 1000)"
    )
    group.add_argument("--seed", type=int, default=0, help="of masks, order and split (default: 0)")
    groups.json_output(parser)


def bench(parser: argparse.ArgumentParser) -> None:
    """Add what ``structdrop bench`` takes."""
    parser.add_argument(
        "--sweep",
        choices=("size", "rate", "block", "threads", "dtype"),
        help="vary one thing (default: time everything once, at rate 0.1 and block size 7)",
    )
    parser.add_argument(
        "--shape",
        action="append",
        type=values.integers,
        default=[],
        metavar="N,C,...",
        help="shape of the data, may be given several times (default: 32,64,56,56)",
    )
    parser.add_argument("--rounds", type=int, default=40, help="rounds (default: 40)")
    parser.add_argument(
        "--threads", type=int, help="threads (default: 2; with --sweep threads, all processors)"
    )
    parser.add_argument(
        "--without-library",
        dest="library",
        action="store_false",
        help="time the function forms alone, which need no native library",
    )
    parser.add_argument(
        "--without-frameworks",
        dest="frameworks",
        action="store_false",
        help="leave out torch, torchvision and timm where they are installed",
    )
    parser.add_argument("--plot", metavar="FILE", help="draw what was measured: .png, .svg or .pdf")
    groups.json_output(parser)


def _class_axis(text: str) -> int | str | None:
    if text in ("auto", "none"):
        return None if text == "none" else text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no axis; a whole number, none or auto is needed"
        ) from None
