"""Judge uncertainties on digits: Monte-Carlo dropout beside softmax, temperature and an ensemble.

    python benchmarks/uncertainty.py [--seeds 5] [--samples 30] [--json FILE] [--docs]

For each seed, torch trains small residual networks on few of scikit-learn's digits 0 to 7 and
exports them (benchmarks/digit_nets.py): five without dropout and one with. The first is judged by
its softmax, with a temperature, as one of the ensemble of five, and with dropout that is inserted
into the exported file; the network that learnt with dropout by its softmax and by sampling it.
Digits 8 and 9 are out of distribution. Shifts are noise, blur, occlusion and rotation of the test
images, two levels each.

Everything that needs a choice, the temperature and the rate of inserted dropout, is chosen by the
likelihood of validation images that are neither trained on nor shifted. Needs the extras
[training] and [metrics]; takes about 100 seconds of one core for each seed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import os
import pathlib
import re
import statistics
import sys
import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import onnx_structdrop as sd
from onnx_structdrop import mc
from onnx_structdrop.training.digits import load_digits, occlude

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "monte-carlo.md"
CLASSES = 8
TRAIN, VALIDATION = 100, 200
EPOCHS = 50
MEMBERS = 5
TRAINED_RATE = 0.2
RATES = (0.02, 0.05, 0.1, 0.2)
FIXED_RATE = 0.2
BLOCK = 3

INSERTED = {
    "SpatialDropout, last stage": (sd.SpatialDropout2D, {}, (3,)),
    "SpatialDropout, last two": (sd.SpatialDropout2D, {}, (2, 3)),
    "DropBlock, last two": (sd.DropBlock2D, {"block_size": BLOCK}, (2, 3)),
}
"""What is inserted, and into which stages, behind their last join."""

METRICS = ("accuracy", "nll", "brier", "ece")
SHIFTS = {
    "noise 0.1": lambda images, rng: images + rng.normal(0, 0.1, images.shape),
    "noise 0.3": lambda images, rng: images + rng.normal(0, 0.3, images.shape),
    "blur 0.8": lambda images, rng: blurred(images, 0.8),
    "blur 1.6": lambda images, rng: blurred(images, 1.6),
    "occlusion 5": lambda images, rng: occlude(images, 5, int(rng.integers(1 << 30))),
    "occlusion 8": lambda images, rng: occlude(images, 8, int(rng.integers(1 << 30))),
    "rotation 20": lambda images, rng: rotated(images, 20.0, rng),
    "rotation 40": lambda images, rng: rotated(images, 40.0, rng),
}


def blurred(images, sigma):
    """Blur images by a Gaussian of this width in pixels."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(images, (0, 0, sigma, sigma))


def rotated(images, degrees, rng):
    """Turn each image to the left or to the right."""
    from scipy.ndimage import rotate

    left = rng.random(len(images)) < 0.5
    turned = [rotate(images, sign * degrees, (3, 2), False, order=1) for sign in (1, -1)]
    return np.where(left[:, None, None, None], *turned)


