"""Show what each tool makes of models whose dropout is on.

    python benchmarks/cleaners.py --corpus DIR [--tool NAME] [--file GLOB] [--json FILE] [--docs]

Every file of the corpus that is in train mode, draws random numbers or is a trap goes through
`structdrop clean` and through other people's optimisers, each in a process of its own with a time
limit. The outcome is judged by running what was written, unoptimised, on seeded inputs of several
batch sizes, again and again, and comparing with the inference form (see ``inference_forms.py``):

cleaned   every run gives the inference form's outputs
refused   nothing was written, and the user is told why
random    it is still random, and nobody is told
batch     only its normalisation is still by the batch, in training mode, and nobody is told
frozen    it is random no more: one random mask has become a constant of the model
broken    the file is invalid, does not run, or lost an input or output
wrong     it is not random, and computes something else
failed    the tool died, or raised an error that is not about randomness

``--docs`` writes the tables into docs/cleaning.md. The exit status is 1 if anything that
structdrop wrote is not the inference form.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import fnmatch
import importlib.metadata
import io
import json
import multiprocessing
import pathlib
import re
import sys
import tempfile
import time
import traceback
from typing import TYPE_CHECKING

import numpy as np
import onnx
from inference_forms import GENERATORS, Case, cases, drawing_nodes, training_norms
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "cleaning.md"
OUTCOMES = ("cleaned", "refused", "random", "batch", "frozen", "broken", "wrong", "failed")
BATCHES = (2, 3)
SIZE = 32
"""Length of a free axis other than the batch."""
ROUNDS = 8
TOLERANCES = {np.dtype(np.float16): 5e-3, np.dtype(np.float32): 1e-5}
"""Largest difference allowed, of the largest output or of 1 if that is more."""


# ---------------------------------------------------------------------------------------- tools
def structdrop(source: str, target: str) -> str:
    """Run ``structdrop clean`` and return why it refused, "" if it did not."""
    from onnx_structdrop.cli import main

    written, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(told):
        status = main(["clean", source, "-o", target, "--json"])
    if status == 3:
        return told.getvalue().strip().splitlines()[-1]
    if status:
        raise RuntimeError(told.getvalue().strip())
    return ""


def onnxslim(source: str, target: str) -> str:
    """Run onnxslim with its defaults."""
    import onnxslim

    onnxslim.slim(source, target)
    return ""


def onnxsim(source: str, target: str) -> str:
    """Run onnxsim with its defaults."""
    import onnxsim

    model, agrees = onnxsim.simplify(onnx.load(source))
    onnx.save(model, target)
    return "" if agrees else "its own check failed"


def onnxoptimizer(source: str, target: str) -> str:
    """Run onnxoptimizer with its default passes."""
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source)), target)
    return ""


def onnxscript(source: str, target: str) -> str:
    """Run the optimiser of onnxscript with its defaults."""
    import onnxscript.optimizer

    onnx.save(onnxscript.optimizer.optimize(onnx.load(source)), target)
    return ""


def _onnxruntime(source: str, target: str, level: str) -> str:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = target
    onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
    return ""


def onnxruntime_basic(source: str, target: str) -> str:
    """Let onnxruntime write what it optimises at the level BASIC."""
    return _onnxruntime(source, target, "ORT_ENABLE_BASIC")


def onnxruntime_all(source: str, target: str) -> str:
    """Let onnxruntime write what it optimises at the level ALL."""
    return _onnxruntime(source, target, "ORT_ENABLE_ALL")


TOOLS: dict[str, Callable[[str, str], str]] = {
    "structdrop clean": structdrop,
    "onnxslim": onnxslim,
    "onnxsim": onnxsim,
    "onnxoptimizer": onnxoptimizer,
    "onnxscript.optimizer": onnxscript,
    "onnxruntime BASIC": onnxruntime_basic,
    "onnxruntime ALL": onnxruntime_all,
}


# ---------------------------------------------------------------------------------------- judging
class NotRunError(Exception):
    """A model does not load or does not run."""


def runs(model: bytes, feeds: dict[str, np.ndarray], count: int) -> list[list[np.ndarray]]:
    """Run a model without optimisation, in sessions with different seeds of the runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    found = []
    # onnxruntime derives its errors from nothing narrower than Exception.
    try:
        for seed in range(1, 3):
            onnxruntime.set_seed(seed)
            session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
            given = {value.name: feeds[value.name] for value in session.get_inputs()}
            found += [session.run(None, given) for _ in range(count)]
    except Exception as error:
        raise NotRunError(f"{type(error).__name__}: {error}") from error
    return found


def inputs(model: onnx.ModelProto, batch: int, *, switch: str, on: bool) -> dict[str, np.ndarray]:
    """Return random inputs by a model's signature."""
    generator = np.random.default_rng(batch)
    initial = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name in initial:
            continue
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [
            axis.dim_value or (SIZE if place else batch)
            for place, axis in enumerate(value.type.tensor_type.shape.dim)
        ]
        if value.name == switch:
            feeds[value.name] = np.array(on)
        elif not shape:
            feeds[value.name] = np.array(0.4, kind)
        else:
            feeds[value.name] = generator.standard_normal(shape).astype(kind)
    return feeds


