"""``structdrop train``: train an exported CNN on digits, and finish it for inference."""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_structdrop.commands.runs import TRAIN_BLOCK_SIZE
from onnx_structdrop.commands.selection import has_filters, select
from onnx_structdrop.commands.specification import specification
from onnx_structdrop.commands.usage import UsageError
from onnx_structdrop.console import (
    message,
    percent,
    print_check,
    print_heading,
    print_json,
    print_line,
    print_table,
)
from onnx_structdrop.demo import model_path
from onnx_structdrop.errors import CheckFailedError, OutputError, UnsupportedModelError
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.io import load, save
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.plot import plot_curves, save_figure
from onnx_structdrop.training import (
    Schedule,
    finish,
    fit,
    generate_artifacts,
    open_session,
    training_available,
)
from onnx_structdrop.training.digits import (
    CLASSES,
    SIZE,
    Digits,
    batches,
    load_digits,
    occlude,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    import onnx_ir as ir

    from onnx_structdrop.training import History

__all__ = ["run"]

_MODEL = "trainable/digits_resnet.onnx"
_SPEC, _RATE = "DropBlock2D", 0.2
_SCHEDULE, _BATCH_NORM, _OPTIMIZER = "linear", "train", "adamw"
_OTHER_DATA = "docs/training.md tells how to train on other data"
_ROWS = 10
_SQUARE = 0.375
"""Side of the square that occludes a test image, as a fraction of the image's."""


def run(options: argparse.Namespace) -> int:
    """Train, evaluate, finish, and check what came out."""
    _check_options(options)
    folder = Path(options.output)
    started = time.perf_counter()
    source = Path(options.source) if options.source is not None else None
    made: list[Path] = []
    if source is None:
        plain = load(options.model or model_path(_MODEL))
        shape = _image_shape(plain, str(options.model or _MODEL))
        model, title = _dropping(options, plain)
        digits = _digits(options, shape)
        _make(folder)
        source = folder / "artifacts"
        schedule = getattr(Schedule, options.schedule or _SCHEDULE)(options.steps)
        artifacts = generate_artifacts(
            model,
            source,
            loss="cross_entropy",
            optimizer=options.optimizer or _OPTIMIZER,
            batch_norm=options.batch_norm or _BATCH_NORM,
            schedule=schedule,
            overwrite=True,
        )
        session = open_session(artifacts, learning_rate=options.learning_rate)
        made.append(source)
    else:
        title = f"artifacts of {source}"
        session = open_session(source, learning_rate=options.learning_rate)
        digits = _digits(options, _shape_of(session))
        _make(folder)
    sets = _sets(digits)
    if not options.json:
        runtime = "onnxruntime-training" if training_available() else "onnxruntime"
        print_heading(f"{title}, {options.steps} steps of {options.batch} images, {runtime}")
    order = batches(
        digits.train_images, digits.train_labels, options.batch, options.steps, options.seed
    )
    with _progress(options.steps) as told:
        history = fit(session, order, sets=sets, every=max(1, options.steps // _ROWS), told=told)
    seconds = time.perf_counter() - started
    checks, written = _finished(session, history, sets, folder, title)
    written = [*made, *written]
    if options.json:
        print_json(
            {
                "model": options.model,
                "title": title,
                "seconds": seconds,
                "history": history.to_dict(),
                "checks": [{"check": text, "passed": passed} for passed, text in checks],
                "written": [str(path) for path in written],
            }
        )
    else:
        _print(history, checks, written, seconds)
    failed = [text for passed, text in checks if not passed]
    if failed:
        raise CheckFailedError(f"{len(failed)} of {len(checks)} checks failed: {failed[0]}")
    return 0


def _check_options(options: argparse.Namespace) -> None:
    for name, lowest in (("steps", 1), ("batch", 1), ("images", 1)):
        if getattr(options, name) < lowest:
            raise UsageError(f"--{name} is {getattr(options, name)}; allowed is {lowest} or more")
    rate = options.learning_rate
    if not 0 < rate < math.inf:
        raise UsageError(f"--learning-rate is {rate:g}; allowed is a positive number")
    if options.seed < 0:
        raise UsageError(f"--seed is {options.seed}; allowed is 0 or more")
    given = options.spec is not None or options.rate is not None or options.block_size is not None
    if options.source is not None and (options.model is not None or given or has_filters(options)):
        raise UsageError("--from brings model and dropout with it; leave out MODEL and --spec")
    for name in ("optimizer", "schedule", "batch_norm", "no_dropout"):
        if options.source is not None and getattr(options, name) not in (None, False):
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is settled in the artifacts of --from; leave it out")
    if options.no_dropout and (given or has_filters(options)):
        raise UsageError("--no-dropout inserts nothing; leave out --spec and what chooses sites")


def _dropping(options: argparse.Namespace, model: ir.Model) -> tuple[ir.Model, str]:
    """Return the model with dropout in it, and what to call the run."""
    name = Path(options.model or _MODEL).stem
    if options.no_dropout:
        return model, f"{name} without dropout"
    options.spec = options.spec or _SPEC
    options.rate = _RATE if options.rate is None else options.rate
    if options.block_size is None and options.spec.startswith("DropBlock"):
        options.block_size = TRAIN_BLOCK_SIZE
    spec = specification(options)
    if not has_filters(options):
        options.placement = "paper"
    sites = select(find_sites(model), options, default_kinds=True, spec=spec)
    where = "site" if len(sites) == 1 else "sites"
    short = f"{type(spec).__name__}({spec.rate:g})"
    return insert(model, spec, sites), f"{name} with {short} at {len(sites)} {where}"


def _image_shape(model: ir.Model, name: str) -> tuple[int | str | None, ...]:
    """Return the shape of the only input of a model that classifies."""
    inputs, outputs = model.graph.inputs, model.graph.outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise UnsupportedModelError(
            f"{name}: digits need a model with one input and one output, this one has "
            f"{len(inputs)} and {len(outputs)}; {_OTHER_DATA}"
        )
    scores = outputs[0].shape
    if scores is None or len(scores) != 2 or scores[1] not in (CLASSES, None):
        shown = "an unknown shape" if scores is None else str(scores)
        raise UnsupportedModelError(
            f"{name}: digits need {CLASSES} classes as output, shape [N,{CLASSES}], this one "
            f"has {shown}; {_OTHER_DATA}"
        )
    shape = tuple(size if isinstance(size, int) else size.value for size in inputs[0].shape or ())
    _check_image(shape)
    return shape


def _shape_of(session: Any) -> tuple[int | str | None, ...]:
    """Return the shape of the image that artifacts were made for."""
    (image,) = session.manifest.inputs
    return tuple(image.shape or ())


def _digits(options: argparse.Namespace, shape: tuple[int | str | None, ...]) -> Digits:
    """Return digits in the size that a model takes."""
    _check_image(shape)
    size = shape[2] if isinstance(shape[2], int) else SIZE
    if options.batch > options.images:
        raise UsageError(
            f"--batch is {options.batch}; allowed is 1 to {options.images}, the number of --images"
        )
    return load_digits(options.images, options.seed, size=size, channels=int(shape[1] or 1))


def _check_image(shape: tuple[int | str | None, ...]) -> None:
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3]:
        raise UnsupportedModelError(
            "digits need an input of shape N,1,size,size or N,3,size,size, not "
            f"{','.join(map(str, shape))}; {_OTHER_DATA}"
        )
    if isinstance(shape[0], int):
        raise UnsupportedModelError(
            f"digits come in batches of several sizes, the input takes {shape[0]}: export it "
            f"with a free batch axis; {_OTHER_DATA}"
        )


def _sets(digits: Digits) -> dict[str, Any]:
    images, labels = digits.test_images, digits.test_labels
    square = max(1, round(_SQUARE * images.shape[-1]))
    return {"clean": (images, labels), "occluded": (occlude(images, square), labels)}


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[History], None]]:
    """Show a bar on stderr; nothing where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("training", total=steps)

        def advance(history: History) -> None:
            text = f"training, loss {history.loss[-1]:.3f}"
            shown.update(task, description=text, completed=len(history.loss))

        yield advance


def _finished(
    session: Any, history: History, sets: dict[str, Any], folder: Path, title: str
) -> tuple[list[tuple[bool, str]], list[Path]]:
    """Check the run, finish the model and write what there is to keep."""
    images, labels = (part[:64] for part in sets["clean"])
    one, two = (next(iter(session.evaluate(images, labels).outputs.values())) for _ in "12")
    checks = [
        (history.falls(), "the loss falls"),
        (one.tobytes() == two.tobytes(), "two evaluations give equal bytes"),
    ]
    checkpoint = folder / "checkpoint"
    session.save(checkpoint, overwrite=True)
    model = finish(session)  # raises where it is not the model that was evaluated
    checks.append((True, "the finished model holds nothing random and equals the evaluation"))
    target = folder / "model.onnx"
    save(model, target)
    picture = folder / "curves.png"
    save_figure(plot_curves(history.to_dict(), title), picture)
    record = folder / "history.json"
    try:
        record.write_text(json.dumps(history.to_dict()) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {str(record)!r}: {error.strerror}") from error
    return checks, [checkpoint, target, picture, record]


def _print(
    history: History, checks: list[tuple[bool, str]], written: list[Path], seconds: float
) -> None:
    columns = {"steps": "right", "loss": "right"}
    # One ratio needs no name.
    named = len(history.ratios) > 1
    columns |= dict.fromkeys(
        (f"ratio, {name}" if named else "ratio" for name in history.ratios), "right"
    )
    sets = [name for name in history.evaluations[-1] if name != "step"]
    columns |= dict.fromkeys((f"accuracy, {name}" for name in sets), "right")
    rows, before = [], 0
    for entry in history.evaluations:
        after = int(entry["step"]) - history.steps[0]
        part = history.loss[before:after]
        rows.append(
            (
                after,
                f"{sum(part) / len(part):.3f}",
                *(percent(course[after - 1]) for course in history.ratios.values()),
                *(f"{entry[name]:.1%}" for name in sets),
            )
        )
        before = after
    print_table(columns, rows)
    print_line()
    for passed, text in checks:
        print_check(passed, text)
    print_line(f"{seconds:.1f} s; wrote")
    for path in written:
        print_line(f"    {path}")
    message("accuracies are of one run with one seed; benchmarks/learning.py compares properly")
