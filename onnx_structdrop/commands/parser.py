"""The command line of ``structdrop``: commands and their options.

This module is imported before anything else, so it imports nothing heavy.
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from onnx_structdrop.commands import groups, runs, values
from onnx_structdrop.commands.usage import UsageError

__all__ = ["build_parser"]

_EPILOG = """\
exit codes: 0 done, 1 an error, 2 wrong usage, 3 a check failed, and no rewritten model was written.
Results go to stdout, messages to stderr."""

_VERIFY_EPILOG = """\
exit codes: 0 equal, 1 not comparable, not run, or an error, 2 wrong usage, 3 different."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises instead of printing its usage and leaving the process."""

    def __init__(self, **settings: Any) -> None:
        # An abbreviation that works today would break when an option is added.
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all of it; what is left over is an error of the command it was given to."""
        options, left = self.parse_known_args(args, namespace)
        if left:
            raise UsageError(f"{_left_over(options, left)} (see {self._command(options)} --help)")
        return options

    def _command(self, options: argparse.Namespace) -> str:
        words = (self.prog, getattr(options, "verb", None), getattr(options, "what", None))
        return " ".join(filter(None, words))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            problem = values.unknown(list(action.choices), str(value))
            raise argparse.ArgumentError(action, problem)


def _left_over(options: argparse.Namespace, left: list[str]) -> str:
    """Return what is wrong with arguments that nothing takes."""
    listed = ",".join(left)
    if getattr(options, "stage", None) and listed.replace(",", "").isdecimal():
        stages = ",".join(map(str, options.stage))
        return f"stages are given with commas: use --stage {stages},{listed}"
    return f"unrecognised arguments: {' '.join(left)}"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; options hold ``command``, the module of `commands` to run."""
    common = _Parser(add_help=False)
    common.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="on an error, show where it happened",
    )
    parser = _Parser(
        prog="structdrop",
        description="Structured dropout for ONNX: put it into models, run it, take it out again.",
        epilog=_EPILOG,
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(metavar="COMMAND", dest="verb", parser_class=_Parser)

    def command(name: str, module: str, summary: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary, parents=[common])
        made.set_defaults(command=module)
        return made

    _sites(command("sites", "sites", "List the sites of a model where dropout can go."))
    _insert(command("insert", "insert", "Insert structured dropout behind the chosen sites."))
    _mode(command("mode", "rewrite", "Switch the structured dropout of a model on or off."))
    _reseed(command("reseed", "rewrite", "Give the structured dropout of a model new seeds."))
    _fold(command("fold", "rewrite", "Take structured dropout out again, without a trace."))
    _clean(command("clean", "clean", "Bring any dropout of a model into its inference form."))
    _inline(command("inline", "rewrite", "Write structured dropout as plain ONNX operators."))
    _inspect(command("inspect", "inspect", "List the nodes of models that draw random numbers."))
    verify = command("verify", "verify", "Check by running them that two models compute the same.")
    verify.epilog = _VERIFY_EPILOG
    _verify(verify)
    _plot(command("plot", "plot", "Draw the sites of a model, or masks over feature maps."), common)
    runs.mc(command("mc", "mc", "Sample a model with dropout: how sure is it of each image?"))
    runs.cost(command("cost", "cost", "Tell what sampling costs, by where dropout begins."))
    runs.train(command("train", "train", "Train an exported CNN on digits, dropout on a schedule."))
    runs.bench(command("bench", "bench", "Time the operators against what else there is."))
    groups.json_output(command("info", "info", "Show versions, providers and what is supported."))
    _demo(command("demo", "demo", "Run everything once on a ResNet that comes with the package."))
    return parser


def _sites(parser: argparse.ArgumentParser) -> None:
    groups.model(parser)
    groups.filters(parser, "list")
    groups.json_output(parser)


def _insert(parser: argparse.ArgumentParser) -> None:
    groups.model(parser)
    groups.output(parser)
    groups.spec(parser, "what to insert")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="read the specification from a JSON file: its get_config(), or that of a keras layer",
    )
    groups.filters(parser, "insert at (default: of kind activation and join)")
    group = parser.add_argument_group("nodes")
    group.add_argument("--eval", action="store_true", help="insert in inference mode: no dropping")
    group.add_argument(
        "--ratio-input",
        metavar="NAME",
        help="drive the ratio by a graph input, which has no default and must be fed on every "
        "run; --rate is then ignored and may be left out",
    )
    group.add_argument("--seed", type=int, help="seed of the masks (default: drawn)")
    group.add_argument(
        "--calibrate",
        action="store_true",
        help="raise each node's ratio until the expected rate on its map is the one asked for",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be done")
    groups.json_output(parser)


def _mode(parser: argparse.ArgumentParser) -> None:
    groups.model(parser)
    groups.output(parser)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--train", action="store_true", help="nodes drop")
    mode.add_argument("--eval", action="store_true", help="nodes do nothing")
    groups.json_output(parser)


def _reseed(parser: argparse.ArgumentParser) -> None:
    groups.model(parser)
    groups.output(parser)
    parser.add_argument(
        "--seed",
        type=int,
        required=True,
        help="the seeds of all nodes follow from it; give every process or rank its own",
    )
    groups.json_output(parser)


def _fold(parser: argparse.ArgumentParser) -> None:
    groups.model(parser)
    groups.output(parser)
    groups.no_verify(parser)
    groups.json_output(parser)


def _clean(parser: argparse.ArgumentParser) -> None:
    groups.model(parser)
    groups.output(parser)
    parser.add_argument(
        "--allow-random",
        action="store_true",
        help="write the model even if something stays random (otherwise exit code 3)",
    )
    parser.add_argument(
        "--unscaled-dropout",
        action="store_true",
        help="take a mask without any scale for dropout whose inference form is the data (the file "
        "does not tell: it may as well scale by the probability of keeping there)",
    )
    groups.no_verify(parser)
    groups.json_output(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("original", type=values.file, metavar="ORIGINAL", help="ONNX file")
    parser.add_argument(
        "rewritten", type=values.file, metavar="REWRITTEN", help="ONNX file made from it"
    )
    parser.add_argument(
        "--inference",
        action="store_true",
        help="compare with the inference form of ORIGINAL: dropout off, nothing dropped",
    )
    parser.add_argument(
        "--samples", type=int, default=3, help="sets of inputs to make up (default: 3)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: 0)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest difference over the scale of its values; 0 is bit for bit (default: 1e-4 for "
        "float32, 1e-9 for float64, 1e-2 for float16, 8e-2 for bfloat16)",
    )
    groups.json_output(parser)


def _inline(parser: argparse.ArgumentParser) -> None:
    groups.model(parser)
    groups.output(parser)
    parser.add_argument(
        "--random-source",
        choices=("dropout", "uniform"),
        default="dropout",
        help="where masks come from: the mask of Dropout (default, runs on onnxruntime), or "
        "RandomUniformLike (runs on OpenVINO, opset 21 at most)",
    )
    groups.json_output(parser)


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", type=values.file, metavar="MODEL", nargs="+", help="ONNX file")
    groups.json_output(parser)


def _plot(parser: argparse.ArgumentParser, common: _Parser) -> None:
    kinds = parser.add_subparsers(metavar="WHAT", dest="what", required=True, parser_class=_Parser)
    sites = kinds.add_parser(
        "sites",
        parents=[common],
        help="block diagram of a model, its sites marked",
        description="Draw the stages and blocks of a model with its sites. Sites that hold "
        "structured dropout are filled; filters fill others instead.",
    )
    groups.model(sites)
    groups.picture(sites)
    groups.filters(sites, "fill")
    sites.add_argument(
        "--names", action=argparse.BooleanOptionalAction, default=None, help="write names of sites"
    )
    masks = kinds.add_parser(
        "masks",
        parents=[common],
        help="masks over feature maps",
        description="Run a model with structured dropout and draw what one node drops; or draw "
        "what a specification drops from made-up maps (--spec and --shape instead of MODEL).",
    )
    masks.add_argument(
        "model", type=values.file, metavar="MODEL", nargs="?", help="ONNX file with dropout"
    )
    groups.picture(masks)
    masks.add_argument("--node", metavar="NAME", help="node to draw (default: the first one)")
    masks.add_argument("--input", metavar="FILE", help=".npy or .npz to run on (default: made up)")
    masks.add_argument(
        "--shape",
        type=values.integers,
        metavar="N,C,...",
        help="shape of the made-up input or maps",
    )
    masks.add_argument("--maps", type=int, default=8, help="most maps to draw (default: 8)")
    masks.add_argument("--sample", type=int, help="sample of the batch to draw")
    masks.add_argument("--seed", type=int, default=0, help="seed of what is made up (default: 0)")
    groups.spec(masks, "what to drop, without a model")


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        default="structdrop-demo",
        help="folder for models and pictures (default: structdrop-demo)",
    )