class Sets:
    """The images of one seed."""

    def __init__(self, seed: int) -> None:
        digits = load_digits(1, seed)
        images = np.concatenate([digits.train_images, digits.test_images])
        labels = np.concatenate([digits.train_labels, digits.test_labels])
        known = labels < CLASSES
        inside, self.outside = images[known], images[~known]
        cuts = (TRAIN, TRAIN + VALIDATION)
        self.train, self.validation, test = np.split(inside, cuts)
        self.train_labels, self.validation_labels, self.labels = np.split(labels[known], cuts)
        rng = np.random.default_rng(seed)
        self.tests = {"clean": test}
        for name, shift in SHIFTS.items():
            self.tests[name] = shift(test, rng).astype(np.float32)

    @property
    def all(self) -> np.ndarray:
        """Validation, every test set and what is out of distribution, one after the other."""
        return np.concatenate([self.validation, *self.tests.values(), self.outside])

    def parts(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Take apart what belongs to `all`."""
        found = {"validation": array[:VALIDATION]}
        at = VALIDATION
        for name, images in (*self.tests.items(), ("outside", self.outside)):
            found[name] = array[at : at + len(images)]
            at += len(images)
        return found


def judge(sets: Sets, mean: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Return every figure of a method.

    Parameters
    ----------
    mean
        Predicted probabilities of all images.
    scores
        Uncertainties of all images by name.
    """
    parts = sets.parts(mean)
    labels = sets.labels
    found = {f"clean {key}": value for key, value in mc.evaluate(parts["clean"], labels).items()}
    shifted = [mc.evaluate(parts[name], labels) for name in SHIFTS]
    for key in METRICS:
        found[f"shifted {key}"] = statistics.fmean(one[key] for one in shifted)
    for name, one in zip(SHIFTS, shifted, strict=True):
        found |= {f"{name} {key}": value for key, value in one.items()}
    for name, score in scores.items():
        some = sets.parts(score)
        found[f"auroc {name}"] = mc.auroc(some["clean"], some["outside"])
        found[f"aurc {name}"] = statistics.fmean(
            mc.risk_coverage(some[shift], parts[shift].argmax(1) != labels).area for shift in SHIFTS
        )
    return found


def entropies(statistics_) -> dict[str, np.ndarray]:
    """Return the uncertainties to judge."""
    return {"entropy": statistics_.predictive_entropy, "mi": statistics_.mutual_information}


def entropy_of(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy of each row, in nats."""
    return -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(1)


def as_soft_as(softness: float, logits: np.ndarray) -> float:
    """Return the temperature at which predictions have this mean entropy."""
    from scipy.optimize import brentq

    return brentq(lambda one: entropy_of(mc.softmax(logits, one)).mean() - softness, 0.1, 20)


def joins(model, stages):
    """Return the sites behind the joins of some stages."""
    return [site for site in sd.find_sites(model) if site.stage in stages and site.kind == "join"]


def sampled(model, spec, stages, images, samples):
    """Insert dropout and return the statistics of its samples."""
    live = sd.insert(model, spec, joins(model, stages))
    return mc.Sampler(live, samples, seed=spec.seed, threads=1)(images).only


def softened(sets: Sets, logits: np.ndarray, mean: np.ndarray) -> dict[str, float]:
    """Judge the temperature that makes validation predictions as soft as those of a sampler.

    How much of what sampling does would it do?
    """
    softness = entropy_of(sets.parts(mean)["validation"]).mean()
    temperature = as_soft_as(softness, sets.parts(logits)["validation"])
    scaled = mc.softmax(logits, temperature)
    return judge(sets, scaled, {"entropy": entropy_of(scaled)}) | {"choice": temperature}


def of_trained(sets: Sets, seed: int, samples: int) -> dict[str, dict[str, float]]:
    """Train a network with dropout and judge it without and with sampling."""
    from digit_nets import train

    net = train(
        sets.train, sets.train_labels, CLASSES, rate=TRAINED_RATE, epochs=EPOCHS, seed=100 * seed
    )
    images = sets.all
    one = mc.ensemble([net], images, threads=1, values="logits").only
    spec = sd.SpatialDropout2D(TRAINED_RATE, seed=seed)
    found = sampled(net, spec, (2, 3), images, samples)
    logits = mc.ensemble([net], images, threads=1, task="regression").only.mean
    return {
        "trained, softmax": judge(sets, one.mean, {"entropy": one.predictive_entropy}),
        "trained, sampled": judge(sets, found.mean, entropies(found)),
        "trained, temperature as soft": softened(sets, logits, found.mean),
    }


def run(job: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Train the networks of one seed and judge every method."""
    import torch
    from digit_nets import train

    seed, samples = job
    torch.set_num_threads(1)
    sets = Sets(seed)
    learn = (sets.train, sets.train_labels, CLASSES)
    members = [
        train(*learn, rate=0.0, epochs=EPOCHS, seed=100 * seed + one) for one in range(MEMBERS)
    ]
    images, results = sets.all, {}

    one = mc.ensemble(members[:1], images, threads=1, values="logits").only
    results["softmax"] = judge(sets, one.mean, {"entropy": one.predictive_entropy})

    logits = mc.ensemble(members[:1], images, threads=1, task="regression").only.mean
    temperature = mc.fit_temperature(sets.parts(logits)["validation"], sets.validation_labels)
    scaled = mc.softmax(logits, temperature)
    results["temperature"] = judge(sets, scaled, {"entropy": entropy_of(scaled)}) | {
        "choice": temperature
    }

    many = mc.ensemble(members, images, threads=1, values="logits").only
    results["ensemble"] = judge(sets, many.mean, entropies(many))

    for title, (kind, options, stages) in INSERTED.items():
        losses = {}
        for rate in RATES:
            spec = kind(rate, seed=seed, **options)
            found = sampled(members[0], spec, stages, sets.validation, samples)
            losses[rate] = mc.nll(found.mean, sets.validation_labels)
        best = min(losses, key=losses.get)
        for rate, words in ((best, "chosen"), (FIXED_RATE, f"{FIXED_RATE:g}")):
            spec = kind(rate, seed=seed, **options)
            found = sampled(members[0], spec, stages, images, samples)
            results[f"{title}, {words}"] = judge(sets, found.mean, entropies(found)) | {
                "choice": rate
            }
    results[f"temperature as soft as {title}, {words}"] = softened(sets, logits, found.mean)

    results |= of_trained(sets, seed, samples)
    return results


COLUMNS = {
    "clean accuracy": ("accuracy, %", 100, 1),
    "clean nll": ("NLL", 1, 3),
    "clean brier": ("Brier", 1, 3),
    "clean ece": ("ECE, %", 100, 1),
    "shifted accuracy": ("accuracy, %", 100, 1),
    "shifted nll": ("NLL", 1, 2),
    "shifted brier": ("Brier", 1, 3),
    "shifted ece": ("ECE, %", 100, 1),
    "auroc entropy": ("AUROC, entropy", 100, 1),
    "auroc mi": ("AUROC, MI", 100, 1),
    "aurc entropy": ("AURC, entropy", 100, 1),
    "aurc mi": ("AURC, MI", 100, 1),
    "choice": ("chosen", 1, 2),
}
"""What each table shows: title, factor, digits."""

TABLES = {
    "clean": (
        "Test images as they are",
        ("clean accuracy", "clean nll", "clean brier", "clean ece", "- clean ece", "choice"),
    ),
    "shifted": (
        "Shifted test images, mean of all shifts",
        ("shifted accuracy", "shifted nll", "shifted brier", "shifted ece", "- shifted ece"),
    ),
    "ood": (
        "Digits 8 and 9 told from 0 to 7 (AUROC, %), wrong from right under shift (AURC, %)",
        ("auroc entropy", "- auroc entropy", "auroc mi", "aurc entropy", "aurc mi"),
    ),
}
"""Title and figures of each table; behind a dash, the paired difference to softmax."""


def cell(runs: list[dict[str, float]], base: list[dict[str, float]], key: str) -> str:
    """Return mean and standard error over the seeds."""
    name = key.removeprefix("- ")
    _, factor, digits = COLUMNS[name]
    values = [factor * one[name] for one in runs if name in one]
    sign = ""
    if name != key:
        if runs is base:
            return ""
        sign = "+"
        values = [value - factor * other[name] for value, other in zip(values, base, strict=True)]
    if not values:
        return ""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):{sign}.{digits}f} ± {error:.{digits}f}"


