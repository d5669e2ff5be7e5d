"""What every dropout specification offers."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.specs import arguments
from onnx_structdrop.specs.config import constructor_arguments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Attributes", "DropoutSpec"]

Attributes = dict[str, int | tuple[int, ...]]
"""Attributes of a node, by name."""


class DropoutSpec(ABC):
    """What to drop, and how often: the base class of the specifications.

    Subclasses are frozen dataclasses. Their arguments are checked on construction and kept as
    plain Python objects, so that specifications compare and hash by meaning.

    Attributes
    ----------
    rate : float
        Fraction to drop, from 0 to 1. It is written as a float32 input of the node.
    seed : int or None
        Seed of the random stream; None lets insertion draw one.
    """

    op_type: ClassVar[str]
    """Operator that this specification is inserted as."""

    spatial_rank: ClassVar[int | None] = None
    """Number of spatial axes; data then has two axes more. None where any rank will do."""

    rate: float
    seed: int | None

    def _set(self, **values: object) -> None:
        """Store normalised arguments; the dataclass is frozen for everybody else."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_common(self) -> None:
        name = type(self).__name__
        self._set(rate=arguments.rate(self.rate, name), seed=arguments.seed(self.seed, name))

    def _check_rank(self, rank: int) -> int:
        needed = None if self.spatial_rank is None else self.spatial_rank + 2
        return arguments.rank(rank, type(self).__name__, needed)

    @abstractmethod
    def _attributes(self, rank: int, shape: arguments.Shape | None) -> Attributes:
        """Return the attributes for data of a checked rank."""

    def node_attributes(
        self, rank: int, shape: Sequence[int | str | None] | None = None
    ) -> Attributes:
        """Return everything written on the node but ``training_mode`` and ``seed``.

        Every attribute is spelled out, defaults as well.

        Parameters
        ----------
        rank
            Rank of data.
        shape
            Shape of data, where known: a size, a symbolic name or None per axis. Only `Dropout`
            with sizes in its noise shape needs it.

        Returns
        -------
        dict
            Attribute name to integer or tuple of integers.

        Raises
        ------
        ArgumentError
            The specification does not apply to data of this rank or shape.

        Examples
        --------
        >>> from onnx_structdrop.specs import SpatialDropout2D
        >>> SpatialDropout2D(0.1, data_format="channels_last").node_attributes(4)
        {'channel_axis': 3}
        """
        rank = self._check_rank(rank)
        if shape is None:
            return self._attributes(rank, None)
        name = type(self).__name__
        full = arguments.full_shape(shape, name)
        if len(full) != rank:
            raise ArgumentError(f"{name}: shape {full} does not have rank {rank}")
        return self._attributes(rank, full)

    def check_shape(self, shape: Sequence[int | str | None]) -> None:
        """Check that the specification applies to data of this shape.

        Parameters
        ----------
        shape
            A size, a symbolic name or None per axis.

        Raises
        ------
        ArgumentError
            It does not; the message says what was found and what is needed.
        """
        full = arguments.full_shape(shape, type(self).__name__)
        self.node_attributes(len(full), full)

    def realised_rate(self, shape: Sequence[int | str | None]) -> float:
        """Return the expected dropped fraction of data of this shape.

        It is the rate itself, except for DropBlock, whose blocks overlap.

        Parameters
        ----------
        shape
            Shape of data. Sizes that have no influence, such as the batch, may be unknown.

        Raises
        ------
        ArgumentError
            The specification does not apply to this shape, or a size that matters is unknown.
        """
        self.check_shape(shape)
        return self.rate

    def calibrated(self, shape: Sequence[int | str | None]) -> Self:
        """Return a specification whose realised rate on this shape is the present nominal rate.

        Parameters
        ----------
        shape
            Shape of data. Sizes that have no influence, such as the batch, may be unknown.

        Raises
        ------
        ArgumentError
            As `realised_rate`; or no rate below 1 drops that much.
        """
        self.check_shape(shape)
        return self

    def with_rate(self, rate: float) -> Self:
        """Return this specification with another rate."""
        return cast("Self", dataclasses.replace(cast("Any", self), rate=rate))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments as plain data that JSON can hold.

        Examples
        --------
        >>> from onnx_structdrop.specs import SpatialDropout2D
        >>> SpatialDropout2D(0.1).get_config()
        {'rate': 0.1, 'seed': None, 'data_format': 'channels_first'}
        """
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name in self._field_names()
            for value in (getattr(self, name),)
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build a specification from `get_config`, or from the configuration of a keras layer.

        A configuration with any of the entries ``name``, ``trainable``, ``dtype`` and
        ``batch_input_shape`` is taken for a keras layer's: these entries are ignored, and a
        missing ``data_format`` means ``channels_last``, as it does in keras.

        Raises
        ------
        ArgumentTypeError
            `config` is not a mapping, or an entry has the wrong type.
        ArgumentError
            An unknown or missing entry, or a value that the constructor refuses.
        """
        return cls(**constructor_arguments(config, cls.__name__, cls._field_names()))

    @classmethod
    def _field_names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in dataclasses.fields(cast("Any", cls)))
