"""Jobs in processes of their own, so that what one leaves behind in memory slows no other.

Python's heap stays in pieces once a tool has made and dropped millions of objects: whatever runs
after it in the same process takes up to a tenth longer.
"""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

__all__ = ["Worker", "seconds"]


class Worker:
    """A process that runs a job whenever it is called; the call returns the seconds it took.

    Parameters
    ----------
    make : callable
        Makes the job, in the process. It has to be importable.
    *arguments
        What it is given.
    """

    def __init__(self, make: Callable[..., Callable[[], object]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self) -> float:
        """Run the job once and return its seconds."""
        self._pipe.send(True)
        return float(self._pipe.recv())

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(False)
        self._process.join()


def _serve(
    pipe: Connection, make: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]
) -> None:
    job = make(*arguments)
    while pipe.recv():
        pipe.send(seconds(job))


def seconds(job: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return what a job takes; ``job.prepare``, if there is one, is called before."""
    getattr(job, "prepare", int)()
    gc.collect()
    with contextlib.redirect_stdout(io.StringIO()):
        started = clock()
        job()
        return clock() - started
