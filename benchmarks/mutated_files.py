"""Run broken model files through the package: each is accepted or refused, nothing else happens.

    python benchmarks/mutated_files.py [--count 20000] [--seed 0] [--jobs 1] [--corpus DIR]

Small models are mutated, see ``mutations.py``, and each file goes through every operation on
models, in a worker process that is replaced when it crashes, or takes more than ten seconds; a
file that takes so long once is run again, since a busy machine makes anything slow.
An operation may refuse a file with an error of the package (a `StructDropError`); any other
exception is a failure, and so are a crash, a hang, and a file that insertion and folding do not
take back to what it was. Files that fail are written to a folder, one line each says how.

The same count, seed and folder of models give the same files; ``--case N`` runs one of them here
and shows its traceback. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import random
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
import zlib

import onnx
from google.protobuf.message import DecodeError
from mutations import mutate_bytes, mutate_model
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import onnx_structdrop as sd
from onnx_structdrop.graph.clean import clean
from onnx_structdrop.graph.inline import RANDOM_SOURCES
from onnx_structdrop.schema import DOMAIN

MODELS = pathlib.Path(__file__).parents[1] / "models"
LARGEST_FILE = 300_000
LARGEST_WEIGHT = 1024
LONGEST = 10.0  # seconds
MEMORY = 3 << 30  # bytes of address space of a worker
MANY_FAILURES = 200
MANY_SITES = 2
FAILURES = ("raw exception", "crash", "hang", "differs")
SPEC = sd.DropBlock2D(0.1, 3, seed=1)

# What exporters rarely write: subgraphs, calls in calls, attributes handed on, sequences.
TEXTS = (
    """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    agraph (float[N,4,8,8] x, float[4,4,3,3] w, bool flag) => (float[N,4,8,8] y) {
      a = local.Block <rate: int = 1> (x, w)
      y = If (flag) <
        then_branch = g1 () => (float[N,4,8,8] t) { r = Relu(a) t = Add(r, x) },
        else_branch = g2 () => (float[N,4,8,8] e) {
          k = Constant <value: tensor = float {0.5}> ()
          yes = Constant <value: tensor = bool {1}> ()
          d, m = Dropout(a, k, yes)
          e = Identity(d) }
      >
    }
    <opset_import: ["": 17, "local": 1], domain: "local">
    Block <rate> (x, w) => (y) { c = local.Padded <group: int = @rate> (x, w) y = Relu(c) }
    <opset_import: ["": 17], domain: "local">
    Padded <group> (x, w) => (y) {
      y = Conv <pads = [1, 1, 1, 1], kernel_shape = [3, 3], group: int = @group> (x, w)
    }""",
    """<ir_version: 8, opset_import: ["": 17]>
    agraph (float[2,4,8,8] x, float[4,4,3,3] w, int64 trip) => (float[2,4,8,8] y, float[N] s) {
      go = Constant <value: tensor = bool {1}> ()
      y, stack = Loop (trip, go, x) <
        body = b (int64 i, bool more, float[2,4,8,8] state) =>
          (bool on, float[2,4,8,8] next, float[1] seen) {
            on = Identity(more)
            c = Conv <pads = [1, 1, 1, 1]> (state, w)
            r = Relu(c)
            u = RandomUniformLike(r)
            p = Constant <value: tensor = float {0.8}> ()
            k = Less(u, p)
            f = Cast <to = 1> (k)
            m = Mul(r, f)
            next = Div(m, p)
            seen = Constant <value_floats = [1.0]> () }
      >
      shape = Constant <value: tensor = int64[1] {-1}> ()
      s = Reshape(stack, shape)
    }""",
    """<ir_version: 9, opset_import: ["": 20]>
    agraph (float[4,3,8,8] x, float[6,3,3,3] w) => (float[4,6,6] y) {
      c = Conv(x, w)
      r = Gelu(c)
      zero = Constant <value: tensor = int64 {0}> ()
      list = SplitToSequence <axis = 0, keepdims = 0> (r)
      one = SequenceAt(list, zero)
      start = ReduceMean <keepdims = 0> (one, zero)
      last, all = Scan (start, one) <
        num_scan_inputs = 1,
        body = b (float[6,6] state, float[6,6] row) => (float[6,6] now, float[6,6] out) {
          now = Add(state, row)
          out = Sigmoid(now) }
      >
      y = Mul(one, all)
    }""",
    """<ir_version: 8, opset_import: ["": 18]>
    agraph (float[N,3,16,16] x, float[8,3,3,3] w, float[8,8,3,3] v, float[8] b)
        => (float[N,8,8,8] y, float[N,8,8,8] z) {
      c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)
      n = BatchNormalization <training_mode = 0> (c, b, b, b, b)
      s = Sigmoid(n)
      a = Mul(n, s)
      d = Conv <pads = [1, 1, 1, 1]> (a, v)
      k = BatchNormalization (d, b, b, b, b)
      j = Add(k, a)
      z = Relu(j)
      r = Constant <value: tensor = float {0.3}> ()
      t = Constant <value: tensor = bool {1}> ()
      y, mask = Dropout <seed = 3> (z, r, t)
    }""",
)


@dataclasses.dataclass(frozen=True)
class Base:
    """A model to break: as a file, and with structured dropout in it."""

    content: bytes
    nodes: int
    inserted: bytes | None


@dataclasses.dataclass
class Outcome:
    """What one operation did with one file."""

    operation: str
    kind: str
    detail: str = ""
    trace: str = ""


class DifferenceFoundError(Exception):
    """Folding did not undo insertion."""


def bases(corpus: pathlib.Path | None) -> list[Base]:
    """Return the models to break, in an order that depends on nothing but the files."""
    files = sorted(MODELS.glob("*.onnx"))
    if corpus is not None:
        files += sorted(corpus.rglob("*.onnx"))
    protos = [onnx.parser.parse_model(text) for text in TEXTS]
    for file in files:
        content = file.read_bytes()
        light = _without_weights(onnx.ModelProto.FromString(content))
        if light.ByteSize() <= LARGEST_FILE:
            protos.append(light)
        if light.ByteSize() < len(content) <= LARGEST_FILE:
            protos.append(onnx.ModelProto.FromString(content))
    return [_base(proto) for proto in protos]


def _base(proto: onnx.ModelProto) -> Base:
    inserted = None
    try:
        sites = sd.find_sites(proto)[::5]
        inserted = sd.insert(proto, SPEC, sites[:3]).SerializeToString(deterministic=True)
    except sd.StructDropError:
        inserted = None
    return Base(proto.SerializeToString(deterministic=True), len(proto.graph.node), inserted)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn large weights into inputs of the graph: less to copy, the same structure."""
    graph = model.graph
    given = {info.name for info in graph.input}
    kept = []
    for tensor in graph.initializer:
        if tensor.ByteSize() <= LARGEST_WEIGHT:
            kept.append(tensor)
        elif tensor.name not in given:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    return model


