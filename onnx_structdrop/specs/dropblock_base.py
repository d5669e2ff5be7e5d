"""The part of DropBlock that does not depend on the number of spatial axes."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar, Self, cast

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.schema import Normalize, SeedRegion
from onnx_structdrop.specs import arguments, rates
from onnx_structdrop.specs.base import Attributes, DropoutSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx_structdrop.specs.arguments import Shape

__all__ = ["DropBlock"]

_SEED_REGIONS = {member.name.lower(): member for member in SeedRegion}
_NORMALIZE = {member.name.lower(): member for member in Normalize}


@dataclass(frozen=True)
class DropBlock(DropoutSpec):
    """Base class of `DropBlock1D`, `DropBlock2D` and `DropBlock3D`."""

    rate: float
    block_size: int | tuple[int, ...] = 7
    _: KW_ONLY
    seed: int | None = None
    data_format: str = "channels_first"
    shared_axes: tuple[int, ...] = ()
    seed_region: str = "valid"
    normalize: str = "batch"

    op_type: ClassVar[str] = "DropBlock"
    spatial_rank: ClassVar[int]

    def __post_init__(self) -> None:
        name = type(self).__name__
        rank = self.spatial_rank + 2
        self._check_common()
        data_format = arguments.choice(
            self.data_format, name, "data_format", arguments.DATA_FORMATS
        )
        channel_axis = arguments.channel_axis(data_format, rank)
        self._set(
            block_size=arguments.block_size(self.block_size, name, self.spatial_rank),
            data_format=data_format,
            shared_axes=arguments.shared_axes(self.shared_axes, name, rank, channel_axis),
            seed_region=arguments.choice(self.seed_region, name, "seed_region", _SEED_REGIONS),
            normalize=arguments.choice(self.normalize, name, "normalize", _NORMALIZE),
        )

    @property
    def _block(self) -> tuple[int, ...]:
        return cast("tuple[int, ...]", self.block_size)

    def _attributes(self, rank: int, shape: Shape | None) -> Attributes:
        return {
            "block_size": self._block,
            "channel_axis": arguments.channel_axis(self.data_format, rank),
            "shared_axes": self.shared_axes,
            "seed_region": int(_SEED_REGIONS[self.seed_region]),
            "normalize": int(_NORMALIZE[self.normalize]),
        }

    def _spatial(self, shape: Sequence[int | str | None]) -> tuple[int, ...]:
        """Return the sizes of the spatial axes, all of which must be known."""
        self.check_shape(shape)
        channel_axis = arguments.channel_axis(self.data_format, len(shape))
        spatial = []
        for axis, size in enumerate(shape):
            if axis in (0, channel_axis):
                continue
            if size is None or isinstance(size, str):
                raise ArgumentError(
                    f"{type(self).__name__}: spatial axis {axis} of shape {tuple(shape)} has no "
                    "known size; the realised rate depends on it"
                )
            spatial.append(int(size))
        return tuple(spatial)

    def _realised(self, rate: float, spatial: tuple[int, ...]) -> float:
        return rates.realised_rate(
            rate, self._block, spatial, whole=self.seed_region == SeedRegion.WHOLE.name.lower()
        )

    def realised_rate(self, shape: Sequence[int | str | None]) -> float:
        """Return the expected dropped fraction of data of this shape, exactly.

        Blocks overlap, so it differs from the nominal rate: below it with seeds where the block
        fits, possibly far above it with seeds on the whole map.

        Parameters
        ----------
        shape
            Shape of data; batch and channel may be unknown. A block larger than the map is
            clipped, axis by axis. On an empty map the result is 0.

        Raises
        ------
        ArgumentError
            Wrong rank, or a spatial size is unknown.

        Examples
        --------
        >>> from onnx_structdrop.specs import DropBlock2D
        >>> round(DropBlock2D(0.5, 7).realised_rate((1, 1, 28, 28)), 3)
        0.372
        """
        return self._realised(self.rate, self._spatial(shape))

    def calibrated(self, shape: Sequence[int | str | None]) -> Self:
        """Return a specification whose realised rate on this shape is the present nominal rate.

        Parameters
        ----------
        shape
            Shape of data; batch and channel may be unknown.

        Raises
        ------
        ArgumentError
            As `realised_rate`; or no rate below 1 drops that much, and then the message says how
            much is reachable.

        Examples
        --------
        >>> from onnx_structdrop.specs import DropBlock2D
        >>> spec = DropBlock2D(0.3, 7).calibrated((1, 1, 28, 28))
        >>> round(spec.rate, 3), round(spec.realised_rate((1, 1, 28, 28)), 3)
        (0.376, 0.3)
        """
        spatial = self._spatial(shape)
        if self.rate in (0.0, 1.0):
            return self
        rate = rates.calibrate(self.rate, lambda nominal: self._realised(nominal, spatial))
        if rate is None:
            reachable = self._realised(rates.LARGEST_RATIO, spatial)
            raise ArgumentError(
                f"{type(self).__name__}: rate {self.rate} cannot be realised on spatial size "
                f"{spatial} with block size {self._block}; the largest reachable rate below 1 is "
                f"{reachable:.6g}"
            )
        return self.with_rate(rate)
