"""Measure Monte-Carlo dropout: naive loop, batch replication, the sampler, and the ideal.

    python benchmarks/sampling.py [--depth 18 50] [--rounds 4] [--images 2] [--samples 30]
                                  [--threads 2] [--skip-memory] [--json FILE] [--docs]

ResNets at 224x224 with DropBlock at the head, in the last stage, in the last two stages. Timed in
turn, in one process and with the native kernels: the whole model for every sample; the whole model
on each image repeated for all its samples at once; the sampler, statistics included; and the
ideal, which is the prefix once and the suffix for every sample, each alone. Every round loads all
of it anew: two sessions of one model differ by up to a third, by the pages that their weights come
to lie on. On Linux they differ less with GLIBC_TUNABLES=glibc.malloc.hugetlb=1.

Then a process of its own streams 10,000 images through a sampler, and prints its memory on the way.
On a machine that others use as well, the ratio of CPU time says more than that of time.
The exit status is 1 if the sampler takes more than 1.10 of the ideal, is less than 10 times faster
than the loop at the head, or if memory grows with the number of images.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from residual_nets import PLACEMENTS, resnet, sites_at
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from spread import Spread

import onnx_structdrop as sd
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.mc.sessions import PartSession, as_ort_value

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "sampling.md"
SPEC = sd.DropBlock2D(0.1, 7, seed=1, normalize="sample")
ENOUGH = 2.0  # seconds
IDEAL_GOAL, HEAD_GOAL, GROWTH_GOAL = 1.10, 10.0, 1.05
STREAMED = 10_000


def cases(depth: int, placement: str, images: np.ndarray, samples: int, threads: int):
    """Return what is timed, by name, and the sampler."""
    model = resnet(depth)
    live = sd.insert(model, SPEC, sites_at(model, placement))
    parts = sd.mc.split(as_ir(live))
    whole, prefix, suffix = (
        PartSession(as_ir(part), threads=threads, library=True, what="a part")
        for part in (live, parts.prefix, parts.suffix)
    )
    fed = {"images": as_ort_value(images, ir.DataType.FLOAT)}
    cut = prefix.run(fed)
    repeated = [
        {"images": as_ort_value(np.repeat(one[None], samples, axis=0), ir.DataType.FLOAT)}
        for one in images
    ]
    sampler = sd.mc.Sampler(live, samples, threads=threads)
    return {
        "loop": lambda: [whole.run(fed) for _ in range(samples)],
        "replication": lambda: [whole.run(one) for one in repeated],
        "prefix": lambda: prefix.run(fed),
        "suffix": lambda: [suffix.run(cut) for _ in range(samples)],
        "sampler": lambda: sampler(images),
    }, sampler


def timed(jobs: dict, number: int) -> dict[str, tuple[float, float]]:
    """Run all jobs; return seconds and CPU seconds.

    Odd rounds go backwards. What is short is warmed up, and goes in turn for about `ENOUGH`.
    """
    short = ["prefix", "suffix", "sampler"][:: -1 if number % 2 else 1]
    for name in short:
        jobs[name]()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    started = time.perf_counter()
    while time.perf_counter() - started < ENOUGH:
        for name in short:
            seconds[name].append(once(jobs[name]))
    for name in jobs:
        if name not in short:
            seconds[name].append(once(jobs[name]))
    return {
        name: (statistics.median(one[0] for one in found), statistics.median(o[1] for o in found))
        for name, found in seconds.items()
    }


def once(job: Callable[[], object]) -> tuple[float, float]:
    """Run a job and return its seconds, and those of the processors."""
    started, used = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - started, time.process_time() - used


def measured(arguments: argparse.Namespace, progress: Progress) -> list[dict]:
    """Time every model and placement."""
    shape = (arguments.images, 3, 224, 224)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    found = []
    tried = [(depth, placement) for depth in arguments.depth for placement in PLACEMENTS]
    task = progress.add_task("placements", total=len(tried) * arguments.rounds)
    for depth, placement in tried:
        entry: dict = {"depth": depth, "placement": placement, "seconds": {}, "processor": {},
                       "first_call": [], "rows": [], "per_row": []}  # fmt: skip
        for number in range(arguments.rounds):
            jobs, sampler = cases(depth, placement, images, arguments.samples, arguments.threads)
            started = time.perf_counter()
            sampler(images)
            entry["first_call"].append(time.perf_counter() - started)
            for name, (seconds, processor) in timed(jobs, number).items():
                entry["seconds"].setdefault(name, []).append(seconds)
                entry["processor"].setdefault(name, []).append(processor)
            (plan,) = sampler.plans
            entry["rows"].append(plan.rows)
            entry["per_row"].append(dict(plan.measured))
            progress.advance(task)
        found.append(entry)
    return found


def spreads(entry: dict, of: str = "seconds") -> dict[str, Spread]:
    """Return ratios within rounds, and seconds; `of` "processor" for CPU time."""
    seconds = entry[of]
    ideal = [a + b for a, b in zip(seconds["prefix"], seconds["suffix"], strict=True)]
    ratios = {name: Spread.of(values) for name, values in seconds.items()}
    ratios["ideal"] = Spread.of(ideal)
    for name, unit in (("sampler", ideal), ("loop", seconds["sampler"]),
                       ("replication", seconds["sampler"])):  # fmt: skip
        label = f"{name} to {'ideal' if name == 'sampler' else 'sampler'}"
        ratios[label] = Spread.of([a / b for a, b in zip(seconds[name], unit, strict=True)])
    return ratios


# ---------------------------------------------------------------------------------------- memory
def pages() -> str:
    """Return which pages were asked for, for a heading."""
    return ", huge pages" if "malloc.hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "") else ""


def resident(field: str) -> float:
    """Return memory of this process in MB: VmRSS now, VmHWM at most so far."""
    text = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) * 1024 / 1e6


def small_model():
    """Return a small residual network with dropout on."""
    model = resnet(18, size=32, classes=10)
    sites = [site for site in sd.find_sites(model) if site.kind == "join"]
    return sd.insert(model, SPEC, sites[-1:])


def stream() -> None:
    """Stream images, and print the memory after each tenth of them."""
    sampler = sd.mc.Sampler(small_model(), samples=30, threads=2)

    def batches():
        rng = np.random.default_rng(0)
        for _ in range(STREAMED // 100):
            yield rng.standard_normal((100, 3, 32, 32), np.float32)

    seen, profile = 0, []
    for result in sampler.stream(batches()):
        seen += result.images
        if seen % (STREAMED // 10) == 0:
            profile.append({"images": seen, "now": resident("VmRSS"), "peak": resident("VmHWM")})
    print(json.dumps(profile))


def memory() -> list[dict]:
    """Stream images in a process of its own."""
    command = [sys.executable, __file__, "--stream"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


# ---------------------------------------------------------------------------------------- output
HEADER = ["ResNet", "dropout", "loop, s", "replication, s", "sampler, s", "ideal, s",
          "sampler / ideal", "CPU time", "loop / sampler", "rows"]  # fmt: skip


def rows_of(found: list[dict]) -> list[list[str]]:
    """Return the cells of the table."""
    rows = []
    for entry in found:
        spread = spreads(entry)
        rows.append([
            str(entry["depth"]), entry["placement"],
            *(f"{spread[name].median:.2f}" for name in ("loop", "replication", "sampler", "ideal")),
            spread["sampler to ideal"].text(),
            spreads(entry, "processor")["sampler to ideal"].text(),
            f"{spread['loop to sampler'].median:.1f}",
            " ".join(map(str, sorted(set(entry["rows"])))),
        ])  # fmt: skip
    return rows


def failures(found: list[dict], profile: list[dict]) -> list[str]:
    """Return what missed its goal."""
    wrong = []
    for entry in found:
        spread, name = spreads(entry), f"ResNet-{entry['depth']}, {entry['placement']}"
        if spread["sampler to ideal"].median > IDEAL_GOAL:
            wrong.append(f"{name}: {spread['sampler to ideal'].text()} of the ideal")
        if entry["placement"] == "head" and spread["loop to sampler"].median < HEAD_GOAL:
            wrong.append(f"{name}: {spread['loop to sampler'].text()} times faster than the loop")
    if profile and profile[-1]["peak"] > GROWTH_GOAL * profile[1]["peak"]:
        wrong.append(f"memory grows: {profile[1]['peak']:.0f} to {profile[-1]['peak']:.0f} MB")
    return wrong


def document(head: str, rows: list[list[str]], line: str) -> None:
    """Write the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    table = [HEADER, ["---"] * len(HEADER), *rows]
    lines = [head, "", *("| " + " | ".join(row) + " |" for row in table), "", line]
    made, count = re.subn(
        r"(<!-- sampling -->\n).*?(<!-- end -->)",
        lambda match: match[1] + "\n".join(lines) + "\n" + match[2],
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places marked <!-- sampling -->, not one")
    PAGE.write_text(made, encoding="utf-8")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, nargs="*", choices=(18, 50), default=[18, 50])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--images", type=int, default=2, help="in a batch")
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=pathlib.Path, help="where all figures go")
    parser.add_argument("--docs", action="store_true", help=f"write the table into {PAGE.name}")
    arguments = parser.parse_args()
    if arguments.stream:
        stream()
        return 0
    load = os.getloadavg()[0]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        found = measured(arguments, progress)
        profile = [] if arguments.skip_memory else memory()
    head = (
        f"{arguments.images} images of 224x224, {arguments.samples} samples, "
        f"{arguments.threads} threads, {arguments.rounds} rounds{pages()}, "
        f"load {load:.1f} at the start; "
        "medians, and quartiles of the ratio within rounds."
    )
    table = Table(*HEADER, box=None, title=head, title_justify="left")
    rows = rows_of(found)
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    line = ""
    if profile:
        line = (
            f"{STREAMED:,} images of 32x32 streamed: peak {profile[1]['peak']:.0f} MB after "
            f"{profile[1]['images']:,}, {profile[-1]['peak']:.0f} MB after all."
        )
        console.print(line)
    if arguments.json:
        content = {"head": head, "placements": found, "memory": profile}
        arguments.json.write_text(json.dumps(content) + "\n", encoding="utf-8")
    if arguments.docs:
        document(head, rows, line)
    wrong = failures(found, profile)
    for text in wrong:
        console.print(f"missed: {text}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