def make_file(index: int, seed: int, models: list[Base]) -> tuple[bytes, str]:
    """Return the content of one file, and what was done to it."""
    rng = random.Random(f"{seed}:{index}")
    weights = [(base.nodes + 10) ** -1.75 for base in models]
    base = rng.choices(models, weights)[0]
    content = base.content
    if base.inserted is not None and rng.random() < 0.35:
        content = base.inserted
    others = [other.content for other in rng.choices(models, weights, k=2)]
    if rng.random() < 0.25:
        return mutate_bytes(content, others, rng), "bytes"
    proto = onnx.ModelProto.FromString(content)
    done = mutate_model(proto, others, rng)
    return proto.SerializeToString(deterministic=True), ", ".join(done)


def operations(path, report, folder):
    """Run every operation on a file; `report` is told the name of each before it begins."""
    outcomes: list[Outcome] = []

    def run(name, operation, *given):
        report(name)
        try:
            result = operation(*given)
        except sd.StructDropError as error:
            outcomes.append(Outcome(name, "refused", _class_of(error)))
        except DifferenceFoundError as error:
            outcomes.append(Outcome(name, "differs", str(error)[:300]))
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is a finding)
            trace = traceback.format_exc()
            outcomes.append(Outcome(name, "raw exception", _place_of(error), trace))
        else:
            outcomes.append(Outcome(name, "accepted"))
            return result
        return None

    def free(model, sites):
        """Return sites without structured dropout, None for the default."""
        if not sites:
            return None
        if isinstance(model, onnx.ModelProto):
            held = {
                name for node in model.graph.node if node.domain == DOMAIN for name in node.input
            }
        else:
            own = [node for node in model.graph.all_nodes() if node.domain == DOMAIN]
            held = {value.name for node in own for value in node.inputs if value is not None}
        return [site for site in sites if site.value not in held][:MANY_SITES] or None

    def insert_and_fold(model, inserted):
        # Of a model that holds nodes of ours before, insertion's inverse leaves none either.
        found = sd.differences(sd.fold(model), sd.fold(inserted))
        if found:
            raise DifferenceFoundError("; ".join(found[:3]))

    def clean_and_save(model):
        cleaned, _ = clean(model)
        sd.save(cleaned, folder / "cleaned.onnx")

    def all_of(model, suffix):
        run("inspect" + suffix, lambda: sd.inspect(model).to_dict())
        sites = run("find_sites" + suffix, sd.find_sites, model)
        inserted = run("insert" + suffix, sd.insert, model, SPEC, free(model, sites))
        run("fold" + suffix, sd.fold, model)
        if turn & 6 == 2:
            run("set_training_mode" + suffix, sd.set_training_mode, model, False)
            run("inline" + suffix, sd.inline, model)
        run("clean" + suffix, clean_and_save, model)
        if inserted is not None:
            run("fold(insert)" + suffix, insert_and_fold, model, inserted)
            if turn & 14 == 0:
                source = RANDOM_SOURCES[turn >> 4 & 1]
                run("inline(insert)" + suffix, sd.inline, inserted, source)
                run("clean(insert)" + suffix, clean_and_save, inserted)

    content = path.read_bytes()
    # What takes longest is done to some of the files; which, hangs on nothing but the file.
    turn = zlib.crc32(content)
    model = run("load", sd.load, path)
    if turn & 1 and model is not None:
        all_of(model, "")
    report("parse")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError:
        return outcomes
    if not turn & 1:
        all_of(proto, ", proto")
    elif model is None:
        run("inspect, proto", sd.inspect, proto)
    return outcomes


