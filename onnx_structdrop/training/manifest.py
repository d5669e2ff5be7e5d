"""What a folder of artifacts holds: the file structdrop.json."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Self

from onnx_structdrop.errors import ModelError, StructDropError
from onnx_structdrop.training.schedule import Schedule
from onnx_structdrop.training.sealing import check_sealed, write_sealed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "CHECKPOINT",
    "EVAL_MODEL",
    "FILES",
    "FORMAT",
    "MANIFEST",
    "OPTIMIZER_MODEL",
    "PARAMETERS",
    "STOCK_FORMAT",
    "TRAINING_MODEL",
    "Manifest",
    "Ratio",
    "TensorInfo",
]

FORMAT = 2
"""Version of the layout of the folder and of structdrop.json."""

STOCK_FORMAT = "stock-2"
"""What the manifest of `StockTrainer.save` names, so that nothing else takes it for artifacts."""

MANIFEST = "structdrop.json"
TRAINING_MODEL = "training_model.onnx"
EVAL_MODEL = "eval_model.onnx"
OPTIMIZER_MODEL = "optimizer_model.onnx"
CHECKPOINT = "checkpoint"
PARAMETERS = "parameters.npz"
"""All parameters by name, for runtimes that cannot read onnxruntime-training's checkpoint."""

FILES = (TRAINING_MODEL, EVAL_MODEL, OPTIMIZER_MODEL, CHECKPOINT, PARAMETERS)
"""What lies beside the manifest."""


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An input: its name, element type as numpy spells it, and sizes or names of free sizes."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Return what a manifest describes."""
        shape = config["shape"]
        return cls(config["name"], config["dtype"], None if shape is None else tuple(shape))


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A frozen parameter that drives the ratio of dropout nodes.

    Attributes
    ----------
    name
        Name of the parameter.
    rate
        The rate that its nodes were inserted with.
    stages
        Stage of each of its nodes, each once; None is no stage.
    nodes
        Names of the nodes.
    """

    name: str
    rate: float
    stages: tuple[int | None, ...]
    nodes: tuple[str, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Return what a manifest describes."""
        stages, nodes = tuple(config["stages"]), tuple(config["nodes"])
        return cls(config["name"], config["rate"], stages, nodes)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a folder of artifacts holds.

    Attributes
    ----------
    opset
        Of the models.
    loss, optimizer
        Names of them; "custom" where the caller gave a block of onnxruntime's.
    loss_name
        Output of training and eval model that is the loss, their first.
    outputs
        The model's own outputs, which come next.
    extra_outputs
        Values of the model that were asked for, which come last.
    loss_output
        The output that the loss compares with the labels.
    inputs
        Inputs of the data, in order.
    labels
        The input that comes last.
    trainable, frozen
        Names of the parameters that change in training, and of those that do not.
    ratios
        The frozen parameters that a schedule drives.
    classes
        Number of classes of the cross entropy, or what the model calls it.
    statistics
        Frozen parameters that the session replaces after each step, each with the output of the
        training model that holds the new value: running statistics of batch normalisation. These
        outputs come behind the others, in this order.
    schedule
        Drives the ratios; None leaves them as they are.
    steps
        Steps that were made with the checkpoint, in a folder of `TrainingSession.save`.
    """

    opset: int
    loss: str
    optimizer: str
    loss_name: str
    outputs: tuple[str, ...]
    extra_outputs: tuple[str, ...]
    loss_output: str
    inputs: tuple[TensorInfo, ...]
    labels: TensorInfo
    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    ratios: tuple[Ratio, ...]
    classes: int | str | None = None
    statistics: tuple[tuple[str, str], ...] = ()
    schedule: Schedule | None = None
    steps: int = 0

    def write(self, folder: Path) -> None:
        """Write the manifest of the files that lie in `folder`."""
        fields = dataclasses.asdict(dataclasses.replace(self, schedule=None))
        schedule = None if self.schedule is None else self.schedule.get_config()
        content = {"format": FORMAT, **fields, "schedule": schedule}
        write_sealed(folder / MANIFEST, content, FILES)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest of a folder and check that the folder is whole.

        Raises
        ------
        ModelError
            The folder or a file is missing, damaged, or of another version of this package.
        """
        config = _json(folder)
        try:
            fields = {field.name: config[field.name] for field in dataclasses.fields(cls)}
            for name in ("outputs", "extra_outputs", "trainable", "frozen"):
                fields[name] = tuple(fields[name])
            fields["statistics"] = tuple((name, value) for name, value in fields["statistics"])
            fields["inputs"] = tuple(map(TensorInfo.of, fields["inputs"]))
            fields["labels"] = TensorInfo.of(fields["labels"])
            fields["ratios"] = tuple(map(Ratio.of, fields["ratios"]))
            if fields["schedule"] is not None:
                fields["schedule"] = Schedule.from_config(fields["schedule"])
            manifest = cls(**fields)
        except (KeyError, TypeError, ValueError, AttributeError, StructDropError) as error:
            raise ModelError(
                f"{folder / MANIFEST} is damaged ({type(error).__name__}: {error}); "
                "make the artifacts again"
            ) from error
        check_sealed(folder / MANIFEST, config, FILES)
        return manifest


def _json(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder; generate_artifacts makes one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} holds no {MANIFEST}, so it is no folder of artifacts of this package; "
            "generate_artifacts makes one"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found == STOCK_FORMAT:
        raise ModelError(
            f"{folder} holds a training that StockTrainer saved: StockTrainer.resume goes on with "
            "it, and finish takes what that returns"
        )
    if found != FORMAT:
        raise ModelError(
            f"{path} has format {found!r}, this version of onnx_structdrop reads {FORMAT}: "
            "make the artifacts again, or use the version that made them"
        )
    return dict(content)