def tables_of(results: dict[str, list[dict[str, float]]]) -> dict[str, tuple[list[str], list]]:
    """Return header and rows of each table."""
    found = {}
    for name, (_, keys) in TABLES.items():
        header = ["method"]
        for key in keys:
            title = COLUMNS[key.removeprefix("- ")][0]
            header.append("difference" if key.startswith("- ") else title)
        base = results["softmax"]
        rows = [
            [method, *(cell(runs, base, key) for key in keys)] for method, runs in results.items()
        ]
        found[name] = (header, rows)
    return found


def document(tables: dict[str, tuple[list[str], list]], head: str) -> None:
    """Write the tables into the page."""
    text = PAGE.read_text(encoding="utf-8")
    lines = [head]
    for name, (header, rows) in tables.items():
        lines += ["", f"{TABLES[name][0]}:", ""]
        parts = (header, ["---"] * len(header), *rows)
        lines += ["| " + " | ".join(row) + " |" for row in parts]
    made, count = re.subn(
        r"(<!-- quality -->\n).*?(<!-- end -->)",
        lambda match: match[1] + "\n".join(lines) + "\n" + match[2],
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} places marked <!-- quality -->, not one")
    PAGE.write_text(made, encoding="utf-8")


def draw(path: pathlib.Path, samples: int) -> None:
    """Draw whom the entropy tells apart, of a network that learnt with dropout and is sampled."""
    import torch
    from digit_nets import train

    from onnx_structdrop import plot

    torch.set_num_threads(1)
    sets = Sets(0)
    net = train(sets.train, sets.train_labels, CLASSES, rate=TRAINED_RATE, epochs=EPOCHS, seed=0)
    found = sampled(net, sd.SpatialDropout2D(TRAINED_RATE, seed=0), (2, 3), sets.all, samples)
    scores, means = sets.parts(found.predictive_entropy), sets.parts(found.mean)
    wrong = means["rotation 40"].argmax(1) != sets.labels
    groups = {
        "digits 0 to 7": scores["clean"],
        "turned by 40°, right": scores["rotation 40"][~wrong],
        "turned by 40°, wrong": scores["rotation 40"][wrong],
        "digits 8 and 9, never seen": scores["outside"],
    }
    title = f"Uncertainty of {samples} samples"
    plot.save_figure(
        plot.plot_uncertainty_histogram(groups, "predictive entropy, nats", title), path
    )


