"""Several processes that train one model: local steps, and the mean of the parameters.

Local SGD, also known as federated averaging where every rank has data of its own: S. U. Stich,
"Local SGD Converges Fast and Communicates Little", ICLR 2019; H. B. McMahan et al.,
"Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017. The
ranks talk by torch.distributed over gloo and are started by torchrun.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib
import math
import os
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from onnx_structdrop.errors import (
    ArgumentError,
    ArgumentTypeError,
    DependencyError,
    OutputError,
    TrainingError,
)
from onnx_structdrop.specs import arguments
from onnx_structdrop.training.session import TrainingSession

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from onnx_structdrop.training.artifacts import Artifacts
    from onnx_structdrop.training.feeds import Evaluation
    from onnx_structdrop.training.schedule import Schedule

__all__ = ["LocalSGD"]

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class LocalSGD:
    """A rank of several that train one model.

    Every rank makes steps of its own, on batches of its own and with masks of its own. After every
    `every` of them, all ranks take the mean of their parameters; with ``every=1`` that is
    data-parallel training with an optimizer per rank. All ranks have to make the same number of
    steps.

    - Trainable parameters and running statistics of batch normalisation are averaged. The mean
      of the variances leaves out how the means differ between ranks, which is small where the
      ranks' data are alike.
    - The optimizer's moments stay with each rank: onnxruntime hands them to nobody.
    - Ratios follow the schedule, equally on all ranks, since each counts the steps.

    Parameters
    ----------
    artifacts
        As `TrainingSession` takes it, on every rank; a folder of `save` is gone on with.
    every
        Steps between two means.
    checkpoint
        Folder that rank 0 writes after each mean, whole or not at all. It has the mean and rank
        0's moments, with which all ranks begin when they go on from it.
    seed
        Rank ``r`` draws the masks of ``reseed(model, seed + r)``.
    threads
        Of onnxruntime, on each rank. None shares the processors among the ranks of a machine.
    timeout
        Seconds after which a rank that does not answer counts as lost.
    native, schedule, learning_rate
        As `TrainingSession` takes them.

    Raises
    ------
    DependencyError
        torch or onnxruntime-training is not installed.
    ArgumentError, ArgumentTypeError
        An argument is out of range, or the process was not started by torchrun.
    TrainingError
        The ranks do not find each other.

    Examples
    --------
    In a script that is started by ``torchrun --nproc-per-node 2 script.py``:

    >>> with LocalSGD("artifacts", every=8, checkpoint="run") as rank:  # doctest: +SKIP
    ...     for images, labels in batches[rank.rank :: rank.size]:
    ...         loss = rank.step(images, labels)
    """

    def __init__(
        self,
        artifacts: Artifacts | str | os.PathLike[str],
        *,
        every: int = 8,
        checkpoint: str | os.PathLike[str] | None = None,
        native: bool | str = "auto",
        threads: int | None = None,
        schedule: Schedule | None = None,
        learning_rate: float | None = None,
        seed: int = 0,
        timeout: float = 300.0,
    ) -> None:
        self._every = _positive_count(every)
        self._checkpoint = checkpoint
        base = arguments.seed(seed, "LocalSGD")
        if base is None:
            raise ArgumentTypeError("LocalSGD: seed must be an integer, not None")
        wait = datetime.timedelta(seconds=_positive(timeout))
        self._torch = _torch()
        self._rank, self._size = _place()
        # The session first: what it refuses, no other rank has to wait for.
        self._session = TrainingSession(
            artifacts,
            native=native,
            threads=threads or _share_of_processors(),
            schedule=schedule,
            learning_rate=learning_rate,
            seed=base + self._rank,
        )
        with self._others():
            self._torch.distributed.init_process_group("gloo", timeout=wait)
        try:
            self._begin_equal()
        except BaseException:
            self.close()
            raise

    @property
    def rank(self) -> int:
        """Number of this rank, from 0."""
        return self._rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self._size

    @property
    def session(self) -> TrainingSession:
        """The training of this rank."""
        return self._session

    def step(self, inputs: Any, labels: Any) -> float:
        """Make a step on a batch of this rank and return its loss; average where it is time.

        Raises
        ------
        TrainingError
            A rank was lost, or rank 0 could not write the checkpoint. The last one is intact.
        """
        loss = self._session.step(inputs, labels)
        if self._session.steps % self._every == 0:
            self.average()
            if self._checkpoint is not None:
                self.save(self._checkpoint)
        return loss

    def evaluate(self, inputs: Any, labels: Any) -> Evaluation:
        """Run the evaluation model of this rank, see `TrainingSession.evaluate`."""
        return self._session.evaluate(inputs, labels)

    def average(self) -> None:
        """Give every rank the mean of all ranks' parameters and running statistics.

        Raises
        ------
        TrainingError
            A rank was lost.
        """
        names = self._shared()
        values = self._session.parameters
        total = self._reduced(np.concatenate([values[name].ravel() for name in names]))
        self._assign(values, total / np.float32(self._size))

    def mean(self, value: float) -> float:
        """Return the mean of a number over all ranks, such as a loss; all have to ask for it.

        Raises
        ------
        TrainingError
            A rank was lost.
        """
        return float(self._reduced(np.asarray([value], np.float64))[0]) / self._size

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Have rank 0 write a folder to go on from; the others wait for it.

        Raises
        ------
        OutputError
            On rank 0: the folder cannot be written.
        TrainingError
            On the others: rank 0 could not write it, or was lost.
        """
        failure: OutputError | None = None
        if self._rank == 0:
            try:
                self._session.save(directory)
            except OutputError as error:
                failure = error
        written = self._reduced(np.asarray([failure is not None], np.float64))[0] == 0
        if failure is not None:
            raise failure
        if not written:
            raise TrainingError(f"rank 0 could not write {os.fspath(directory)}; it says why")

    def close(self) -> None:
        """Leave the ranks."""
        distributed = self._torch.distributed
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _shared(self) -> list[str]:
        manifest = self._session.manifest
        return [*manifest.trainable, *(name for name, _ in manifest.statistics)]

    def _begin_equal(self) -> None:
        """Give every rank the parameters of rank 0, and check that all are at one step."""
        values = self._session.parameters
        flat = np.concatenate([values[name].ravel() for name in self._shared()])
        place = np.asarray([self._session.steps, flat.size, *self._agreed()], np.float64)
        if not np.array_equal(self._reduced(place), place * self._size):
            raise TrainingError(
                f"rank {self._rank} is at step {self._session.steps} with {flat.size} numbers, and "
                "another rank is not, or differs in the manifest, schedule or `every`: give all "
                "ranks the same artifacts and arguments"
            )
        self._assign(values, self._reduced(flat if self._rank == 0 else np.zeros_like(flat)))

    def _agreed(self) -> list[int]:
        """Return what has to be equal on all ranks, as integers that a float64 holds."""
        text = f"{self._every} {self._session.manifest!r}"
        content = hashlib.sha256(text.encode()).digest()
        return [int.from_bytes(content[start : start + 4]) for start in range(0, 16, 4)]

    def _assign(self, values: dict[str, np.ndarray], flat: np.ndarray) -> None:
        names = self._shared()
        ends = np.cumsum([values[name].size for name in names])[:-1]
        parts = zip(names, np.split(flat, ends), strict=True)
        self._session.assign({name: part.reshape(values[name].shape) for name, part in parts})

    def _reduced(self, array: np.ndarray) -> np.ndarray:
        """Return the sum over all ranks, which is the same bits on each."""
        tensor = self._torch.from_numpy(array.copy())
        with self._others():
            self._torch.distributed.all_reduce(tensor)
        summed: np.ndarray = tensor.numpy()
        return summed

    @contextlib.contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise TrainingError(
                f"rank {self._rank} of {self._size} does not reach the others, one may have died: "
                f"{reason[:200]}"
            ) from error


def _torch() -> Any:
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("torch.distributed")
    except ImportError as error:
        raise DependencyError(
            f"training on several ranks needs torch: pip install torch==2.13.0 ({error})"
        ) from error
    return torch


def _place() -> tuple[int, int]:
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing:
        raise ArgumentError(
            f"the environment lacks {', '.join(missing)}: start the script with "
            "torchrun --nproc-per-node N script.py"
        )
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except ValueError as error:
        raise ArgumentError(f"RANK and WORLD_SIZE of the environment: {error}") from error
    if not 0 <= rank < size:
        raise ArgumentError(f"RANK is {rank}; allowed is 0 to WORLD_SIZE - 1, {size - 1}")
    return rank, size


def _share_of_processors() -> int:
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    return max(1, (os.cpu_count() or 1) // ranks)


def _positive_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(f"LocalSGD: every must be an integer, not {value!r}")
    if value < 1:
        raise ArgumentError(f"LocalSGD: every is {value}; allowed is 1 or more")
    return value


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(f"LocalSGD: timeout must be a number of seconds, not {value!r}")
    if not 0 < value < math.inf:
        raise ArgumentError(f"LocalSGD: timeout is {value}; allowed is a positive number")
    return float(value)
