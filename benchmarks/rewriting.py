"""Measure how fast cleaning, insertion and folding are, how that grows, and the memory they take.

    python benchmarks/rewriting.py [--rounds 5] [--part speed|scaling|memory] [--json FILE] [--docs]

``speed`` runs `clean` and `insert` + `fold` beside onnxslim and onnxsim on a DenseNet-264 with live
dropout in each layer (about 1,700 nodes), with its true growth rate (125 MB) and with an eighth of
it (2.5 MB): from file to file, between protos in memory, and between models of onnx-ir, which our
functions take as well (the others take protos there). ``scaling`` compares the processor time for
nets of 1,000 and of 10,000 nodes.
``memory`` reads the peak of a process that takes a 2.5 GB model from disk to disk.

All of one part runs in turn, round by round, so that what disturbs one disturbs its neighbours;
ratios are taken within a round. For ``speed`` each tool has a process of its own: what onnxslim
leaves of the heap slows whatever comes after it. Medians and quartiles are printed with the goals;
the exit status is 1 if one is missed. ``--docs`` writes the tables into docs/cleaning.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from dense_nets import deep_net, dense_net, large_net
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from spread import Spread
from workers import Worker
from workers import seconds as seconds_of

import onnx_structdrop as sd

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "cleaning.md"
SPEC = sd.DropBlock2D(0.1, 3, seed=1)
OURS = ("clean", "insert + fold")
AGAINST = {"onnxslim": 1 / 4, "onnxsim": 2.0}
"""How long we may take, as a multiple of what others take."""
WIDTHS = (32, 4)
"""Growth rates of the DenseNet."""
GROWTH = 12.0
NODES = (1_000, 10_000)
LARGE = 2_500_000_000  # bytes
MEMORY = 0.3  # GB


@dataclasses.dataclass
class Goal:
    """A measurement and the most that it may be."""

    title: str
    unit: str
    measured: Spread
    limit: float

    @property
    def met(self) -> bool:
        """Whether the median is within the limit."""
        return self.measured.median <= self.limit


# ------------------------------------------------------------------------------------------ speed
def insert_fold(model):
    """Insert DropBlock at the default sites and take it out again."""
    return sd.fold(sd.insert(model, SPEC))


def job_of(tool: str, kind: str, width: int, source: str, target: str) -> Callable[[], object]:
    """Return what a tool is timed with, for `Worker`."""
    if kind == "files":
        return with_files(source, target)[tool]
    model = dense_net(width=width)
    return in_memory(model, ir.from_proto(model) if kind == "onnx-ir" else model)[tool]


def in_memory(model: onnx.ModelProto, given) -> dict[str, Callable[[], object]]:
    """Return what to time in memory; we get the model in the form `given`, nobody changes it."""
    import onnxsim
    import onnxslim

    # onnxslim works on what it is given.
    copies = []

    def slim():
        return onnxslim.slim(copies.pop())

    def prepare():
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        copies[:] = [copied]

    slim.prepare = prepare  # type: ignore[attr-defined]
    return {
        "clean": lambda: sd.clean(given),
        "insert + fold": lambda: insert_fold(given),
        "onnxslim": slim,
        "onnxsim": lambda: onnxsim.simplify(model),
    }


def with_files(source: str, target: str) -> dict[str, Callable[[], object]]:
    """Return what to time from file to file."""
    import onnxsim
    import onnxslim

    return {
        "clean": lambda: sd.save(sd.clean(sd.load(source))[0], target),
        "insert + fold": lambda: sd.save(insert_fold(sd.load(source)), target),
        "onnxslim": lambda: onnxslim.slim(source, target),
        "onnxsim": lambda: onnx.save(onnxsim.simplify(onnx.load(source))[0], target),
    }


def timed(
    jobs: dict[str, Callable[[], float]], rounds: int, progress: Progress, title: str
) -> dict[str, list[float]]:
    """Run all jobs in turn, one round more than asked to warm up, and return their seconds."""
    task = progress.add_task(title, total=(rounds + 1) * len(jobs))
    found: dict[str, list[float]] = {name: [] for name in jobs}
    names = list(jobs)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            elapsed = jobs[name]()
            if number:
                found[name].append(elapsed)
            progress.advance(task)
    return found


def ratios(one: list[float], other: list[float]) -> Spread:
    """Return the spread of the ratio within rounds."""
    return Spread.of([a / b for a, b in zip(one, other, strict=True)])


def speed(rounds: int, progress: Progress) -> tuple[list[Goal], dict]:
    """Compare with other tools."""
    goals, measured = [], {}
    for width in WIDTHS:
        model = dense_net(width=width)
        size = f"{model.ByteSize() / 1e6:.0f} MB"
        with tempfile.TemporaryDirectory() as name:
            source, target = f"{name}/in.onnx", f"{name}/out.onnx"
            onnx.save(model, source)
            for kind in ("files", "protos", "onnx-ir"):
                where = f"{kind}, {size}"
                with contextlib.ExitStack() as stack:
                    jobs = {
                        tool: stack.enter_context(Worker(job_of, tool, kind, width, source, target))
                        for tool in (*OURS, *AGAINST)
                    }
                    seconds = timed(jobs, rounds, progress, f"speed, {where}")
                measured[where] = {
                    job: dataclasses.asdict(Spread.of(found)) for job, found in seconds.items()
                }
                goals += [
                    Goal(
                        f"{ours} to {other}, {where}", "",
                        ratios(seconds[ours], seconds[other]), limit,
                    )
                    for ours in OURS
                    for other, limit in AGAINST.items()
                ]  # fmt: skip
    return goals, {"nodes": len(model.graph.node), "seconds": measured}


# ---------------------------------------------------------------------------------------- scaling
def scaling(rounds: int, progress: Progress) -> tuple[list[Goal], dict]:
    """Compare a small and a large graph of the same pattern."""
    work: dict[str, Callable] = {
        "clean": sd.clean,
        "insert + fold": insert_fold,
        "inspect": sd.inspect,
        "find_sites": sd.find_sites,
    }
    models = [deep_net(nodes) for nodes in NODES]
    jobs = {
        f"{name} {nodes:,}": lambda function=function, model=model: seconds_of(
            lambda: function(model), time.process_time
        )
        for name, function in work.items()
        for nodes, model in zip(NODES, models, strict=True)
    }
    seconds = timed(jobs, rounds, progress, "scaling")
    sizes = [len(model.graph.node) for model in models]
    goals = [
        Goal(
            f"{name}, {sizes[1]:,} nodes to {sizes[0]:,}", "",
            ratios(*(seconds[f"{name} {nodes:,}"] for nodes in reversed(NODES))), GROWTH,
        )
        for name in work
    ]  # fmt: skip
    return goals, {
        "nodes": sizes,
        "seconds": {job: dataclasses.asdict(Spread.of(found)) for job, found in seconds.items()},
    }


# ----------------------------------------------------------------------------------------- memory
def peak() -> float:
    """Return the most memory that this process ever had resident, in GB."""
    text = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) * 1024 / 1e9


def child(job: str, source: str, target: str) -> None:
    """Do one job and print this process's peak before and after."""
    sd.clean, sd.insert, sd.fold, sd.load, sd.save, sd.inspect  # noqa: B018 - imports them
    before = peak()
    if job == "load + clean + save":
        model, report = sd.clean(sd.load(source))
        if report.residual:
            raise SystemExit(f"{report.residual[0]}")
        sd.save(model, target)
    elif job == "load + insert + save + fold":
        inserted = sd.insert(sd.load(source), SPEC)
        sd.save(inserted, target)
        sd.fold(inserted)
    else:
        sd.inspect(sd.load(source))
    print(json.dumps({"before": before, "after": peak()}))


