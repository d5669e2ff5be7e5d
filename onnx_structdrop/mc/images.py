"""Images to sample: from .npy, .npz and folders of pictures, a few at a time."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_structdrop.errors import ArgumentError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["PICTURES", "Images", "Preparation", "numpy_fault", "open_images"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
"""Endings of the pictures that are read from a folder."""

_MOST_PIXELS = 1 << 28
_ZIP = b"PK"
_NPY = b"\x93NUMPY"
_CHANNELS = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes an input: resized, divided by 255, normalised.

    Attributes
    ----------
    size
        Height and width, in pixels; None takes the model's, or else those of the first picture.
    mean, std
        Per channel, or one for all: ``(pixel / 255 - mean) / std``.

    Raises
    ------
    ArgumentError
        A size or standard deviation is not positive, or a number is not finite.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ArgumentError(
                f"size is {self.size}; allowed are a height and a width of 1 or more"
            )
        if self.size is not None and math.prod(self.size) > _MOST_PIXELS:
            raise ArgumentError(
                f"size is {self.size}; allowed are up to {_MOST_PIXELS} pixels for a picture"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ArgumentError(
                f"mean is {self.mean} and std {self.std}; allowed are finite numbers, std above 0"
            )

    def __str__(self) -> str:
        words = "pixels / 255"
        if any(self.mean) or any(one != 1 for one in self.std):
            words = f"({words} - {_numbers(self.mean)}) / {_numbers(self.std)}"
        return words if self.size is None else f"{self.size[0]} x {self.size[1]}, {words}"


@dataclass(frozen=True)
class Images:
    """Images that are read when they are asked for.

    Attributes
    ----------
    count
        How many there are.
    names
        File names where each is a file of its own, else empty.
    how
        What was done to make arrays of them; empty where they were arrays.
    guessed
        Height and width of the first picture, where nothing else said which all are to have.
    """

    count: int
    read: Callable[[int, int], Any]
    names: tuple[str, ...] = ()
    how: str = ""
    guessed: tuple[int, int] | None = None

    def batches(self, size: int) -> Iterator[Any]:
        """Yield arrays, or arrays by input name, of up to `size` images."""
        for first in range(0, self.count, size):
            yield self.read(first, min(first + size, self.count))


def open_images(
    path: str | os.PathLike[str],
    main: str,
    dims: Sequence[int | str | None] | None,
    dtype: np.dtype[Any],
    *,
    inputs: Sequence[str] = (),
    preparation: Preparation | None = None,
) -> Images:
    """Open what there is to sample.

    Parameters
    ----------
    path
        ``.npy``: images along axis 0, mapped, not read at once. ``.npz``: arrays by input name, or
        one array of any name; those of more images than one entry are taken along axis 0. A
        folder: its pictures in the order of their names.
    main
        Name of the input that takes the images.
    dims
        Its sizes, of axis 0 first; names or None where free.
    dtype
        What the model takes.
    inputs
        Names of all inputs, for ``.npz``.
    preparation
        Of pictures.

    Raises
    ------
    ArgumentError
        There is nothing to read, it is broken, or it does not fit.
    """
    source = Path(path)
    if source.is_dir():
        return _pictures(source, dims, dtype, preparation or Preparation())
    if preparation is not None and preparation != Preparation():
        raise ArgumentError(
            f"{source} holds arrays, which are taken as they are; size, mean and std are for a "
            "folder of pictures"
        )
    content = _content(source)
    if isinstance(content, np.ndarray):
        return _array(content, source)
    return _arrays(content, source, main, inputs)


def _content(source: Path) -> Array | dict[str, Array]:
    try:
        with source.open("rb") as file:  # numpy leaves a broken archive open if given its name
            if file.read(len(_ZIP)) != _ZIP:
                array: Array = np.load(source, mmap_mode="r", allow_pickle=False)
                return array
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return dict(archive)
    except FileNotFoundError:
        raise ArgumentError(f"there is no file {str(source)!r}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        alone = source.suffix.lower() in PICTURES
        hint = "; of pictures, name the folder that they are in" if alone else ""
        raise ArgumentError(
            f"cannot read {str(source)!r} as .npy or .npz: {numpy_fault(source, error)}{hint}"
        ) from error


def numpy_fault(path: str | os.PathLike[str], error: Exception) -> str:
    """Return why NumPy could not read a file.

    NumPy takes a file of any other kind for pickled objects, and says how to load them: that would
    run what is in it.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(len(_NPY))
    except OSError:
        start = _NPY
    if start and start != _NPY and not start.startswith(_ZIP):
        return "it is a file of another kind (numpy.save and numpy.savez write such files)"
    return " ".join(str(error).split())


