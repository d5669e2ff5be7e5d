"""Measure what the uncertainty of ``sampler.onnx`` tells, on scenes of digits it never saw.

Prints the mean of each measure over pixels of digits that are labelled rightly and wrongly, over
shapes that the network never saw, and how well it tells the two kinds apart from right ones: the
area under the ROC curve, next to the entropy of one pass without dropout, which costs nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from scenes import TRAINING, UNKNOWN, digits, exposed, scene, unknown_shapes
from scipy.stats import rankdata

import onnx_structdrop as sd

HERE = Path(__file__).resolve().parent
SCENES = 60
SAMPLES = 30
RATE = 0.1


def entropy(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the entropy in nats along an axis of probabilities."""
    return -(values * np.log(np.maximum(values, 1e-30))).sum(axis=axis)


def area(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the area under the ROC curve of telling positive from negative by a larger value."""
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)].sum()
    return (ranks / len(positive) - (len(positive) + 1) / 2) / len(negative)


def main() -> None:
    """Sample the scenes, print the table."""
    options = onnxruntime.SessionOptions()
    sd.register(options)
    session = onnxruntime.InferenceSession(HERE / "sampler.onnx", options)

    def probabilities(image: np.ndarray, samples: int, rate: float) -> np.ndarray:
        images = np.repeat(image[None, None], samples, axis=0)
        feeds = {"image": images, "rate": np.array(rate, np.float32)}
        logits = session.run(None, feeds)[0].astype(np.float64)
        values = np.exp(logits - logits.max(axis=1, keepdims=True))
        return values / values.sum(axis=1, keepdims=True)

    generator = np.random.default_rng(7)
    ink, labels = digits()
    groups: dict[str, list[np.ndarray]] = {"right": [], "wrong": [], "unknown": []}
    for _ in range(SCENES):
        picks = generator.integers(TRAINING, len(ink), size=3)
        shape = unknown_shapes()[generator.integers(3)]
        pictures = [(shape, UNKNOWN), *((ink[pick], labels[pick]) for pick in picks)]
        marks, classes = scene(pictures, generator)
        image = exposed(marks, generator, generator.uniform(0, 0.08))
        samples = probabilities(image, SAMPLES, RATE)
        mean = samples.mean(axis=0)
        predictive, expected = entropy(mean, 0), entropy(samples, 1).mean(axis=0)
        still = entropy(probabilities(image, 1, 0.0)[0], 0)
        values = np.stack([predictive, expected, predictive - expected, still])
        right = mean.argmax(axis=0) == classes
        drawn = (classes > 0) & (classes != UNKNOWN)
        groups["right"].append(values[:, drawn & right])
        groups["wrong"].append(values[:, drawn & ~right])
        groups["unknown"].append(values[:, classes == UNKNOWN])
    joined = {name: np.concatenate(parts, axis=1) for name, parts in groups.items()}
    names = "total", "ambiguity", "disagreement", "one pass, no dropout"
    sizes = {name: values.shape[1] for name, values in joined.items()}
    print(f"pixels: {sizes}")
    print("| nats | right | wrong | unknown | AUROC wrong | AUROC unknown |")
    print("|---|---|---|---|---|---|")
    for row, name in enumerate(names):
        right, wrong, unknown = (joined[key][row] for key in ("right", "wrong", "unknown"))
        print(
            f"| {name} | {right.mean():.3f} | {wrong.mean():.3f} | {unknown.mean():.3f}"
            f" | {area(wrong, right):.3f} | {area(unknown, right):.3f} |"
        )


if __name__ == "__main__":
    main()