def _class_of(error: BaseException) -> str:
    """Return the class of a refusal, with its message made general."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "_", str(error))
    text = re.sub(r"\d+", "#", text)
    return f"{type(error).__name__}: {text.removeprefix('_: ')[:90]}"


def _place_of(error: BaseException) -> str:
    """Return where an exception came out of the package."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "onnx_structdrop" in frame.filename
    ]
    place = "outside"
    if own:
        file = own[-1].filename.split("onnx_structdrop/")[-1]
        place = f"{file}:{own[-1].lineno} {own[-1].name}"
    return f"{type(error).__name__} at {place}"


def work(connection, prepared: pathlib.Path, seed: int) -> None:
    """Answer indices with outcomes, until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # what onnx-ir logs and protobuf prints about broken files
    warnings.simplefilter("ignore")
    models = _read_bases(prepared)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        path = folder / "model.onnx"
        connection.send(("ready", None))
        while (index := connection.recv()) is not None:
            content, _ = make_file(index, seed, models)
            path.write_bytes(content)
            found = operations(path, lambda what: connection.send(("begins", what)), folder)
            connection.send(("done", found))


def _write_bases(models: list[Base], folder: pathlib.Path) -> None:
    for number, base in enumerate(models):
        (folder / f"{number:04}.{base.nodes}.base").write_bytes(base.content)
        if base.inserted is not None:
            (folder / f"{number:04}.{base.nodes}.inserted").write_bytes(base.inserted)


def _read_bases(folder: pathlib.Path) -> list[Base]:
    models = []
    for file in sorted(folder.glob("*.base")):
        inserted = file.with_suffix(".inserted")
        more = inserted.read_bytes() if inserted.exists() else None
        models.append(Base(file.read_bytes(), int(file.name.split(".")[1]), more))
    return models


class Worker:
    """A process that runs one file after the other."""

    def __init__(self, prepared: pathlib.Path, seed: int) -> None:
        self._arguments = (prepared, seed)
        self.index: int | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, *self._arguments), daemon=True)
        self._process.start()
        other.close()
        self.operation, self.since = "start", time.monotonic() + 60
        if not self.connection.poll(60) or self.connection.recv()[0] != "ready":
            raise SystemExit("a worker does not start")

    def give(self, index: int) -> None:
        """Begin with a file."""
        self.index, self.operation, self.since = index, "make", time.monotonic()
        self.connection.send(index)

    def outcomes(self) -> list[Outcome] | None:
        """Return what was found, or None while the file is under way."""
        try:
            while self.connection.poll():
                kind, content = self.connection.recv()
                if kind == "done":
                    return content
                self.operation, self.since = content, time.monotonic()
        except (EOFError, ConnectionError):
            self._process.join()
            return self._replace("crash", f"exit status {self._process.exitcode}")
        if time.monotonic() - self.since > LONGEST:
            return self._replace("hang", f"more than {LONGEST:g} s")
        return None

    def _replace(self, kind: str, detail: str) -> list[Outcome]:
        found = [Outcome(self.operation, kind, detail)]
        self.stop()
        self._start()
        return found

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self.connection.close()


class Tally:
    """Counts of what happened, and the files that failed."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.files = 0
        self.counts: dict[str, collections.Counter] = {}
        self.refusals: collections.Counter = collections.Counter()
        self.failures: dict[tuple[str, str], list[int]] = {}
        self._folder = folder

    def add(self, index: int, outcomes: list[Outcome], content: bytes, change: str) -> None:
        """Count what happened to one file."""
        refusals = {one.detail for one in outcomes if one.kind == "refused"}
        self.refusals.update(refusals)
        for one in outcomes:
            self.counts.setdefault(one.operation, collections.Counter())[one.kind] += 1
            if one.kind in FAILURES:
                self._keep(index, one, content, change)

    def _keep(self, index: int, one: Outcome, content: bytes, change: str) -> None:
        general = re.sub(r"\W?\d+|'[^']*'", "", one.detail) if one.kind == "differs" else one.detail
        same = self.failures.setdefault((one.kind, general), [])
        same.append(index)
        if len(same) > 3 or len(self.failures) > MANY_FAILURES:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{index}.onnx").write_bytes(content)
        with (self._folder / "failures.txt").open("a", encoding="utf-8") as file:
            print(f"{index}.onnx | {one.operation} | {one.kind} | {one.detail} | {change}",
                  f"\n{one.trace}" if one.trace else "", file=file)  # fmt: skip

    def table(self) -> Table:
        """Return the counts of each operation."""
        table = Table("operation", "files", "accepted", "refused", *FAILURES)
        for operation, counts in self.counts.items():
            figures = [counts[kind] for kind in ("accepted", "refused", *FAILURES)]
            table.add_row(operation, *(f"{figure:,}" for figure in (sum(figures), *figures)))
        return table

    def to_dict(self) -> dict:
        """Return plain data that JSON can hold."""
        return {
            "operations": {name: dict(counts) for name, counts in self.counts.items()},
            "refusals": dict(self.refusals.most_common()),
            "failures": [
                {"kind": kind, "detail": detail, "files": len(found), "first": found[:10]}
                for (kind, detail), found in self.failures.items()
            ],
        }


