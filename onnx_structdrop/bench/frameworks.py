"""The same operation in other frameworks, where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from onnx_structdrop.bench.cases import Call, Case, expected_of
from onnx_structdrop.bench.checks import check_dropout
from onnx_structdrop.specs import DropBlock2D, SpatialDropout2D

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx_structdrop.bench.tensors import Tensors
    from onnx_structdrop.specs.base import DropoutSpec

__all__ = ["FRAMEWORKS", "Frameworks", "find_frameworks"]

FRAMEWORKS = ("torch", "torchvision", "timm")
"""Frameworks that are looked for."""


class Frameworks(NamedTuple):
    """What was found: the cases, and for each framework its version or why it is missing."""

    cases: list[Case]
    versions: dict[str, str | None]
    problems: dict[str, str]


def find_frameworks(rate: float, block_size: int, threads: int, rank: int) -> Frameworks:
    """Import what is installed and return its cases.

    Parameters
    ----------
    rate, block_size
        What to drop.
    threads
        Threads that torch is set to.
    rank
        Rank of the data; the layers are for four axes.
    """
    versions: dict[str, str | None] = {}
    problems: dict[str, str] = {}
    modules: dict[str, Any] = {}
    for name in FRAMEWORKS:
        versions[name] = _version(name)
        if rank != 4:
            problems[name] = "its layers take data of four axes"
        elif importlib.util.find_spec(name) is None:
            problems[name] = "not installed"
        else:
            try:
                modules[name] = _imported("timm.layers" if name == "timm" else name)
            except Exception as error:  # noqa: BLE001 - a broken install raises anything
                first = str(error).partition("\n")[0]
                problems[name] = f"cannot be imported: {type(error).__name__}: {first}"
    if "torch" not in modules:
        return Frameworks([], versions, problems)
    torch = modules["torch"]
    torch.set_num_threads(threads)
    cases = [_dropout2d(torch, rate, threads)]
    if "torchvision" in modules:
        cases.append(_torchvision(modules["torchvision"], torch, rate, block_size, threads))
    if "timm" in modules:
        for couple in (True, False):
            cases.append(_timm(modules["timm"], torch, rate, block_size, threads, couple=couple))
    return Frameworks(cases, versions, problems)


def _imported(name: str) -> Any:
    if "torch" not in sys.modules:
        # The threads of OpenMP would spin for a while after each call, on others' time.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what frameworks warn of on import is not ours
        return importlib.import_module(name)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _dropout2d(torch: Any, rate: float, threads: int) -> Case:
    def apply(data: Any) -> Any:
        return torch.nn.functional.dropout2d(data, rate, training=True)

    return _case(
        "torch_dropout2d", "torch dropout2d", torch, apply, SpatialDropout2D(rate), threads
    )


def _torchvision(vision: Any, torch: Any, rate: float, block_size: int, threads: int) -> Case:
    def apply(data: Any) -> Any:
        return vision.ops.drop_block2d(data, rate, block_size, training=True)

    spec = DropBlock2D.torchvision(rate, block_size)
    return _case("torchvision", "torchvision drop_block2d", torch, apply, spec, threads)


def _timm(
    layers: Any, torch: Any, rate: float, block_size: int, threads: int, *, couple: bool
) -> Case:
    arguments: dict[str, Any] = {
        "drop_prob": rate, "block_size": block_size, "couple_channels": couple
    }  # fmt: skip
    layer = layers.DropBlock2d(**arguments).train()
    key, masks = ("timm", "one mask") if couple else ("timm_independent", "a mask per channel")
    spec = DropBlock2D.timm(**arguments)
    return _case(key, f"timm DropBlock2d, {masks}", torch, layer, spec, threads)


def _case(
    key: str,
    title: str,
    torch: Any,
    apply: Callable[[Any], Any],
    spec: DropoutSpec,
    threads: int,
) -> Case:
    def make(tensors: Tensors) -> Call:
        data = tensors.data("float32")
        tensor = torch.from_numpy(data)
        torch.manual_seed(0)
        last: list[Any] = [None]

        # These functions have no argument for the memory of their result.
        def run() -> None:
            with torch.inference_mode():
                last[0] = apply(tensor)
            if not checking[0]:
                last[0] = None

        checking = [True]

        def check() -> None:
            output = last[0].numpy()
            last[0], checking[0] = None, False
            check_dropout(title, data, output, expected_of(spec, data.shape))

        return Call(run, check)

    return Case(key, title, make, threads)
