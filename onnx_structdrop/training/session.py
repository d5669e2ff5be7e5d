"""Training in onnxruntime-training: steps, evaluation, checkpoints."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnx

from onnx_structdrop import native as kernels
from onnx_structdrop.errors import (
    ArgumentError,
    ModelError,
    NativeLibraryError,
    TrainingError,
)
from onnx_structdrop.training import manifest as files
from onnx_structdrop.training.artifacts import Artifacts, write_parameters
from onnx_structdrop.training.calls import (
    as_tuple,
    load_state,
    runtime_errors,
    session_options,
    write_errors,
)
from onnx_structdrop.training.checks import (
    checked_rate,
    checked_values,
    ratios_at,
    with_schedule,
)
from onnx_structdrop.training.feeds import Evaluation
from onnx_structdrop.training.folders import absolute, new_folder
from onnx_structdrop.training.runtime import training_api
from onnx_structdrop.training.streams import begin_at, reseeded
from onnx_structdrop.training.trainer import Trainer

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from onnx_structdrop.training.schedule import Schedule

__all__ = ["TrainingSession"]

_ERRORS = 3  # onnxruntime's number for messages that are no warnings

_STEP = "structdrop.step"
_NATIVE = "structdrop.native"
_RATE = "structdrop.learning_rate"


class TrainingSession(Trainer):
    """A model in training, in onnxruntime-training.

    Each step first sets the ratios that the schedule asks for, then runs forward and backward,
    then the optimizer.

    Parameters
    ----------
    artifacts
        A folder of `generate_artifacts`, or of `save`: then training goes on where it was saved.
    native
        True runs the dropout nodes in the native kernels, False as functions; "auto" takes the
        kernels where they are available, and in a folder of `save` what was used before.
    threads
        Of onnxruntime, for each operator; None leaves it the choice.
    schedule
        In place of the artifacts' own. It has to do with the ratios that are there: nodes share
        one unless the artifacts were made with factors.
    learning_rate
        None keeps the saved one, or the optimizer's default, 0.001.
    seed
        Gives the nodes new seeds, as `reseed` does; for ranks that train together.

    Raises
    ------
    DependencyError
        onnxruntime-training is not installed.
    NativeLibraryError
        The kernels are asked for and not available.
    ModelError
        The folder is missing, not whole, or of another version of this package.
    ArgumentError, ArgumentTypeError
        An argument is out of range; the schedule does not fit the model.

    Examples
    --------
    >>> session = TrainingSession("artifacts")  # doctest: +SKIP
    >>> for images, labels in batches:  # doctest: +SKIP
    ...     loss = session.step(images, labels)
    """

    def __init__(
        self,
        artifacts: Artifacts | str | os.PathLike[str],
        *,
        native: bool | str = "auto",
        threads: int | None = None,
        schedule: Schedule | None = None,
        learning_rate: float | None = None,
        seed: int | None = None,
    ) -> None:
        api = training_api()
        if isinstance(artifacts, Artifacts):
            artifacts = artifacts.directory
        self._artifacts = Artifacts.load(artifacts)
        self._manifest = with_schedule(self._artifacts.manifest, schedule)
        self._state = load_state(self._artifacts.checkpoint)
        self._steps = int(self._property(_STEP, 0))
        self._native = self._chosen(native)
        model = onnx.load(self._artifacts.training_model)
        self._training_model = model if seed is None else reseeded(model, seed)
        options = session_options(threads, native=self._native)
        if self._manifest.optimizer == "sgd":
            options.log_severity_level = _ERRORS  # it warns of the shape its own operator returns
        begun = begin_at(self._training_model, self._steps, native=self._native)
        with runtime_errors(self._artifacts.directory), tempfile.TemporaryDirectory() as folder:
            path = Path(folder, files.TRAINING_MODEL)
            path.write_bytes(begun.SerializeToString())
            self._module = api.Module(
                str(path), self._state, str(self._artifacts.eval_model), session_options=options
            )
            self._optimizer = api.Optimizer(str(self._artifacts.optimizer_model), self._module)
        self._ratios: dict[str, float] = {}
        self._outputs: tuple[np.ndarray, ...] = ()
        saved = self._property(_RATE, None)
        if learning_rate is None and saved is not None:
            learning_rate = float(saved)
        if learning_rate is not None:
            self.learning_rate = learning_rate

    @classmethod
    def resume(
        cls,
        directory: str | os.PathLike[str],
        *,
        native: bool | str = "auto",
        threads: int | None = None,
    ) -> Self:
        """Return a session that goes on where `save` wrote `directory`.

        Parameters, the optimizer's state, step, schedule and learning rate are as they were. With
        the native kernels the masks are those that the session would have drawn, and its numbers
        are equal bit for bit, given the same number of threads on the same kind of machine. With
        functions see `begin_at` for what is equal.

        Raises
        ------
        ModelError
            The folder is not one of `save`, is not whole, or is of another version.
        NativeLibraryError
            The session used the kernels, which are not available here; ``native=False`` goes on
            with other masks.
        """
        session = cls(directory, native=native, threads=threads)
        if _STEP not in session._state.properties:
            raise ModelError(
                f"{session.artifacts.directory} holds no training to resume, only its beginning; "
                "TrainingSession(directory) begins it"
            )
        return session

    @property
    def learning_rate(self) -> float:
        """The optimizer's learning rate."""
        # The shortest decimal: 0.001, not the float32 next to it.
        return float(str(np.float32(self._optimizer.get_learning_rate())))

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._optimizer.set_learning_rate(checked_rate(value))

    @property
    def ratios(self) -> dict[str, float]:
        """The ratio that each ratio parameter holds now, by name."""
        parameters = self._state.parameters
        return {
            each.name: float(parameters[each.name].data.reshape(()))
            for each in self._manifest.ratios
        }

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Copies of all parameters by name, frozen ones and ratios included."""
        return {name: np.array(each.data) for name, each in self._state.parameters}

    @property
    def last_outputs(self) -> dict[str, np.ndarray]:
        """What the last step's forward pass made, with dropout on; empty before the first."""
        return dict(zip(self._output_names(), self._outputs, strict=False))

    def assign(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Replace the values of some parameters.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            A name is unknown, a shape or element type is not that of the parameter, or a ratio is
            not in [0, 1). Nothing was changed.
        """
        present = self._state.parameters
        known = {name: each.data for name, each in present}
        ratios = [each.name for each in self._manifest.ratios]
        for name, value in checked_values(known, parameters, ratios).items():
            # ascontiguousarray would give a scalar an axis.
            present[name].data = np.array(value, order="C")
            self._ratios.pop(name, None)

    def step(self, inputs: Any, labels: Any) -> float:
        """Make one step of training on a batch and return its loss, from before the step.

        Parameters
        ----------
        inputs
            An array; a list of arrays where the model has several inputs; or arrays by name.
        labels
            An array; int64 for the cross entropy, of the output's shape without axis 1.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            A name, shape or element type is wrong, a label is none of the classes, or the
            schedule leaves [0, 1). Nothing was changed.
        TrainingError
            onnxruntime failed in the run. The masks of later steps are then not those of a run
            without the failure.
        """
        feeds = self._feeds(inputs, labels)
        self._drive()
        with runtime_errors(self._artifacts.directory, TrainingError):
            self._module.train()
            results = as_tuple(self._module(*feeds))
            self._optimizer.step()
            self._module.lazy_reset_grad()
        statistics = self._manifest.statistics
        if statistics:
            count = len(statistics)
            for (name, _), value in zip(statistics, results[-count:], strict=True):
                self._state.parameters[name].data = value
        self._outputs = results[1:]
        self._steps += 1
        return float(results[0])

    def _evaluated(self, feeds: Sequence[np.ndarray]) -> Evaluation:
        with runtime_errors(self._artifacts.directory):
            self._module.eval()
            loss, *outputs = as_tuple(self._module(*feeds))
        return Evaluation(float(loss), dict(zip(self._output_names(), outputs, strict=True)))

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write a folder from which training can go on, and which `finish` takes.

        It holds the models as well, so it depends on no other folder. It appears whole or not at
        all; one that is there is replaced.

        Raises
        ------
        OutputError
            The folder cannot be written; what was there before is still there.
        """
        properties = self._state.properties
        properties[_STEP] = self._steps
        properties[_NATIVE] = int(self._native)
        properties[_RATE] = repr(self.learning_rate)
        source = self._artifacts
        with new_folder(absolute(directory, "directory"), overwrite=overwrite) as folder:
            content = self._training_model.SerializeToString()
            (folder / files.TRAINING_MODEL).write_bytes(content)
            shutil.copyfile(source.eval_model, folder / files.EVAL_MODEL)
            shutil.copyfile(source.optimizer_model, folder / files.OPTIMIZER_MODEL)
            path = folder / files.CHECKPOINT
            with write_errors():
                type(self._state).save_checkpoint(
                    self._state, str(path), include_optimizer_state=True
                )
            write_parameters(self._state, folder)
            dataclasses.replace(self._manifest, steps=self._steps).write(folder)

    def inference_model(self) -> onnx.ModelProto:
        """Return what onnxruntime exports; the dropout nodes in it are on.

        Raises
        ------
        ModelError
            The artifacts are gone, or onnxruntime finds no place to write to.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "exported.onnx")
            with runtime_errors(self._artifacts.directory):
                self._module.eval()
                self._module.export_model_for_inferencing(str(path), list(self._manifest.outputs))
            return onnx.load(path)

    def _drive(self) -> None:
        """Set the ratios for the coming step, where they change."""
        for name, value in ratios_at(self._manifest, self._steps).items():
            if self._ratios.get(name) != value:
                self._state.parameters[name].data = np.array(value, np.float32)
                self._ratios[name] = value

    def _chosen(self, native: bool | str) -> bool:
        if not isinstance(native, bool) and native != "auto":
            raise ArgumentError(f"native is {native!r}; allowed are True, False and 'auto'")
        if isinstance(native, bool):
            return native
        before = self._property(_NATIVE, None)
        if before is None:
            return kernels.native_available()
        if before and not kernels.native_available():
            raise NativeLibraryError(
                f"{self._artifacts.directory} was trained with the native kernels, which are not "
                "available here; native=False goes on with functions, and with other masks"
            )
        return bool(before)

    def _property(self, name: str, default: Any) -> Any:
        properties = self._state.properties
        return properties[name] if name in properties else default  # noqa: SIM401