def _array(array: Array, source: Path) -> Images:
    if array.ndim == 0 or len(array) == 0:
        raise ArgumentError(f"{str(source)!r} holds no images: its shape is {array.shape}")
    return Images(len(array), lambda first, last: np.ascontiguousarray(array[first:last]))


def _arrays(arrays: Mapping[str, Array], source: Path, main: str, inputs: Sequence[str]) -> Images:
    if len(arrays) == 1 and main not in arrays:
        return _array(next(iter(arrays.values())), source)
    known = {name: array for name, array in arrays.items() if name in inputs}
    if main not in known:
        raise ArgumentError(
            f"{str(source)!r} has no array {main!r}, the model's input; it has "
            f"{', '.join(map(repr, arrays)) or 'none'}"
        )
    count = len(known[main]) if known[main].ndim else 0
    if count == 0:
        raise ArgumentError(f"{str(source)!r} holds no images: {main!r} is {known[main].shape}")

    def read(first: int, last: int) -> dict[str, Array]:
        return {
            name: array[first:last] if array.ndim and len(array) == count else array
            for name, array in known.items()
        }

    return Images(count, read)


def _pictures(
    folder: Path,
    dims: Sequence[int | str | None] | None,
    dtype: np.dtype[Any],
    preparation: Preparation,
) -> Images:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not files:
        raise ArgumentError(f"the folder {str(folder)!r} has no picture ({', '.join(PICTURES)})")
    channels, first = _layout(dims)
    fixed = _size(dims, first)
    size = preparation.size or fixed
    if fixed not in (None, size):
        raise ArgumentError(f"size is {size}, but the model takes {fixed}")
    guessed = None
    if size is None:
        width, height = _opened(files[0], channels).size
        size = guessed = (height, width)
    for name, numbers in (("mean", preparation.mean), ("std", preparation.std)):
        if len(numbers) not in (1, channels):
            raise ArgumentError(
                f"{name} has {len(numbers)} entries, the model takes {channels} channels"
            )
    whole = np.issubdtype(dtype, np.integer)
    done = Preparation(size, preparation.mean, preparation.std)
    if whole and (any(done.mean) or any(one != 1 for one in done.std)):
        raise ArgumentError(f"the model takes {dtype} pixels; mean and std are for floating point")

    def array(path: Path) -> Array:
        picture = _opened(path, channels).resize((size[1], size[0]), _bilinear())
        pixels = np.asarray(picture).reshape(*size, channels)
        if not whole:
            scaled = pixels.astype(np.float32) / np.float32(255)
            pixels = (scaled - np.array(done.mean, np.float32)) / np.array(done.std, np.float32)
        return (pixels.transpose(2, 0, 1) if first else pixels).astype(dtype)

    return Images(
        len(files),
        lambda start, stop: np.stack([array(path) for path in files[start:stop]]),
        tuple(path.name for path in files),
        f"{size[0]} x {size[1]}" if whole else str(done),
        guessed,
    )


def _layout(dims: Sequence[int | str | None] | None) -> tuple[int, bool]:
    """Return how many channels the model takes, and whether they come before the map."""
    if dims is not None and len(dims) == 4:
        for axis, first in ((1, True), (3, False)):
            size = dims[axis]
            if isinstance(size, int) and size in _CHANNELS:
                return size, first
    raise ArgumentError(
        f"pictures need a model whose input is (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, "
        f"not {'unknown' if dims is None else tuple(dims)}; prepare a .npy file instead"
    )


def _size(dims: Sequence[int | str | None] | None, first: bool) -> tuple[int, int] | None:
    height, width = (dims or ())[2:4] if first else (dims or ())[1:3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _opened(path: Path, channels: int) -> Any:
    """Return a picture the right way up, of 8 bits a channel."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            upright: Any = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I;16") or (upright.mode, picture.format) == ("I", "PNG"):
                # Pillow would cut off what is above 255.
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            if upright.mode in ("I", "F"):
                raise ArgumentError(
                    f"the pixels of {str(path)!r} are numbers without a range (mode "
                    f"{upright.mode}); prepare a .npy file instead"
                )
            return upright.convert(_CHANNELS[channels])
    except ArgumentError:
        raise
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ArgumentError(f"cannot read the picture {str(path)!r}: {error}") from error


def _bilinear() -> Any:
    from PIL import Image

    return Image.Resampling.BILINEAR


def _numbers(numbers: Sequence[float]) -> str:
    return f"{numbers[0]:g}" if len(numbers) == 1 else f"({', '.join(f'{n:g}' for n in numbers)})"
