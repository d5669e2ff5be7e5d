"""``structdrop mc``: sample a model with dropout, and say how sure it is of each image."""

from __future__ import annotations

import math
import os
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.commands.files import check_output, same_file
from onnx_structdrop.commands.mc_picture import finite_images, fitting, picture
from onnx_structdrop.commands.selection import has_filters, select
from onnx_structdrop.commands.specification import specification
from onnx_structdrop.commands.usage import UsageError
from onnx_structdrop.console import message, print_json, print_line, print_table
from onnx_structdrop.errors import ArgumentError, ModelError, OutputError
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.io import load
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.mc import Result, Sampler, metrics
from onnx_structdrop.mc.images import PICTURES, Images, Preparation, numpy_fault, open_images
from onnx_structdrop.plot import check_figure_path, save_figure

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    import onnx_ir as ir
    from matplotlib.figure import Figure


__all__ = ["run"]

_ROWS = 10
"""Images that are shown: the ones that the model is least sure of."""

_BYTES = 64 << 20
"""Of images that are read at once."""

_TITLES = {
    "probability": "probability",
    "mean": "mean",
    "standard_deviation": "std",
    "predictive_entropy": "entropy",
    "mutual_information": "mutual information",
    "top_frequency": "agreement",
}


def run(options: argparse.Namespace) -> int:
    """Sample, write the statistics and show the images that are least certain."""
    _check_options(options)
    model, where = _model(options, load(options.model))
    for target in filter(None, (options.output, options.plot)):
        check_output(target, model)
    sampler = Sampler(
        model,
        options.samples,
        seed=options.seed or 0,
        native=False if options.functions else "auto",
        threads=options.threads,
        chunk=options.chunk,
        batch=options.batch,
        outputs=options.outputs or None,
        task=options.task,
        values=options.values,
        class_axis=options.class_axis,
        quantiles=options.quantiles,
        keep_samples=options.keep_samples,
    )
    images = _images(options, sampler)
    labels = _labels(options.labels, images.count)
    started = time.perf_counter()
    try:
        result = _sampled(sampler, images, labels)
    except ModelError as error:
        if images.guessed is None:
            raise
        size = " x ".join(map(str, images.guessed))
        raise ModelError(
            f"{error}; the model names no size, so that pictures were resized to {size}, as the "
            "first one is: --size names another"
        ) from error
    seconds = time.perf_counter() - started
    scores = _scores(result, labels)
    drawn = None
    if options.plot is not None:  # may be refused, which is to leave nothing written
        drawn = _drawn(options, sampler, images, result, labels)
    result.save(options.output)
    message(f"wrote {options.output}")
    if drawn is not None:
        save_figure(drawn, options.plot)
        message(f"wrote {options.plot}")
    if options.json:
        print_json(
            {
                "model": options.model,
                "input": options.input,
                "output": options.output,
                "plot": options.plot,
                "dropout": where,
                "native": sampler.native,
                "seconds": seconds,
                **result.summary(),
                "scores": scores,
                "files": list(images.names),
            }
        )
        return 0
    _print(sampler, images, result, scores, seconds, where)
    return 0


def _check_options(options: argparse.Namespace) -> None:
    # The rest is checked by what takes it, with the same words as in Python.
    if Path(options.output).suffix != ".npz":
        raise UsageError(f"-o {options.output!r}: statistics are written as .npz")
    if options.plot is not None:
        check_figure_path(options.plot)
    for target in filter(None, (options.output, options.plot)):
        folder = Path(target).absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):  # before hours of sampling
            raise OutputError(f"cannot write {target!r}: there is no folder that can be written")
        for source in filter(None, (options.model, options.input, options.labels)):
            if same_file(target, source):
                raise UsageError(f"{target!r} is an input itself; name another file")
        if Path(target).suffix.lower() in PICTURES and same_file(str(folder), options.input):
            raise UsageError(
                f"{target!r} would be one of the pictures in {options.input!r}; name a file in "
                "another folder"
            )
    if options.seed is not None and options.seed < 0:
        raise UsageError(f"--seed is {options.seed}; allowed is 0 or more")
    if options.spec is None and (options.rate is not None or has_filters(options)):
        raise UsageError("--spec is needed to insert dropout; without it MODEL has its own")


def _model(options: argparse.Namespace, model: ir.Model) -> tuple[ir.Model, str | None]:
    """Return the model to sample, and what was inserted."""
    if options.spec is None:
        return model, None
    spec = specification(options)
    sites = select(find_sites(model), options, default_kinds=True, spec=spec)
    where = "site" if len(sites) == 1 else "sites"
    return insert(
        model, spec, sites
    ), f"{type(spec).__name__}({spec.rate:g}) at {len(sites)} {where}"


def _images(options: argparse.Namespace, sampler: Sampler) -> Images:
    main = sampler.inputs.main
    size = (
        None
        if options.size is None
        else tuple(options.size * 2 if len(options.size) == 1 else options.size)
    )
    if size is not None and len(size) != 2:
        raise UsageError(f"--size takes one number, or height,width, not {len(size)}")
    preparation = Preparation(size, tuple(options.mean), tuple(options.std))
    return open_images(
        options.input,
        main.name,
        main.dims,
        main.dtype.numpy(),
        inputs=list(sampler.inputs.all),
        preparation=preparation,
    )


def _labels(path: str | None, count: int) -> np.ndarray | None:
    """Return the label of each image, from a file."""
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:  # numpy leaves a broken archive open
            labels = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ArgumentError(
            f"cannot read the labels {path!r} as .npy: {numpy_fault(path, error)}"
        ) from error
    if not isinstance(labels, np.ndarray):
        raise ArgumentError(f"{path!r} holds several arrays; save the labels alone, as .npy")
    if labels.ndim == 0 or len(labels) != count:
        raise ArgumentError(
            f"{path!r} holds shape {labels.shape}; {count} images need as many labels"
        )
    if labels.dtype.kind not in "iub":  # before hours of sampling
        raise ArgumentError(f"{path!r} holds {labels.dtype.name}; labels are whole numbers from 0")
    return np.asarray(labels)


