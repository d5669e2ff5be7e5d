"""Spatial dropout: whole feature maps are dropped.

Source: Tompson et al., "Efficient Object Localization Using Convolutional Networks",
arXiv:1411.4280.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.specs import arguments
from onnx_structdrop.specs.base import Attributes, DropoutSpec
from onnx_structdrop.specs.config import constructor_arguments

if TYPE_CHECKING:
    from onnx_structdrop.specs.arguments import Shape

__all__ = ["SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"]


@dataclass(frozen=True)
class _SpatialDropout(DropoutSpec):
    """Fields and behaviour that do not depend on the number of spatial axes."""

    rate: float
    seed: int | None = None
    data_format: str = "channels_first"

    op_type: ClassVar[str] = "SpatialDropout"

    def __post_init__(self) -> None:
        self._check_common()
        self._set(
            data_format=arguments.choice(
                self.data_format, type(self).__name__, "data_format", arguments.DATA_FORMATS
            )
        )

    def _attributes(self, rank: int, shape: Shape | None) -> Attributes:
        return {"channel_axis": arguments.channel_axis(self.data_format, rank)}

    @classmethod
    def _from_keras(cls, config: float | Mapping[str, Any], **given: object) -> Self:
        given = {name: value for name, value in given.items() if value is not None}
        if isinstance(config, Mapping):
            if given:
                raise ArgumentError(
                    f"{cls.__name__}: {', '.join(given)} given beside a configuration, "
                    "which holds every argument"
                )
        else:
            config = {"rate": config, **given}
        return cls(**constructor_arguments(config, cls.__name__, cls._field_names(), keras=True))


class SpatialDropout1D(_SpatialDropout):
    """Drop whole channels of a sequence.

    Parameters
    ----------
    rate
        Probability that a channel of a sample is dropped.
    seed
        Seed of the random stream; None lets insertion draw one.
    data_format
        ``"channels_first"``: data is (N, C, L); ``"channels_last"``: (N, L, C).

    Raises
    ------
    ArgumentTypeError, ArgumentError
        An argument has the wrong type, or a value that is not allowed.

    Notes
    -----
    Same as ``torch.nn.Dropout1d``, and as keras ``SpatialDropout1D``, which is channels_last.
    """

    spatial_rank: ClassVar[int | None] = 1

    @classmethod
    def keras(cls, rate: float | Mapping[str, Any], seed: int | None = None) -> Self:
        """Build from the arguments of keras ``SpatialDropout1D``, or from its configuration.

        The layer knows only data of shape (N, L, C).

        Parameters
        ----------
        rate
            Rate, or the mapping that the layer's ``get_config()`` returns.
        seed
            As in the constructor.

        Raises
        ------
        ArgumentTypeError, ArgumentError
            As the constructor; or an unknown entry in the configuration.
        """
        return cls._from_keras(rate, seed=seed)


class SpatialDropout2D(_SpatialDropout):
    """Drop whole feature maps of an image.

    Parameters
    ----------
    rate
        Probability that a channel of a sample is dropped.
    seed
        Seed of the random stream; None lets insertion draw one.
    data_format
        ``"channels_first"``: data is (N, C, H, W); ``"channels_last"``: (N, H, W, C).

    Raises
    ------
    ArgumentTypeError, ArgumentError
        An argument has the wrong type, or a value that is not allowed.

    Notes
    -----
    Same as ``torch.nn.Dropout2d`` and keras ``SpatialDropout2D``; the latter is channels_last
    unless told otherwise.

    Examples
    --------
    >>> from onnx_structdrop.specs import SpatialDropout2D
    >>> SpatialDropout2D(0.2).node_attributes(4)
    {'channel_axis': 1}
    """

    spatial_rank: ClassVar[int | None] = 2

    @classmethod
    def keras(
        cls,
        rate: float | Mapping[str, Any],
        data_format: str | None = None,
        seed: int | None = None,
    ) -> Self:
        """Build from the arguments of keras ``SpatialDropout2D``, or from its configuration.

        Parameters
        ----------
        rate
            Rate, or the mapping that the layer's ``get_config()`` returns.
        data_format
            As in the constructor; None means ``"channels_last"``.
        seed
            As in the constructor.

        Raises
        ------
        ArgumentTypeError, ArgumentError
            As the constructor; or an unknown entry in the configuration.

        Examples
        --------
        >>> from onnx_structdrop.specs import SpatialDropout2D
        >>> SpatialDropout2D.keras({"name": "drop", "dtype": "float32", "rate": 0.2, "seed": 3})
        SpatialDropout2D(rate=0.2, seed=3, data_format='channels_last')
        """
        return cls._from_keras(rate, data_format=data_format, seed=seed)


class SpatialDropout3D(_SpatialDropout):
    """Drop whole feature maps of a volume.

    Parameters
    ----------
    rate
        Probability that a channel of a sample is dropped.
    seed
        Seed of the random stream; None lets insertion draw one.
    data_format
        ``"channels_first"``: data is (N, C, D, H, W); ``"channels_last"``: (N, D, H, W, C).

    Raises
    ------
    ArgumentTypeError, ArgumentError
        An argument has the wrong type, or a value that is not allowed.

    Notes
    -----
    Same as ``torch.nn.Dropout3d`` and keras ``SpatialDropout3D``; the latter is channels_last
    unless told otherwise.
    """

    spatial_rank: ClassVar[int | None] = 3

    @classmethod
    def keras(
        cls,
        rate: float | Mapping[str, Any],
        data_format: str | None = None,
        seed: int | None = None,
    ) -> Self:
        """Build from the arguments of keras ``SpatialDropout3D``, or from its configuration.

        Parameters
        ----------
        rate
            Rate, or the mapping that the layer's ``get_config()`` returns.
        data_format
            As in the constructor; None means ``"channels_last"``.
        seed
            As in the constructor.

        Raises
        ------
        ArgumentTypeError, ArgumentError
            As the constructor; or an unknown entry in the configuration.
        """
        return cls._from_keras(rate, data_format=data_format, seed=seed)