def run(arguments: argparse.Namespace, models: list[Base], progress: Progress) -> Tally:
    """Run all files through all operations."""
    tally = Tally(arguments.output)
    task = progress.add_task("files", total=arguments.count)
    slow: set[int | None] = set()
    indices = iter(range(arguments.start, arguments.start + arguments.count))
    with tempfile.TemporaryDirectory() as name:
        _write_bases(models, pathlib.Path(name))
        workers = [Worker(pathlib.Path(name), arguments.seed) for _ in range(arguments.jobs)]
        busy = [worker for worker in workers if _give_next(worker, indices)]
        try:
            while busy:
                multiprocessing.connection.wait([worker.connection for worker in busy], 0.5)
                for worker in list(busy):
                    outcomes = worker.outcomes()
                    if outcomes is None:
                        continue
                    hangs = any(one.kind == "hang" for one in outcomes)
                    if hangs and worker.index not in slow:
                        # A busy machine makes anything slow: it has to happen again.
                        slow.add(worker.index)
                        worker.give(worker.index)
                        continue
                    content, change = b"", ""
                    if any(one.kind in FAILURES for one in outcomes):
                        content, change = make_file(worker.index, arguments.seed, models)
                    tally.files += 1
                    tally.add(worker.index, outcomes, content, change)
                    failed = sum(map(len, tally.failures.values()))
                    progress.update(task, advance=1, description=f"files ({failed} failures)")
                    if not _give_next(worker, indices):
                        busy.remove(worker)
        except KeyboardInterrupt:
            print("interrupted, what follows is of the files until now", file=sys.stderr)
        finally:
            for worker in workers:
                worker.stop()
    return tally