def distance(found: list[np.ndarray], expected: list[np.ndarray]) -> tuple[float, bool]:
    """Return the largest difference relative to the outputs, and whether that is equal enough."""
    worst, equal = 0.0, True
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return float("inf"), False
        if one.dtype == np.bool_:
            gap, allowed = float((one != other).any()), 0.0
        else:
            scale = max(1.0, float(np.abs(other.astype(np.float64)).max()))
            gap = float(np.abs(one.astype(np.float64) - other).max()) / scale
            allowed = TOLERANCES[other.dtype]
        worst = max(worst, gap)
        equal = equal and gap <= allowed
    return worst, equal


def expected(case: Case, batch: int) -> list[np.ndarray]:
    """Return the outputs of the inference form, after checking the references on each other."""
    model = onnx.load(case.path)
    feeds = inputs(model, batch, switch=case.switch, on=False)
    answers = []
    for where, reference in case.references:
        found = runs(reference.SerializeToString(), feeds, 2)
        if not all(distance(one, found[0])[1] for one in found):
            raise ValueError(f"{case.path.name}: the reference {where} is random")
        answers.append(found[0])
    for (where, _), answer in zip(case.references, answers, strict=True):
        worst, equal = distance(answer, answers[0])
        if not equal:
            raise ValueError(
                f"{case.path.name}: {where} is off {case.references[0][0]} by {worst:.1e}"
            )
    return answers[0]


def judge(case: Case, target: pathlib.Path) -> tuple[str, str, float]:
    """Return outcome, detail and largest relative difference of what a tool wrote."""
    before, after = onnx.load(case.path), onnx.load(target)
    initial = {tensor.name for tensor in before.graph.initializer}
    for words, names, others in (
        ("input", before.graph.input, after.graph.input),
        ("output", before.graph.output, after.graph.output),
    ):
        known = {value.name for value in others}
        for value in names:
            if value.name not in known and value.name not in initial:
                return "broken", f"{words} {value.name!r} is gone", float("nan")
    live = list(drawing_nodes(after))
    norms = list(training_norms(after))
    kinds = sorted({node.op_type for node in (*live, *norms)})
    worst, equal = 0.0, True
    for batch in BATCHES:
        answer = expected(case, batch)
        feeds = inputs(before, batch, switch=case.switch, on=True)
        try:
            results = runs(after.SerializeToString(), feeds, ROUNDS)
        except NotRunError as error:
            if any(node.op_type in GENERATORS for node in live):
                # From opset 22 on onnxruntime has no generators: neither ran the original.
                try:
                    runs(before.SerializeToString(), feeds, 1)
                except NotRunError:
                    return "random", f"{', '.join(kinds)} left", float("nan")
            return "broken", " ".join(str(error).split())[:200], float("nan")
        for result in results:
            gap, close = distance(result, answer)
            worst, equal = max(worst, gap), equal and close
    if equal:
        return "cleaned", "", worst
    if kinds:
        return "random" if live else "batch", f"{', '.join(kinds)} left", worst
    if any(node.op_type in GENERATORS for node in drawing_nodes(before)):
        return "frozen", "its random numbers are constants now", worst
    return "wrong", f"differs by {worst:.1e}", worst


# ---------------------------------------------------------------------------------------- running
@dataclasses.dataclass
class Result:
    """What one tool made of one file."""

    file: str
    tool: str
    outcome: str
    detail: str
    difference: float | None
    seconds: float


def _apply(tool: str, source: str, target: str, connection) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            connection.send(("done", TOOLS[tool](source, target)))
    # Whatever a tool raises is an outcome.
    except BaseException as error:  # noqa: BLE001
        connection.send(("failed", f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]))


def _judge(case: Case, target: pathlib.Path, connection) -> None:
    try:
        connection.send(judge(case, target))
    except Exception:  # noqa: BLE001
        # Also an undecodable file. The traceback goes into the report: it may be our own mistake.
        connection.send(("broken", traceback.format_exc(limit=-2), float("nan")))


