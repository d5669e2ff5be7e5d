"""One file, four runtimes: statistics of the samples agree within their errors.

A quantity of each of 20 runs gives its mean and the error of the mean; two runtimes agree where no
quantity differs by more than five errors of the difference.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from runtimes import in_onnxruntime, in_openvino, probabilities, quantities, runs

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("default:::openvino")]

BROWSER, OPENVINO, FUNCTION, KERNEL = RUNTIMES = (
    "onnxruntime-web",
    "OpenVINO, inlined",
    "onnxruntime, function",
    "onnxruntime, kernel",
)
SIGMAS = 5
OTHER_RATE = 0.2


@pytest.fixture(scope="module")
def image(installed, seen):
    from PIL import Image

    with Image.open(installed / "page" / "images" / f"{seen['plan']['image']}.png") as picture:
        return np.asarray(picture, np.float32) / 255


@pytest.fixture(scope="module")
def logits(sampler):
    return {
        OPENVINO: in_openvino(sampler),
        FUNCTION: in_onnxruntime(sampler, native=False),
        KERNEL: in_onnxruntime(sampler, native=True),
    }


@pytest.fixture(scope="module")
def measured(seen, logits, image):
    """Return of each runtime the quantities of its runs, stacked along axis 0."""
    plan = seen["plan"]
    taken = {BROWSER: [run["numbers"] for run in seen["runs"]]}
    for name, run in logits.items():
        taken[name] = runs(run, image, plan["runs"], plan["samples"], plan["rate"])
    return {name: stacked(results, image.shape) for name, results in taken.items()}


def stacked(results, shape):
    each = [quantities(run, shape) for run in results]
    return {name: np.stack([run[name] for run in each]) for name in each[0]}


def differences(one, other):
    """Return the largest difference of each quantity, in errors of the difference."""
    result = {}
    for name in one:
        error = np.sqrt(
            sum(runs[name].var(axis=0, ddof=1) / len(runs[name]) for runs in (one, other))
        )
        difference = np.abs(one[name].mean(axis=0) - other[name].mean(axis=0))
        # A share of a class that no sample sees is the same tiny number everywhere.
        result[name] = float((difference / np.maximum(error, 1e-7)).max())
    return result


@pytest.mark.parametrize(
    ("one", "other"),
    list(itertools.combinations(RUNTIMES, 2)),
    ids=lambda name: name.replace(" ", "-"),
)
def test_statistics_agree(measured, one, other):
    found = differences(measured[one], measured[other])
    print(f"\n{one} against {other}, largest difference in standard errors")
    for name, value in found.items():
        print(f"  {name:34} {value:5.2f}  ({measured[one][name].shape[1]} numbers)")
    assert max(found.values()) < SIGMAS


def test_another_rate_is_told_apart(measured, logits, image, seen):
    """The same comparison fails a runtime that drops 20 % instead of 10."""
    plan = seen["plan"]
    wrong = runs(logits[KERNEL], image, plan["runs"], plan["samples"], OTHER_RATE)
    found = differences(measured[BROWSER], stacked(wrong, image.shape))
    assert max(found.values()) > SIGMAS


def test_at_rate_zero_all_compute_the_same(seen, logits, image):
    page = np.reshape(seen["still"]["numbers"]["mean"], (11, *image.shape))
    for run in logits.values():
        expected = probabilities(run(image[None, None], 0.0))[0]
        assert np.allclose(page, expected, rtol=0, atol=1e-4)


def test_the_table(measured):
    """Print what docs/browser.md shows; every runtime sees the dropout."""
    names = ("mutual information", "expected entropy", "predictive entropy")
    print("\n| runtime | " + " | ".join(names) + " |")
    for runtime in RUNTIMES:
        cells = []
        for name in names:
            values = measured[runtime][name][:, 0]
            error = values.std(ddof=1) / np.sqrt(len(values))
            assert values.mean() > 10 * error > 0
            cells.append(f"{values.mean():.5f} ± {error:.5f}")
        print(f"| {runtime} | " + " | ".join(cells) + " |")