def _give_next(worker: Worker, indices) -> bool:
    index = next(indices, None)
    if index is not None:
        worker.give(index)
    return index is not None


def run_one(index: int, arguments: argparse.Namespace, models: list[Base]) -> int:
    """Run one file in this process, and show everything."""
    content, change = make_file(index, arguments.seed, models)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"{index}.onnx"
    path.write_bytes(content)
    print(f"{path}: {change}")
    with tempfile.TemporaryDirectory() as name:
        found = operations(path, lambda _: None, pathlib.Path(name))
    for one in found:
        print(f"{one.operation:28} {one.kind:14} {one.detail}\n{one.trace}".rstrip())
    return int(any(one.kind in FAILURES for one in found))


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="files to make")
    parser.add_argument("--start", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=1)
    parser.add_argument("--corpus", type=pathlib.Path, help="folder of further models")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("mutated"),
                        help="folder for the files that fail")  # fmt: skip
    parser.add_argument("--case", type=int, help="run this file only, in this process")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    models = bases(arguments.corpus)
    if arguments.case is not None:
        return run_one(arguments.case, arguments, models)
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tally = run(arguments, models, progress)
    seconds = time.monotonic() - started
    if arguments.json:
        content = {"count": tally.files, "seed": arguments.seed, "seconds": seconds}
        print(json.dumps({**content, **tally.to_dict()}, indent=2))
        return int(bool(tally.failures))
    console = Console(width=140)
    console.print(f"{tally.files:,} files made of {len(models)} models, {seconds:.0f} s")
    console.print(tally.table())
    refusals = Table("most frequent refusals", "files")
    for reason, count in tally.refusals.most_common(40):
        refusals.add_row(escape(reason), f"{count:,}")
    console.print(refusals)
    failures = Table("failure", "where", "files", "first")
    for (kind, detail), found in sorted(tally.failures.items(), key=lambda item: -len(item[1])):
        failures.add_row(kind, escape(detail), str(len(found)), ", ".join(map(str, found[:4])))
    console.print(failures if tally.failures else "nothing failed")
    return int(bool(tally.failures))


if __name__ == "__main__":
    sys.exit(main())