def isolated(context, function: Callable, arguments: tuple, limit: float) -> tuple | None:
    """Call a function in a process of its own; None if that died or took too long."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(*arguments, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(limit) else None
    except EOFError:
        return None
    finally:
        if process.is_alive():
            process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
        receiver.close()


def examine(context, case: Case, tool: str, limit: float, folder: pathlib.Path) -> Result:
    """Run one tool on one file."""
    target = folder / "out.onnx"
    target.unlink(missing_ok=True)
    started = time.perf_counter()
    reply = isolated(context, _apply, (tool, str(case.path), str(target)), limit)
    seconds = time.perf_counter() - started
    difference = float("nan")
    if reply is None:
        what = "took too long" if seconds >= limit else "died"
        outcome, detail = "failed", f"the tool {what}"
    elif reply[0] == "failed":
        outcome, detail = reply
    elif reply[1]:
        outcome, detail = "refused", reply[1]
        if target.exists():
            outcome, detail = "broken", f"wrote a file although: {reply[1]}"
    elif not target.exists():
        outcome, detail = "failed", "no file was written"
    else:
        judged = isolated(context, _judge, (case, target), limit)
        outcome, detail, difference = judged or ("broken", "running it kills onnxruntime", 0.0)
    known = None if np.isnan(difference) else difference
    return Result(case.path.stem, tool, outcome, detail, known, seconds)


# ---------------------------------------------------------------------------------------- tables
def summary(results: list[Result], tools: list[str]) -> list[list[str]]:
    """Return one row per tool: how often each outcome."""
    rows = []
    for tool in tools:
        counts = collections.Counter(one.outcome for one in results if one.tool == tool)
        rows.append([tool, *(str(counts[outcome]) for outcome in OUTCOMES)])
    return rows


def per_file(results: list[Result], tools: list[str]) -> list[list[str]]:
    """Return one row per file: the outcome for each tool."""
    rows: dict[str, dict[str, str]] = {}
    for one in results:
        rows.setdefault(one.file, {})[one.tool] = one.outcome
    return [[file, *(row.get(tool, "") for tool in tools)] for file, row in rows.items()]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def versions() -> str:
    """Return the versions of what took part."""
    names = ("onnx-structdrop", "onnx", "onnxslim", "onnxsim", "onnxoptimizer", "onnxscript",
             "onnxruntime")  # fmt: skip
    parts = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(parts)


def put(text: str, name: str, content: str) -> str:
    """Return a page with the content of a marked place replaced."""
    found, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{content}\n{match[2]}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places marked <!-- {name} -->, not one")
    return found


def document(results: list[Result], tools: list[str]) -> None:
    """Write the tables into the page."""
    files = len({one.file for one in results})
    gaps = [one.difference or 0.0 for one in results if one.tool == tools[0]]
    head = (
        f"{files} files; {versions()}. The largest difference between a file that `clean` wrote "
        f"and the inference form, relative to the larger of 1 and the largest output: "
        f"{max(gaps):.1e}."
    )
    text = PAGE.read_text(encoding="utf-8")
    table = markdown(["", *OUTCOMES], summary(results, tools))
    text = put(text, "cleaners", f"{head}\n\n{table}")
    text = put(text, "cleaners by file", markdown(["file", *tools], per_file(results, tools)))
    PAGE.write_text(text, encoding="utf-8")


def show(results: list[Result], tools: list[str]) -> None:
    """Print the tables."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    styles = {"cleaned": "green", "refused": "cyan", "random": "yellow", "batch": "yellow"}
    for header, rows in (
        (["file", *tools], per_file(results, tools)),
        (["", *OUTCOMES], summary(results, tools)),
    ):
        table = Table(box=None)
        for title in header:
            table.add_column(title, no_wrap=True)
        for row in rows:
            cells = (f"[{styles.get(cell, 'red')}]{cell}[/]" if cell in OUTCOMES else escape(cell)
                     for cell in row)  # fmt: skip
            table.add_row(*cells)
        console.print(table)
        console.print()
    for one in results:
        if one.tool == tools[0] and one.outcome != "cleaned":
            told = f"{escape(one.file)}: {one.outcome}: {escape(one.detail)}"
            console.print(told, soft_wrap=True)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=pathlib.Path, required=True)
    parser.add_argument("--tool", action="append", choices=list(TOOLS), help="this one only")
    parser.add_argument("--file", default="*", help="files whose names match")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for each call")
    parser.add_argument("--json", type=pathlib.Path, help="where all results go")
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {PAGE.name}")
    arguments = parser.parse_args()
    tools = arguments.tool or list(TOOLS)
    chosen = [
        case for case in cases(arguments.corpus) if fnmatch.fnmatch(case.path.stem, arguments.file)
    ]
    # Each call is forked from a process that has the tools loaded, and has run nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["onnx", "onnxruntime", "onnxslim", "onnxsim", "onnxoptimizer", "onnxscript.optimizer",
         "onnx_structdrop.cli", "onnx_structdrop.graph.clean"]
    )  # fmt: skip
    for case in chosen:
        for batch in BATCHES:
            expected(case, batch)
    results = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        tempfile.TemporaryDirectory() as name,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        task = progress.add_task("", total=len(chosen) * len(tools))
        for case in chosen:
            for tool in tools:
                progress.update(task, description=f"{case.path.stem}: {tool}")
                results.append(examine(context, case, tool, arguments.limit, pathlib.Path(name)))
                progress.advance(task)
    show(results, tools)
    if arguments.json:
        content = {"versions": versions(), "results": [dataclasses.asdict(one) for one in results]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if arguments.docs:
        document(results, tools)
    ours = {one.outcome for one in results if one.tool == "structdrop clean"}
    return int(bool(ours - {"cleaned", "refused"}))


if __name__ == "__main__":
    sys.exit(main())