def measure(arguments: argparse.Namespace) -> dict:
    """Run all seeds and return settings, seconds and the figures of each method."""
    jobs = [(seed, arguments.samples) for seed in range(arguments.seeds)]
    started = time.perf_counter()
    results: dict[str, list[dict[str, float]]] = {}
    columns = (TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        concurrent.futures.ProcessPoolExecutor(arguments.jobs, context) as pool,
    ):
        task = progress.add_task("", total=len(jobs))
        for found in pool.map(run, jobs):
            for name, figures in found.items():
                results.setdefault(name, []).append(figures)
            progress.advance(task)
    return {
        "settings": {"seeds": arguments.seeds, "samples": arguments.samples},
        "seconds": time.perf_counter() - started,
        "results": results,
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=30, help="samples of each image")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="seeds at a time")
    parser.add_argument("--json", type=pathlib.Path, help="where all figures go")
    parser.add_argument("--read", type=pathlib.Path, help="tables of an earlier run's --json")
    parser.add_argument("--draw", type=pathlib.Path, help="draw seed 0 here, and nothing else")
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {PAGE.name}")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2")
    if arguments.draw:
        draw(arguments.draw, arguments.samples)
        return 0
    if arguments.read:
        content = json.loads(arguments.read.read_text(encoding="utf-8"))
    else:
        content = measure(arguments)
    results, seconds = content["results"], content["seconds"]
    head = (
        f"{len(results['softmax'])} seeds, {TRAIN} images to train on, {VALIDATION} to choose by, "
        f"{content['settings']['samples']} samples; mean ± standard error of the mean; "
        "differences to softmax, of ECE or AUROC, are paired."
    )
    tables = tables_of(results)
    console = Console(width=None if sys.stdout.isatty() else 140)
    for name, (header, rows) in tables.items():
        table = Table(*header, box=None, title=TABLES[name][0], title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print()
    console.print(head, f"{seconds:.0f} s in all.")
    if arguments.json:
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if arguments.docs:
        document(tables, head)
    return 0


if __name__ == "__main__":
    sys.exit(main())
