"""Kernels, strides, dilations and padding of a convolution or pooling node."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from onnx_structdrop.training.lowering.writer import Operation, Size

__all__ = ["Geometry"]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How windows lie on a map; each field has one entry per spatial axis, but for `group`.

    Attributes
    ----------
    kernel, strides, dilations
        Of the window.
    begin, end
        Padding before and after the map.
    group
        Groups of channels.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    group: int = 1

    @classmethod
    def of(cls, operation: Operation, kernel: Sequence[int], image: Sequence[Size]) -> Self:
        """Read a node's attributes.

        Parameters
        ----------
        operation
            The node.
        kernel
            Sizes of the window.
        image
            Spatial sizes of the map that the windows lie on, None where unknown.

        Raises
        ------
        UnsupportedModelError
            Automatic padding depends on a size that is not known.
        """
        attributes, rank = operation.attributes, len(kernel)
        strides = tuple(attributes.get("strides") or [1] * rank)
        dilations = tuple(attributes.get("dilations") or [1] * rank)
        mode = attributes.get("auto_pad", "NOTSET")
        pads = list(attributes.get("pads") or [0] * (2 * rank))
        if mode == "VALID":
            pads = [0] * (2 * rank)
        elif mode in ("SAME_UPPER", "SAME_LOWER"):
            pads = [0] * (2 * rank)
            for axis, (size, stride) in enumerate(zip(image, strides, strict=True)):
                reach = dilations[axis] * (kernel[axis] - 1) + 1
                if size is None and stride > 1:
                    raise operation.refuse(f"{mode} with strides needs a fixed size of axis {axis}")
                spare = 0 if size is None else (size + stride - 1) // stride * stride - size
                # (windows - 1) * stride + reach - size, where the windows are size / stride
                total = max(reach - stride + spare, 0)
                less = total // 2
                pads[axis] = less if mode == "SAME_UPPER" else total - less
                pads[axis + rank] = total - pads[axis]
        return cls(
            kernel=tuple(kernel),
            strides=strides,
            dilations=dilations,
            begin=tuple(pads[:rank]),
            end=tuple(pads[rank:]),
            group=attributes.get("group", 1),
        )

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def pointwise(self) -> bool:
        """Whether the window is one element."""
        return all(size == 1 for size in self.kernel)

    @property
    def unit_strides(self) -> bool:
        """Whether windows lie next to each other."""
        return all(stride == 1 for stride in self.strides)

    @property
    def padded(self) -> bool:
        """Whether there is padding."""
        return any(self.begin) or any(self.end)

    @property
    def pads(self) -> list[int]:
        """Padding as the attribute of a node."""
        return [*self.begin, *self.end]

    @property
    def taps(self) -> list[tuple[int, ...]]:
        """Positions in the window, in row-major order."""
        positions: list[tuple[int, ...]] = [()]
        for size in self.kernel:
            positions = [(*head, tail) for head in positions for tail in range(size)]
        return positions

    def covered(self, axis: int, windows: int) -> int:
        """Return the size of the map that a number of windows covers, without the padding."""
        reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
        return (windows - 1) * self.strides[axis] + reach - self.begin[axis] - self.end[axis]

    def joins(self, axis: int, elements: range, windows: range) -> NDArray[np.bool_]:
        """Return which tap of an axis joins which element to which window.

        Parameters
        ----------
        axis
            Spatial axis, from 0.
        elements, windows
            Places on it.

        Returns
        -------
        numpy.ndarray
            Shape (elements, windows, taps).
        """
        taps = np.arange(self.kernel[axis]) * self.dilations[axis] - self.begin[axis]
        under = np.asarray(windows)[:, None] * self.strides[axis] + taps
        joined: NDArray[np.bool_] = np.asarray(elements)[:, None, None] == under
        return joined