def _sampled(sampler: Sampler, images: Images, labels: np.ndarray | None) -> Result:
    first = next(iter(images.batches(1)))
    arrays = first.values() if isinstance(first, dict) else [first]
    each = max(1, sum(array.nbytes for array in arrays))
    size = max(1, min(images.count, _BYTES // each))
    parts: list[Result] = []
    with _progress(images.count) as advance:
        for part in sampler.stream(images.batches(size)):
            if labels is not None and not parts:
                _check_labels(part, labels)  # before hours of sampling
            parts.append(part)
            advance(part.images)
    return Result.concat(parts)


@contextmanager
def _progress(images: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr; nothing where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("images", total=images)
        yield lambda done: shown.advance(task, done)


def _check_labels(result: Result, labels: np.ndarray) -> None:
    """Refuse labels that an output has no classes for."""
    for name, one in result.items():
        axis = one.kind.class_axis
        if axis is None and not one.kind.events:
            raise ArgumentError(
                f"output {name!r} was taken for {one.kind}, which labels do not fit; leave "
                "--labels out, or say what it is by --task and --values"
            )
        one_each = list(one.mean.shape)
        if axis is not None:
            del one_each[axis]
        if list(labels.shape[1:]) != one_each[1:]:
            one_hot = axis is not None and labels.shape[1:] == one.mean.shape[1:]
            hint = f"; class numbers are labels.argmax(axis={axis})" if one_hot else ""
            raise ArgumentError(
                f"labels have shape {labels.shape}, but output {name!r} ({one.kind}) needs "
                f"{(len(labels), *one_each[1:])}{hint}"
            )
        classes = 2 if axis is None else one.mean.shape[axis]
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise ArgumentError(
                f"labels go from {labels.min()} to {labels.max()}, but output {name!r} has "
                f"{classes} classes, from 0"
            )


def _scores(result: Result, labels: np.ndarray | None) -> dict[str, dict[str, float]]:
    """Return how good each output is, where there are labels."""
    if labels is None:
        return {}
    scores = {}
    for name, one in result.items():
        axis = one.kind.class_axis
        kept, known = finite_images(one, labels)
        finite = int((one.nonfinite == 0).sum())
        if finite < len(labels):
            message(f"{name}: scored on {finite} images, whose samples are finite")
        if len(kept):
            scores[name] = metrics.evaluate(kept, known, class_axis=1 if axis is None else axis)
    return scores


def _drawn(
    options: argparse.Namespace,
    sampler: Sampler,
    images: Images,
    result: Result,
    labels: np.ndarray | None,
) -> Figure:
    """Draw the first output."""
    name, one = next(iter(result.items()))
    main = sampler.inputs.main.name

    def read(places: list[int]) -> np.ndarray:
        batches = (images.read(at, at + 1) for at in places)
        return np.concatenate([part[main] if isinstance(part, dict) else part for part in batches])

    return picture(
        options.plot_kind or fitting(one, labels),
        one,
        images=read,
        names=images.names,
        labels=labels,
        title=f"{Path(options.model).name}, {name}, {_counted(result.samples)}",
    )


def _print(
    sampler: Sampler,
    images: Images,
    result: Result,
    scores: dict[str, dict[str, float]],
    seconds: float,
    where: str | None,
) -> None:
    for name, one in result.items():
        rows, measure = _least_certain(result.rows(name))
        columns = {"image": "name" if images.names else "right"}
        shown = [title for title in ("class", *_TITLES) if title in rows[0]]
        columns |= {_TITLES.get(title, title): "right" for title in shown}
        title = f"{name}: {one.kind}; {_order(len(rows), result.images, measure)}"
        print_table(
            columns,
            [
                (
                    images.names[row["image"]] if images.names else row["image"],
                    *(_shown(title, row[title]) for title in shown),
                )
                for row in rows
            ],
            title=title,
        )
        message(f"{name}: {one.kind.how}")
        bad = int((one.nonfinite > 0).sum())
        if bad:
            message(f"{name}: {bad} of {result.images} images have samples that are not finite")
        for measured, number in scores.get(name, {}).items():
            print_line(f"  {measured:<10} {number:.4f}")
    what = "kernels" if sampler.native else "functions, which are not reproducible"
    dropout = f", {where}" if where else ""
    ending = f"; {images.how}" if images.how else ""
    print_line(
        f"{result.images} images, {_counted(result.samples)} each, {seconds:.1f} s, "
        f"seed {result.seed}, {what}{dropout}{ending}"
    )


def _counted(samples: int) -> str:
    return "1 sample" if samples == 1 else f"{samples} samples"


def _least_certain(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Return the rows of the images that are least certain, and by which measure."""
    for measure in ("mutual_information", "standard_deviation"):
        if measure in rows[0]:
            break
    ordered = sorted(
        rows, key=lambda row: -row[measure] if math.isfinite(row[measure]) else -math.inf
    )
    return ordered[:_ROWS], _TITLES[measure]


def _order(shown: int, images: int, measure: str) -> str:
    if images == 1:
        return "1 image"
    most = f"{images} images" if shown == images else f"{shown} of {images} images"
    return f"{most}, most {measure} first"


def _shown(title: str, value: Any) -> str:
    if title == "class":
        return str(value)
    return f"{value:.1%}" if title in ("probability", "top_frequency") else f"{value:.4g}"