def memory(rounds: int, progress: Progress) -> tuple[list[Goal], dict]:
    """Read the peak memory of processes that handle a large model."""
    jobs = ("load + clean + save", "load + insert + save + fold", "load + inspect")
    found: dict[str, list[dict]] = {job: [] for job in jobs}
    task = progress.add_task("memory", total=rounds * len(jobs))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = large_net(folder, LARGE)
        size = sum(path.stat().st_size for path in folder.iterdir())
        for _ in range(rounds):
            for job in jobs:
                target = folder / "out"
                target.mkdir()
                command = [sys.executable, __file__, "--child", job, str(source),
                           str(target / "out.onnx")]  # fmt: skip
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
                found[job].append(json.loads(done.stdout))
                for path in target.iterdir():
                    path.unlink()
                target.rmdir()
                progress.advance(task)
    goals = [
        Goal(
            f"{job}, {size / 1e9:.1f} GB", " GB", Spread.of([one["after"] for one in seen]), MEMORY
        )
        for job, seen in found.items()
    ]
    return goals, {"bytes": size, "peaks": found}


PARTS = {"speed": speed, "scaling": scaling, "memory": memory}


# ----------------------------------------------------------------------------------------- output
def rows_of(goals: list[Goal]) -> list[list[str]]:
    """Return a row for each goal."""
    return [
        [
            goal.title,
            f"{goal.measured.median:.2f}{goal.unit}",
            f"{goal.measured.lower:.2f} to {goal.measured.upper:.2f}",
            f"≤ {goal.limit:g}{goal.unit}",
            "met" if goal.met else "missed",
        ]
        for goal in goals
    ]


