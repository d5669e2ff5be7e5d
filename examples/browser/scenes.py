"""Draw scenes of handwritten digits, with the class of every pixel.

The digits are scikit-learn's (8x8, 43 writers), enlarged, turned and scattered over a grey canvas.
The last 397 of the 1,797 never occur in training. ``python scenes.py`` draws the example images
of the page from them into ``images/``: digits alone, digits beside shapes that the network has
never seen, and digits under heavy noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_digits

SHAPE = (96, 128)
BACKGROUND = 0  # digit d is class d + 1
TRAINING = 1400
UNKNOWN = 255  # drawn, but of no class


def stamp(picture: np.ndarray, side: float, angle: float, shear: float) -> np.ndarray:
    """Return a small picture of ink (0 to 1) enlarged to `side` pixels, turned and sheared.

    Parameters
    ----------
    picture
        Float array [h, w].
    side
        The height in pixels that its own height takes.
    angle
        Rotation in radians.
    shear
        Horizontal shift per row.

    Returns
    -------
    numpy.ndarray
        Float array [s, s], large enough to hold the turned picture, values from 0 to 1.
    """
    size = int(np.ceil(side * 1.5))
    scale = picture.shape[0] / side
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = scale * (turn @ np.array([[1, 0], [shear, 1]]))
    centre = (np.array(picture.shape) - 1) / 2
    offset = centre - matrix @ np.full(2, (size - 1) / 2)
    return np.clip(ndimage.affine_transform(picture, matrix, offset, (size, size), order=3), 0, 1)


def unknown_shapes() -> list[np.ndarray]:
    """Return pictures [16, 16] of a star, a ring of dots and a house, values 0 or 1."""
    rows, columns = np.mgrid[-1:1:16j, -1:1:16j]
    radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
    star = radius < 0.55 + 0.35 * np.cos(5 * angle + np.pi / 2)
    dots = (np.abs(radius - 0.72) < 0.27) & (np.cos(6 * angle) > 0.1)
    house = (np.abs(columns) < 0.6) & (rows > -0.05) & (rows < 0.9)
    house |= (rows <= -0.05) & (np.abs(columns) < rows + 1)
    house &= ~((np.abs(columns) < 0.2) & (rows > 0.35))
    return [shape.astype(np.float64) for shape in (star, dots, house)]


def scene(
    pictures: list[tuple[np.ndarray, int]],
    generator: np.random.Generator,
    shape: tuple[int, int] = SHAPE,
) -> tuple[np.ndarray, np.ndarray]:
    """Scatter pictures over a canvas.

    Parameters
    ----------
    pictures
        Pairs of ink [h, w] and class.
    generator
        Source of places, sizes and turns.
    shape
        Height and width of the canvas.

    Returns
    -------
    ink
        Float array [height, width], 0 to 1.
    classes
        Integer array [height, width]; a picture that found no room is left out.
    """
    ink, classes = np.zeros(shape), np.full(shape, BACKGROUND)
    for picture, label in pictures:
        mark = stamp(
            picture,
            generator.uniform(26, 44),
            generator.uniform(-0.25, 0.25),
            generator.uniform(-0.2, 0.2),
        )
        rows, columns = np.nonzero(mark > 0.4)
        mark = mark[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        height, width = mark.shape
        for _ in range(30):
            top = generator.integers(1, shape[0] - height)
            left = generator.integers(1, shape[1] - width)
            window = (slice(top, top + height), slice(left, left + width))
            if not classes[top - 1 : top + height + 1, left - 1 : left + width + 1].any():
                ink[window] = np.maximum(ink[window], mark)
                classes[window][mark > 0.4] = label
                break
    return ink, classes


def exposed(ink: np.ndarray, generator: np.random.Generator, noise: float) -> np.ndarray:
    """Return a grey image of the ink: unevenly lit, dark on light or light on dark, noisy.

    Parameters
    ----------
    ink
        Float array [h, w], 0 to 1.
    generator
        Source of light and noise.
    noise
        Standard deviation of the noise of a pixel, in units of full range.

    Returns
    -------
    numpy.ndarray
        float32 [h, w], 0 to 1.
    """
    rows, columns = np.mgrid[0 : 1 : ink.shape[0] * 1j, 0 : 1 : ink.shape[1] * 1j]
    slope = generator.uniform(-0.15, 0.15, 2)
    paper = generator.uniform(0.7, 0.95) + slope[0] * (rows - 0.5) + slope[1] * (columns - 0.5)
    image = paper - generator.uniform(0.35, 0.7) * ink
    if generator.random() < 0.5:
        image = 1 - image
    image = ndimage.gaussian_filter(image, generator.uniform(0, 0.8))
    image += noise * generator.standard_normal(ink.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits as ink [1797, 8, 8] from 0 to 1, and their classes 1 to 10."""
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8) / 16, labels + 1


def draw(
    count: int,
    seed: int,
    *,
    shape: tuple[int, int] = SHAPE,
    most: int = 6,
    held_out: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw scenes of digits.

    Parameters
    ----------
    count
        How many.
    seed
        Of the generator.
    shape
        Height and width.
    most
        A scene has from half as many digits to this many.
    held_out
        Whether the digits are those that training never sees.

    Returns
    -------
    images
        float32 [count, 1, height, width], 0 to 1.
    classes
        int64 [count, height, width], 0 is background, d + 1 the digit d.
    """
    generator = np.random.default_rng(seed)
    ink, labels = digits()
    chosen = slice(TRAINING, None) if held_out else slice(0, TRAINING)
    ink, labels = ink[chosen], labels[chosen]
    images, classes = [], []
    for _ in range(count):
        picks = generator.integers(len(ink), size=generator.integers(most // 2, most + 1))
        marks, truth = scene([(ink[pick], labels[pick]) for pick in picks], generator, shape)
        images.append(exposed(marks, generator, generator.uniform(0, 0.08)))
        classes.append(truth)
    return np.stack(images)[:, None], np.stack(classes)


def examples() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the page's example images and classes by name; `UNKNOWN` where a shape is none."""
    ink, labels = digits()
    result = {}
    for name, seed, numbers, shapes, noise in (
        ("digits", 3, 5, [], 0.03),
        ("unknown", 5, 3, unknown_shapes()[:2], 0.03),
        ("noise", 8, 5, [], 0.22),
    ):
        generator = np.random.default_rng(seed)
        picks = generator.integers(TRAINING, len(ink), size=numbers)
        pictures = [(shape, UNKNOWN) for shape in shapes]
        pictures += [(ink[pick], labels[pick]) for pick in picks]
        marks, classes = scene(pictures, generator)
        result[name] = exposed(marks, generator, noise), classes
    return result


def main() -> None:
    """Write the example images."""
    from PIL import Image

    folder = Path(__file__).parent / "images"
    folder.mkdir(exist_ok=True)
    for name, (image, _) in examples().items():
        Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(
            folder / f"{name}.png", optimize=True
        )
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main()
