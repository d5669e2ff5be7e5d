"""Where in an image a network is uncertain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.plot.palette import (
    FRAME,
    INK,
    KINDS,
    MUTED,
    OTHER_KIND,
    headline,
    new_figure,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_uncertainty_map"]

_COLOURS = (*(kind.colour for kind in KINDS.values()), OTHER_KIND.colour)
_MOST_IMAGES = 12
_HEAT = "inferno"


def plot_uncertainty_map(
    images: npt.ArrayLike,
    uncertainty: npt.ArrayLike,
    *,
    classes: npt.ArrayLike | None = None,
    titles: Sequence[str] | None = None,
    measure: str = "mutual information, nats",
    title: str = "",
) -> Figure:
    """Draw images, what was found in them, and how uncertain each place is, side by side.

    Parameters
    ----------
    images
        Shape (n, channels, height, width) or (n, height, width, channels), 1 or 3 channels, or
        (n, height, width); at most twelve. Each is drawn from its lowest to its highest number.
    uncertainty
        Shape (n, h, w); a channel axis of size 1 is dropped. It is stretched over the image where
        it is smaller. NaN is left blank.
    classes
        Shape (n, h, w), such as `Statistics.top_class`: drawn between the two.
    titles
        Of the images; their numbers by default.
    measure
        What the scale of colours says.
    title
        Headline of the picture.

    Returns
    -------
    matplotlib.figure.Figure
        Not known to pyplot.

    Raises
    ------
    ArgumentError
        The arrays do not belong together, are no images, or there are none or too many.
    """
    pictures = _pictures(np.asarray(images))
    heat = _maps(np.asarray(uncertainty, np.float64), len(pictures), "uncertainty")
    found = None if classes is None else _maps(np.asarray(classes), len(pictures), "classes")
    names = [f"image {at}" for at in range(len(pictures))] if titles is None else list(titles)
    if len(names) != len(pictures):
        raise ArgumentError(f"there are {len(names)} titles for {len(pictures)} images")
    columns = 2 if found is None else 3
    side = 1.75
    height = side * pictures.shape[1] / pictures.shape[2] if pictures.shape[2] else side
    height = min(max(height, 0.8), 3.5)
    top = 0.54 if title else 0.3
    total = len(pictures) * (height + 0.08) + top + 0.1
    width = 0.95 + columns * (side + 0.08) + 0.85
    figure = new_figure(width, total)
    finite = heat[np.isfinite(heat)]
    high = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    drawn = None
    heads = ("image", *(() if found is None else ("top class",)), "uncertainty")
    for row, picture in enumerate(pictures):
        bottom = (total - top - (row + 1) * (height + 0.08)) / total
        boxes = [
            figure.add_axes(
                ((0.95 + at * (side + 0.08)) / width, bottom, side / width, height / total)
            )
            for at in range(columns)
        ]
        extent = (0.0, float(picture.shape[1]), float(picture.shape[0]), 0.0)
        _picture(boxes[0], picture, extent)
        if found is not None:
            _labels(boxes[1], found[row], extent, int(found.max()))
        _picture(boxes[-1], picture, extent, faint=True)
        drawn = boxes[-1].imshow(
            heat[row], cmap=_HEAT, vmin=0, vmax=high, extent=extent, alpha=0.85,
            interpolation="nearest",
        )  # fmt: skip
        boxes[0].set_ylabel(names[row], rotation=0, ha="right", va="center", fontsize=8, color=INK)
        for box, head in zip(boxes, heads, strict=True):
            box.set_xticks([])
            box.set_yticks([])
            for spine in box.spines.values():
                spine.set_color(FRAME)
                spine.set_linewidth(0.6)
            if row == 0:
                box.set_title(head, fontsize=8.5, color=MUTED, pad=4)
    if drawn is not None:
        tall = min(total - top - 0.18, 3.0)
        scale = figure.add_axes(
            (1 - 0.78 / width, (total - top - tall) / total, 0.11 / width, tall / total)
        )
        bar = figure.colorbar(drawn, cax=scale)
        bar.set_label(measure, fontsize=8, color=INK)
        bar.ax.tick_params(labelsize=7, colors=INK, length=2)
        bar.outline.set_visible(False)
    headline(figure, title)
    return figure


def _pictures(images: np.ndarray) -> np.ndarray:
    """Return images of shape (n, height, width, 1 or 3), from 0 to 1."""
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[-1] not in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ArgumentError(
            f"images have shape {images.shape}; they need one or three channels, on axis 1 or last"
        )
    if not 0 < len(images) <= _MOST_IMAGES:
        raise ArgumentError(
            f"there are {len(images)} images to draw; allowed is 1 to {_MOST_IMAGES}"
        )
    if not np.isfinite(images.astype(np.float64)).all():
        raise ArgumentError("an image has numbers that are not finite")
    wide = images.astype(np.float64)
    low = wide.min(axis=(1, 2, 3), keepdims=True)
    span = wide.max(axis=(1, 2, 3), keepdims=True) - low
    scaled: np.ndarray = (wide - low) / np.where(span > 0, span, 1)
    return scaled


def _maps(array: np.ndarray, count: int, what: str) -> np.ndarray:
    if array.ndim == 4 and 1 in (array.shape[1], array.shape[-1]):
        array = array[:, 0] if array.shape[1] == 1 else array[..., 0]
    if array.ndim != 3 or len(array) != count:
        raise ArgumentError(
            f"{what} has shape {array.shape}; it needs a map for each of {count} images, shape "
            "(n, height, width): for one number per image draw a histogram"
        )
    return array


def _picture(
    axes: Axes,
    picture: np.ndarray,
    extent: tuple[float, float, float, float],
    *,
    faint: bool = False,
) -> None:
    grey = picture.mean(axis=-1) if faint or picture.shape[-1] == 1 else None
    shown = picture if grey is None else grey
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=extent)


def _labels(
    axes: Axes, found: np.ndarray, extent: tuple[float, float, float, float], most: int
) -> None:
    from matplotlib.colors import ListedColormap

    palette = [_COLOURS[at % len(_COLOURS)] for at in range(most + 1)] or [MUTED]
    # Places without a class, -1, have numbers that are not finite.
    masked = np.ma.masked_less(found, 0)
    axes.imshow(
        masked, cmap=ListedColormap(palette), vmin=-0.5, vmax=len(palette) - 0.5,
        extent=extent, interpolation="nearest",
    )  # fmt: skip
