"""DropBlock: contiguous blocks of feature maps are dropped.

Source: Ghiasi et al., "DropBlock: A regularization method for convolutional networks",
arXiv:1810.12890.
"""

from __future__ import annotations

from typing import ClassVar, Self

from onnx_structdrop.errors import ArgumentError
from onnx_structdrop.specs import arguments
from onnx_structdrop.specs.dropblock_base import DropBlock

__all__ = ["DropBlock1D", "DropBlock2D", "DropBlock3D"]


def _torchvision_arguments(owner: str, p: float, block_size: int) -> tuple[float, int]:
    """Check the arguments by the rules of torchvision, under its names."""
    rate = arguments.rate(p, owner, "p")
    size = arguments.integer(block_size, owner, "block_size")
    if size % 2 == 0:
        raise ArgumentError(f"{owner}: block_size is {size}; torchvision allows an odd one only")
    return rate, size


class DropBlock1D(DropBlock):
    """Drop contiguous spans of each channel of a sequence.

    Parameters
    ----------
    rate
        Nominal dropped fraction. Spans overlap; see `realised_rate` and `calibrated`.
    block_size
        Length of a span.
    seed
        Seed of the random stream; None lets insertion draw one.
    data_format
        ``"channels_first"``: data is (N, C, L); ``"channels_last"``: (N, L, C).
    shared_axes, seed_region, normalize
        As in `DropBlock2D`.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        An argument has the wrong type, or a value that is not allowed.
    """

    spatial_rank: ClassVar[int] = 1


class DropBlock2D(DropBlock):
    """Drop contiguous blocks of each feature map.

    Parameters
    ----------
    rate
        Nominal dropped fraction. Blocks overlap; see `realised_rate` and `calibrated`. Rate 1
        drops everything.
    block_size
        Size of a block: one integer, or one per spatial axis. Even sizes are allowed. A block
        larger than the map is clipped, axis by axis.
    seed
        Seed of the random stream; None lets insertion draw one.
    data_format
        ``"channels_first"``: data is (N, C, H, W); ``"channels_last"``: (N, H, W, C).
    shared_axes
        Axes along which one mask is shared: the batch axis 0, the channel axis, or both.
    seed_region
        ``"valid"``: blocks start only where they fit; ``"whole"``: anywhere, clipped at the edges.
    normalize
        What kept values are rescaled over: ``"batch"``: the tensor, as in the paper;
        ``"sample"``: each sample by itself, so that it does not depend on its neighbours;
        ``"none"``: no rescaling.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        An argument has the wrong type, or a value that is not allowed.

    Examples
    --------
    >>> from onnx_structdrop.specs import DropBlock2D
    >>> DropBlock2D(0.1, (5, 3), shared_axes=(1,))  # doctest: +NORMALIZE_WHITESPACE
    DropBlock2D(rate=0.1, block_size=(5, 3), seed=None, data_format='channels_first',
                shared_axes=(1,), seed_region='valid', normalize='batch')
    """

    spatial_rank: ClassVar[int] = 2

    @classmethod
    def torchvision(
        cls,
        p: float,
        block_size: int,
        inplace: bool = False,
        eps: float = 1e-6,
    ) -> Self:
        """Build from the arguments of ``torchvision.ops.DropBlock2d``.

        Parameters
        ----------
        p
            Rate.
        block_size
            Size of a block, odd.
        inplace, eps
            Accepted and without effect: a graph has no in-place operation, and the kept values
            are counted exactly, so that no term is needed against a division by zero.

        Raises
        ------
        ArgumentTypeError, ArgumentError
            As the constructor; or `block_size` is even.

        Notes
        -----
        On a map smaller than the block, torchvision clips the block to the shorter side in every
        axis, and fails if that side is even; here each axis is clipped by itself. At ``p = 1``
        torchvision leaves something; here everything is dropped.
        """
        return cls(*_torchvision_arguments(cls.__name__, p, block_size))

    @classmethod
    def timm(
        cls,
        drop_prob: float = 0.1,
        block_size: int = 7,
        gamma_scale: float = 1.0,
        with_noise: bool = False,
        inplace: bool = False,
        couple_channels: bool = True,
        scale_by_keep: bool = True,
    ) -> Self:
        """Build from the arguments of ``timm.layers.DropBlock2d``.

        Parameters
        ----------
        drop_prob, gamma_scale
            Their product is the rate, since the seed probability is linear in both.
        block_size
            Size of a block.
        with_noise
            Must be False: filling blocks with noise is not dropout.
        inplace
            Accepted and without effect.
        couple_channels
            Whether one mask serves all channels.
        scale_by_keep
            Whether kept values are rescaled over the batch.

        Raises
        ------
        ArgumentTypeError, ArgumentError
            As the constructor; `with_noise` is set; or the product exceeds 1.

        Notes
        -----
        timm lets a block start anywhere on the map but computes the seed probability as if it had
        to fit, and so drops far more than `drop_prob` where the block is large; `calibrated`
        corrects it. At rate 1 timm can leave something; here everything is dropped.
        """
        name = cls.__name__
        if arguments.flag(with_noise, name, "with_noise"):
            raise ArgumentError(f"{name}: with_noise is True; only False is supported")
        probability = arguments.rate(drop_prob, name, "drop_prob")
        rate = probability * arguments.number(gamma_scale, name, "gamma_scale")
        if not 0 <= rate <= 1:
            raise ArgumentError(
                f"{name}: drop_prob * gamma_scale is {rate:g}; the product is the rate, and "
                "allowed is a number from 0 to 1"
            )
        return cls(
            rate,
            block_size,
            shared_axes=(1,) if arguments.flag(couple_channels, name, "couple_channels") else (),
            seed_region="whole",
            normalize="batch" if arguments.flag(scale_by_keep, name, "scale_by_keep") else "none",
        )

    @classmethod
    def keras_cv(
        cls, rate: float, block_size: int | tuple[int, int], seed: int | None = None
    ) -> Self:
        """Build from the arguments of ``keras_cv.layers.DropBlock2D``; data is (N, H, W, C).

        Parameters
        ----------
        rate, block_size, seed
            As in the constructor.

        Raises
        ------
        ArgumentTypeError, ArgumentError
            As the constructor.

        Notes
        -----
        keras-cv does not clip the block: on a smaller map it gives NaN or a wrong rate. On maps
        that are not square it never drops some of the rows. Both are not repeated here.
        """
        return cls(rate, block_size, seed=seed, data_format="channels_last")


class DropBlock3D(DropBlock):
    """Drop contiguous blocks of each channel of a volume.

    Parameters
    ----------
    rate
        Nominal dropped fraction. Blocks overlap; see `realised_rate` and `calibrated`.
    block_size
        Size of a block: one integer, or one per spatial axis.
    seed
        Seed of the random stream; None lets insertion draw one.
    data_format
        ``"channels_first"``: data is (N, C, D, H, W); ``"channels_last"``: (N, D, H, W, C).
    shared_axes, seed_region, normalize
        As in `DropBlock2D`.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        An argument has the wrong type, or a value that is not allowed.
    """

    spatial_rank: ClassVar[int] = 3

    @classmethod
    def torchvision(
        cls,
        p: float,
        block_size: int,
        inplace: bool = False,
        eps: float = 1e-6,
    ) -> Self:
        """Build from the arguments of ``torchvision.ops.DropBlock3d``.

        Parameters, errors and differences are those of `DropBlock2D.torchvision`.
        """
        return cls(*_torchvision_arguments(cls.__name__, p, block_size))
