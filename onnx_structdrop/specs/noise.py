"""Dropout with a noise shape, and its special case DropPath."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.specs import arguments
from onnx_structdrop.specs.base import Attributes, DropoutSpec
from onnx_structdrop.specs.config import constructor_arguments

if TYPE_CHECKING:
    from onnx_structdrop.specs.arguments import Shape

__all__ = ["DropPath", "Dropout"]

_SHARED, _OWN = 1, 0
"""The two words of the operator's attribute ``noise_shape``."""


@dataclass(frozen=True)
class Dropout(DropoutSpec):
    """Drop elements, sharing one decision along chosen axes.

    Parameters
    ----------
    rate
        Probability that an element of the mask is dropped.
    noise_shape
        Shape of the mask, by the rules of keras: 1 shares a decision along the axis, None takes
        the input's own size. A size is allowed where it is known to equal the input's. With
        fewer entries than data has axes, they are the last axes, and the others are shared. None
        as a whole drops each element by itself.
    seed
        Seed of the random stream; None lets insertion draw one.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        An argument has the wrong type, or a value that is not allowed.

    Notes
    -----
    Follows keras ``Dropout``. There, None in a noise shape with fewer entries than data has axes
    takes the size of a *leading* axis but applies to a *trailing* one, and fails unless the two
    happen to agree; here `node_attributes` refuses it.

    Examples
    --------
    >>> from onnx_structdrop.specs import Dropout
    >>> Dropout(0.1, noise_shape=(None, 1, 8)).node_attributes(3, (None, 5, 8))
    {'noise_shape': (0, 1, 0), 'scale_by_keep': 1}
    """

    rate: float
    noise_shape: tuple[int | None, ...] | None = None
    seed: int | None = None

    op_type: ClassVar[str] = "NoiseShapeDropout"

    def __post_init__(self) -> None:
        self._check_common()
        self._set(noise_shape=arguments.noise_shape(self.noise_shape, type(self).__name__))

    def _attributes(self, rank: int, shape: Shape | None) -> Attributes:
        if self.noise_shape is None:
            return {"noise_shape": (_OWN,) * rank, "scale_by_keep": 1}
        missing = rank - len(self.noise_shape)
        if missing < 0:
            raise ArgumentError(
                f"Dropout: noise_shape {self.noise_shape} has {len(self.noise_shape)} entries; "
                f"data has rank {rank}"
            )
        if missing and None in self.noise_shape:
            raise ArgumentError(
                f"Dropout: noise_shape {self.noise_shape} has an entry None and fewer entries than "
                f"data of rank {rank}, which keras reads from both ends; give all {rank} entries"
            )
        resolved = (_SHARED,) * missing + tuple(
            self._resolve(axis, entry, shape)
            for axis, entry in enumerate(self.noise_shape, start=missing)
        )
        return {"noise_shape": resolved, "scale_by_keep": 1}

    @staticmethod
    def _resolve(axis: int, entry: int | None, shape: Shape | None) -> int:
        if entry is None:
            return _OWN
        if entry == 1:
            return _SHARED
        found = None if shape is None else shape[axis]
        if found == entry:
            return _OWN
        size = f"of size {found}" if isinstance(found, int) else "whose size is not known"
        raise ArgumentError(
            f"Dropout: noise_shape entry {entry} meets axis {axis}, {size}; allowed there is "
            "1 (shared), None (the input's own size) or that size"
        )

    @classmethod
    def keras(
        cls,
        rate: float | Mapping[str, Any],
        noise_shape: Iterable[int | None] | None = None,
        seed: int | None = None,
    ) -> Self:
        """Build from the arguments of keras ``Dropout``, or from its configuration.

        Parameters
        ----------
        rate
            Rate, or the mapping that the layer's ``get_config()`` returns.
        noise_shape, seed
            As in the constructor.

        Raises
        ------
        ArgumentTypeError, ArgumentError
            As the constructor; or an unknown entry in the configuration.
        """
        if not isinstance(rate, Mapping):
            return cls(rate, cast("tuple[int | None, ...] | None", noise_shape), seed)
        if noise_shape is not None or seed is not None:
            raise ArgumentError(
                "Dropout: noise_shape or seed given beside a configuration, which holds every "
                "argument"
            )
        return cls(**constructor_arguments(rate, cls.__name__, cls._field_names(), keras=True))


@dataclass(frozen=True)
class DropPath(DropoutSpec):
    """Drop whole samples, as on the residual branch of a block (stochastic depth).

    Parameters
    ----------
    rate
        Probability that a sample is dropped.
    seed
        Seed of the random stream; None lets insertion draw one.
    scale_by_keep
        Whether kept samples are scaled by ``1 / (1 - rate)``.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        An argument has the wrong type, or a value that is not allowed.

    Notes
    -----
    Data is (N, ...), of any rank from 1 up. Same as timm and keras-cv ``DropPath``, and as
    torchvision ``StochasticDepth(mode="row")``. Source: Huang et al., "Deep Networks with
    Stochastic Depth", arXiv:1603.09382.

    Examples
    --------
    >>> from onnx_structdrop.specs import DropPath
    >>> DropPath(0.2).node_attributes(4)
    {'noise_shape': (0, 1, 1, 1), 'scale_by_keep': 1}
    """

    rate: float
    seed: int | None = None
    scale_by_keep: bool = True

    op_type: ClassVar[str] = "NoiseShapeDropout"

    def __post_init__(self) -> None:
        self._check_common()
        self._set(
            scale_by_keep=arguments.flag(self.scale_by_keep, type(self).__name__, "scale_by_keep")
        )

    def _attributes(self, rank: int, shape: Shape | None) -> Attributes:
        return {
            "noise_shape": (_OWN,) + (_SHARED,) * (rank - 1),
            "scale_by_keep": int(self.scale_by_keep),
        }
