"""Training on the plain onnxruntime, from the artifacts of onnxruntime-training."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnx

from onnx_structdrop import native as kernels
from onnx_structdrop.errors import (
    ModelError,
    NativeLibraryError,
    OutputError,
    StructDropError,
    TrainingError,
)
from onnx_structdrop.training import manifest as files
from onnx_structdrop.training.artifacts import Artifacts
from onnx_structdrop.training.buffers import TrainingArrays
from onnx_structdrop.training.calls import runtime_errors, session_options
from onnx_structdrop.training.checks import (
    checked_rate,
    checked_values,
    ratios_at,
    with_schedule,
)
from onnx_structdrop.training.exporting import inference_model
from onnx_structdrop.training.feeds import Evaluation
from onnx_structdrop.training.folders import absolute, new_folder
from onnx_structdrop.training.lowering import lower
from onnx_structdrop.training.lowering.optimizers import read_optimizer
from onnx_structdrop.training.schedule import Schedule
from onnx_structdrop.training.stock_files import (
    ARTIFACTS,
    STATE,
    check_beginning,
    chosen_kernels,
    read_arrays,
    read_config,
    write_arrays,
    write_config,
)
from onnx_structdrop.training.streams import begin_at
from onnx_structdrop.training.trainer import Trainer

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

__all__ = ["StockTrainer"]


class StockTrainer(Trainer):
    """A model in training, in the plain onnxruntime.

    Takes the folders that `generate_artifacts` writes and does what `TrainingSession` does: each
    step first sets the ratios that the schedule asks for, then runs forward and backward, then the
    optimizer. The training graph is lowered to standard ONNX; the optimizer is NumPy.

    Parameters
    ----------
    artifacts
        A folder of `generate_artifacts`.
    native
        True runs the dropout nodes in the native kernels, False as functions; "auto" takes the
        kernels where they are available.
    threads
        Of onnxruntime, for each operator; None leaves it the choice.
    schedule
        In place of the artifacts' own.
    learning_rate
        As the optimizer of onnxruntime-training begins with.

    Raises
    ------
    NativeLibraryError
        The kernels are asked for and not available.
    ModelError
        The folder is missing, not whole, or of another version of this package.
    UnsupportedModelError
        An operator of the training graph has no standard form; the message names node and
        operator.
    ArgumentError, ArgumentTypeError
        An argument is out of range; the schedule does not fit the model.

    Examples
    --------
    >>> trainer = StockTrainer("artifacts")  # doctest: +SKIP
    >>> for images, labels in batches:  # doctest: +SKIP
    ...     loss = trainer.step(images, labels)
    """

    def __init__(
        self,
        artifacts: Artifacts | str | os.PathLike[str],
        *,
        native: bool | str = "auto",
        threads: int | None = None,
        schedule: Schedule | None = None,
        learning_rate: float = 0.001,
    ) -> None:
        if isinstance(artifacts, Artifacts):
            artifacts = artifacts.directory
        loaded = Artifacts.load(artifacts)
        check_beginning(loaded.directory, loaded.manifest.steps)
        state = TrainingArrays.beginning(read_arrays(loaded.parameters))
        self._begin(
            loaded,
            state,
            steps=0,
            native=chosen_kernels(native),
            threads=threads,
            schedule=with_schedule(loaded.manifest, schedule).schedule,
        )
        self.learning_rate = learning_rate

    @classmethod
    def resume(
        cls,
        directory: str | os.PathLike[str],
        *,
        native: bool | str = "auto",
        threads: int | None = None,
    ) -> Self:
        """Return a trainer that goes on where `save` wrote `directory`.

        Parameters, moments, step, schedule and learning rate are as they were; see `begin_at` for
        the masks.

        Raises
        ------
        ModelError
            The folder is not one of `save`, or is damaged.
        NativeLibraryError
            The trainer used the kernels, which are not available here; ``native=False`` goes on
            with other masks.
        """
        folder = absolute(directory, "directory")
        config = read_config(folder)
        state = read_arrays(folder / STATE)
        trainer = cls.__new__(cls)
        try:
            saved = config["schedule"]
            schedule = None if saved is None else Schedule.from_config(saved)
            steps, rate, used = int(config["steps"]), config["learning_rate"], config["native"]
        except (KeyError, TypeError, ValueError, StructDropError) as error:
            raise ModelError(f"{folder / files.MANIFEST} is damaged ({error!r})") from error
        if native == "auto" and used and not kernels.native_available():
            raise NativeLibraryError(
                f"{folder} was trained with the native kernels, which are not available here; "
                "native=False goes on with functions, and with other masks"
            )
        trainer._begin(
            Artifacts.load(folder / ARTIFACTS),
            state,
            steps=steps,
            native=bool(used) if native == "auto" else chosen_kernels(native),
            threads=threads,
            schedule=schedule,
        )
        trainer.learning_rate = rate
        return trainer

    def _begin(
        self,
        artifacts: Artifacts,
        state: Mapping[str, np.ndarray],
        *,
        steps: int,
        native: bool,
        threads: int | None,
        schedule: Schedule | None,
    ) -> None:
        self._artifacts, self._steps, self._native = artifacts, steps, native
        manifest = artifacts.manifest
        self._manifest = dataclasses.replace(manifest, schedule=schedule)
        self._optimizer = read_optimizer(onnx.load(artifacts.optimizer_model))
        self._arrays = TrainingArrays(
            state,
            trainable=manifest.trainable,
            frozen=manifest.frozen,
            moments=self._optimizer.moments,
        )
        self._parameters = self._arrays.parameters
        options = session_options(threads, native=native)
        training = begin_at(onnx.load(artifacts.training_model), steps, native=native)
        self._training = self._session(training, options)
        self._evaluation = self._session(onnx.load(artifacts.eval_model), options)
        data = {info.name for info in (*manifest.inputs, manifest.labels)}
        self._binding = self._arrays.bind(self._training, data, artifacts.training_model)
        self._outputs: dict[str, np.ndarray] = {}

    def _session(self, model: onnx.ModelProto, options: Any) -> Any:
        from onnxruntime import InferenceSession

        content = lower(model).SerializeToString()
        with runtime_errors(self._artifacts.directory):
            return InferenceSession(content, options, providers=["CPUExecutionProvider"])

    @property
    def learning_rate(self) -> float:
        """The optimizer's learning rate."""
        return self._rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._rate = checked_rate(value)

    @property
    def ratios(self) -> dict[str, float]:
        """The ratio that each ratio parameter holds now, by name."""
        return {
            each.name: float(self._parameters[each.name].reshape(()))
            for each in self._manifest.ratios
        }

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Copies of all parameters by name, frozen ones and ratios included."""
        return {name: value.copy() for name, value in self._parameters.items()}

    @property
    def gradients(self) -> dict[str, np.ndarray]:
        """Copies of the gradients of the last step by name, clipped where the optimizer clips."""
        return {name: view.copy() for name, view in self._arrays.gradients.items()}

    @property
    def last_outputs(self) -> dict[str, np.ndarray]:
        """What the last step's forward pass made, with dropout on; empty before the first."""
        return dict(self._outputs)

    def assign(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Replace the values of some parameters.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            A name is unknown, a shape or element type is not that of the parameter, or a ratio is
            not in [0, 1). Nothing was changed.
        """
        ratios = [each.name for each in self._manifest.ratios]
        for name, value in checked_values(self._parameters, parameters, ratios).items():
            self._parameters[name][...] = value

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
            onnxruntime failed in the run.
        """
        feeds = self._named(self._feeds(inputs, labels))
        self._drive()
        manifest = self._manifest
        names = [manifest.loss_name, *self._output_names()]
        names += [value for _, value in manifest.statistics]
        for name, value in feeds.items():
            self._binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
        with runtime_errors(self._artifacts.directory, TrainingError):
            for name in names:  # anew, since their sizes may change with the batch
                self._binding.bind_output(name)
            self._training.run_with_iobinding(self._binding)
            results = self._binding.get_outputs()[len(manifest.trainable) :]
        values = {name: result.numpy() for name, result in zip(names, results, strict=True)}
        for name, output in manifest.statistics:
            self._parameters[name][...] = values.pop(output)
        loss = float(values.pop(manifest.loss_name).reshape(()))
        self._outputs = values
        self._steps += 1
        arrays = self._arrays
        self._optimizer.update(
            arrays.weights, arrays.flat_gradients, arrays.moments, self._rate, self._steps
        )
        return loss

    def _evaluated(self, feeds: Sequence[np.ndarray]) -> Evaluation:
        given, manifest = self._named(feeds), self._manifest
        names = [manifest.loss_name, *self._output_names()]
        for value in self._evaluation.get_inputs():
            if value.name not in given:
                given[value.name] = self._parameters[value.name]
        with runtime_errors(self._artifacts.directory):
            loss, *outputs = self._evaluation.run(names, given)
        return Evaluation(float(loss.reshape(())), dict(zip(names[1:], outputs, strict=True)))

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write a folder from which `resume` goes on.

        It holds the artifacts as well, so it depends on no other folder. It appears whole or not
        at all; one that is there is replaced.

        Raises
        ------
        OutputError
            The folder cannot be written, or is that of the artifacts; what was there before is
            still there.
        """
        schedule = self._manifest.schedule
        config = {
            "steps": self._steps,
            "learning_rate": self._rate,
            "native": self._native,
            "schedule": None if schedule is None else schedule.get_config(),
        }
        target = absolute(directory, "directory")
        if target.resolve() == self._artifacts.directory.resolve():
            raise OutputError(
                f"cannot write {target}: it holds the artifacts of this training; choose another "
                "folder"
            )
        with new_folder(target, overwrite=overwrite) as folder:
            self._artifacts.copy(folder / ARTIFACTS)
            write_arrays(folder / STATE, self._arrays.state())
            write_config(folder, config)

    def inference_model(self) -> onnx.ModelProto:
        """Return the evaluation model with the parameters inside; the dropout nodes are off.

        Raises
        ------
        ModelError
            The artifacts are gone.
        """
        evaluation = self._artifacts.eval_model
        try:
            model = onnx.load(evaluation)
        except OSError as error:
            raise ModelError(f"{evaluation} cannot be read: {error.strerror}") from error
        return inference_model(model, self._manifest.outputs, self._parameters)

    def _named(self, feeds: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        infos = (*self._manifest.inputs, self._manifest.labels)
        return {
            info.name: np.ascontiguousarray(array) for info, array in zip(infos, feeds, strict=True)
        }

    def _drive(self) -> None:
        """Set the ratios for the coming step."""
        for name, value in ratios_at(self._manifest, self._steps).items():
            self._parameters[name][...] = value