def times_of(content: dict) -> list[list[str]]:
    """Return a row for each thing that was timed."""
    rows = []
    for part, found in content.items():
        if "seconds" not in found:
            continue
        groups = found["seconds"] if part == "speed" else {"protos": found["seconds"]}
        for where, jobs in groups.items():
            for job, spread in jobs.items():
                rows.append(
                    [part, where, job, f"{spread['median']:.3f} s",
                     f"{spread['lower']:.3f} to {spread['upper']:.3f}"]
                )  # fmt: skip
    return rows


GOAL_HEADER = ["", "median", "quartiles", "goal", ""]
TIME_HEADER = ["", "", "", "median", "quartiles"]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def document(goals: list[Goal], content: dict, rounds: int, busy: str) -> None:
    """Write the tables into the page."""
    text = PAGE.read_text(encoding="utf-8")
    rows = [
        [*row[:-1], "met" if goal.met else "**missed**"]
        for row, goal in zip(rows_of(goals), goals, strict=True)
    ]
    speeds = content["speed"]
    head = (
        f"{rounds} rounds on {os.cpu_count()} processors, {busy} at the start; "
        f"DenseNet-264 has {speeds['nodes']:,} nodes here."
    )
    tables = [head, markdown(GOAL_HEADER, rows), markdown(TIME_HEADER, times_of(content))]
    made, count = re.subn(
        r"(<!-- speed -->\n).*?(<!-- end -->)",
        lambda match: match[1] + "\n\n".join(tables) + "\n" + match[2],
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places marked <!-- speed -->, not one")
    PAGE.write_text(made, encoding="utf-8")


def load() -> str:
    """Return how busy the machine is."""
    return f"load {os.getloadavg()[0]:.1f}"


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="this one only")
    parser.add_argument("--json", type=pathlib.Path, help="where all figures go")
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {PAGE.name}")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return 0
    if arguments.docs and arguments.part:
        parser.error("--docs needs all parts")
    if arguments.rounds < 2:
        parser.error("--rounds must be at least 2")
    busy = load()
    goals: list[Goal] = []
    content: dict = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for part in arguments.part or PARTS:
            # Memory does not vary as time does.
            rounds = 3 if part == "memory" else arguments.rounds
            found, content[part] = PARTS[part](rounds, progress)
            goals += found
    console = Console(width=None if sys.stdout.isatty() else 140)
    for header, rows in ((TIME_HEADER, times_of(content)), (GOAL_HEADER, rows_of(goals))):
        table = Table(box=None)
        for title in header:
            table.add_column(title, no_wrap=True, justify="right" if "me" in title else "left")
        for row in rows:
            style = "red" if row[-1] == "missed" else None
            table.add_row(*row, style=style)
        console.print(table)
        console.print()
    console.print(busy, "at the start")
    if arguments.json:
        document_ = {
            "rounds": arguments.rounds, "load": busy, **content,
            "goals": [{**dataclasses.asdict(goal), "met": goal.met} for goal in goals],
        }  # fmt: skip
        arguments.json.write_text(json.dumps(document_, indent=2) + "\n", encoding="utf-8")
    if arguments.docs:
        document(goals, content, arguments.rounds, busy)
    return int(not all(goal.met for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
