"""Running two models on the same inputs, and what follows from what they return."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnx_structdrop.graph.files.wellformed import quoted
from onnx_structdrop.graph.verify.feeds import Signature
from onnx_structdrop.graph.verify.live import Live
from onnx_structdrop.graph.verify.outputs import TOLERANCES, compare, flat
from onnx_structdrop.graph.verify.pinned import Pinned, pinned
from onnx_structdrop.graph.verify.report import (
    DIFFERENT,
    EQUAL,
    NOT_COMPARABLE,
    NOT_RUN,
    OutputCheck,
    VerifyReport,
)
from onnx_structdrop.graph.verify.search import Search
from onnx_structdrop.graph.verify.sessions import LimitError, Limits, RunError, Runner, has_half
from onnx_structdrop.graph.verify.signatures import mismatches, ratio_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import onnx_ir as ir

__all__ = ["Comparison"]

_KEPT = "inputs and outputs have the names, order, types and shapes that they had"


class _Runs:
    """What a model returned on each sample, and which outputs differ from run to run."""

    def __init__(
        self,
        runner: Runner,
        feeds: Sequence[dict[str, npt.NDArray[Any]]],
        results: list[list[Any]] | None = None,
    ) -> None:
        self.results = [runner.run(feed) for feed in feeds] if results is None else results
        self.unsteady = self.changes(runner, feeds)

    def changes(self, runner: Runner, feeds: Sequence[dict[str, npt.NDArray[Any]]]) -> set[int]:
        """Return the places of outputs that another run on the first sample gives differently."""
        again = runner.run(feeds[0])
        return {
            place
            for place, (first, second) in enumerate(zip(self.results[0], again, strict=True))
            if not _identical(first, second)
        }


class Comparison:
    """The comparison of a model with the one it was rewritten into.

    Parameters
    ----------
    original, rewritten
        The models; they are only read.
    tolerance
        Largest error, None for that of the type.
    inference
        Whether to compare with the original in inference form.
    limits
        What a run may take.
    """

    def __init__(
        self,
        original: ir.Model,
        rewritten: ir.Model,
        tolerance: float | None,
        inference: bool,
        limits: Limits,
    ) -> None:
        self._original, self._rewritten = original, rewritten
        self._tolerance, self._inference, self._limits = tolerance, inference, limits
        self._basic = has_half(original) or has_half(rewritten)
        self._checks: list[str] = []
        self._feeds: list[dict[str, npt.NDArray[Any]]] = []
        self._magnitudes: list[float] = []
        self._held: dict[str, bool] = {}
        self._defaults: list[str] = []
        self._seed = 0

    def run(self, samples: int, seed: int) -> VerifyReport:
        """Compare the models."""
        self._seed = seed
        faults = mismatches(self._original, self._rewritten)
        if faults:
            return self._report(DIFFERENT, faults[0])
        self._checks.append(_KEPT)
        before, after = Live(self._original), Live(self._rewritten)
        self._held = {**after.held, **before.held}
        try:
            rates = {*ratio_inputs(self._original), *ratio_inputs(self._rewritten)}
            signature = Signature(self._original, self._held, rates)
            extra = Signature(self._rewritten, self._held, rates)
        except RunError as error:
            return self._report(NOT_RUN, f"the original: {error}")
        signature.extend(extra)
        self._defaults = signature.defaults
        form = pinned(self._original) if self._inference else Pinned(self._original)
        reference, failure = self._reference(form.model, signature, samples)
        try:
            if reference is None:
                runner, results = self._find(self._rewritten, signature, samples)
                runs = _Runs(runner, self._feeds, results)
            else:
                runs = _Runs(self._runner(self._rewritten), self._feeds)
            unsteady = runs.unsteady | runs.changes(self._runner(self._rewritten), self._feeds)
        except RunError as error:
            if reference is None:
                return self._report(NOT_RUN, f"the original: {failure}")
            status = NOT_RUN if isinstance(error, LimitError) else DIFFERENT
            return self._report(status, f"the rewritten model: {error}")
        names = [value.name or "" for value in self._rewritten.graph.outputs]
        random = {name: after.behind(name) for name in names}
        if not unsteady - {place for place, name in enumerate(names) if random[name]}:
            fixed = [name for name in names if not random[name]]
            if fixed:
                whose = "" if len(fixed) == len(names) else f" at {quoted(', '.join(fixed))}"
                self._checks.append(
                    f"the rewritten model gives the same in two runs and two sessions{whose}"
                )
        if reference is None:
            return self._without_reference(names, unsteady, random, failure)
        if not self._inference:
            for name in names:
                behind = before.behind(name)
                random[name] = random[name] if behind is None else f"{behind} of the original"
        return self._verdict(self._compared(names, form, reference, runs, unsteady, random))

    # The models that are run

    def _reference(
        self, model: ir.Model, signature: Signature, samples: int
    ) -> tuple[_Runs | None, str]:
        """Run what is compared with; return why that cannot be."""
        try:
            runner, results = self._find(model, signature, samples)
            return _Runs(runner, self._feeds, results), ""
        except RunError as error:
            return None, str(error)

    def _runner(self, model: ir.Model) -> Runner:
        return Runner(model, self._limits, basic=self._basic)

    def _find(
        self, model: ir.Model, signature: Signature, samples: int
    ) -> tuple[Runner, list[list[Any]]]:
        """Look for inputs that a model runs on; return a session of it, and what it returned."""
        search = Search(lambda: self._runner(model), signature, self._seed, self._basic)
        found = search.samples(samples)
        self._feeds = [sample.feeds for sample in found]
        self._magnitudes = [sample.draw.magnitude for sample in found]
        return search.runner, [sample.results for sample in found]

    # What follows

    def _compared(
        self,
        names: Sequence[str],
        form: Pinned,
        theirs: _Runs,
        runs: _Runs,
        unsteady: set[int],
        random: dict[str, str | None],
    ) -> list[OutputCheck]:
        checks = []
        for place, name in enumerate(names):
            hangs_on = random[name]
            if hangs_on is not None:
                reason = f"random: it depends on {hangs_on}"
                checks.append(_unknown(name, reason))
            elif name in form.blind:
                reason = f"no number to hold {form.blind[name]} at is known to drop nothing"
                checks.append(_unknown(name, reason))
            elif place in theirs.unsteady:
                reason = "random: two runs of the original differ, though no node is known to draw"
                checks.append(_unknown(name, reason))
            elif place in unsteady:
                reason = "it differs between two runs of the rewritten model"
                checks.append(OutputCheck(name, DIFFERENT, False, 0.0, float("inf"), reason))
            else:
                pairs = [
                    (first[place], second[place])
                    for first, second in zip(theirs.results, runs.results, strict=True)
                ]
                checks.append(self._output(place, name, pairs, name in form.soft))
        return checks

    def _output(
        self, place: int, name: str, pairs: Sequence[tuple[Any, Any]], soft: bool
    ) -> OutputCheck:
        tolerance = self._tolerance_of(place, pairs[0][0])
        exact, error, reason, finite, size = True, 0.0, "", False, 0
        values: set[Any] = set()
        for (first, second), magnitude in zip(pairs, self._magnitudes, strict=True):
            ones, others = flat(first), flat(second)
            if len(ones) != len(others):
                reason = reason or f"it has {len(others)} elements instead of {len(ones)}"
            for one, other in zip(ones, others, strict=False):
                found = compare(one, other)
                exact, error = exact and found.exact, max(error, found.error / magnitude)
                size += one.size
                values |= found.ends
                reason, finite = reason or found.reason, finite or found.finite
        exact = exact and not reason
        if not reason and error > tolerance:
            reason = (
                f"it differs by {error:.2g} of the scale of its values, {tolerance:g} is allowed"
            )
        elif not reason and tolerance == 0 and not exact:
            reason = "it differs in the sign of zeros"
        if reason and soft:
            why = "the generators it depends on, held, give something else"
            return replace(_unknown(name, why), suspicious=True)
        if not reason and not finite:
            empty = "it is empty on every sample: there is nothing to compare"
            return _unknown(name, "it holds nothing finite" if size else empty)
        status = DIFFERENT if reason else EQUAL
        return OutputCheck(name, status, exact, tolerance, error, reason, len(values) == 1)

    def _tolerance_of(self, place: int, result: Any) -> float:
        dtype = self._original.graph.outputs[place].dtype
        # bfloat16 comes as float32, see the sessions.
        name = dtype.name.lower() if dtype is not None and dtype.name == "BFLOAT16" else ""
        default = TOLERANCES.get(name or flat(result)[0].dtype.name if flat(result) else "", 0.0)
        return default if self._tolerance is None or default == 0 else self._tolerance

    def _without_reference(
        self,
        names: Sequence[str],
        unsteady: set[int],
        random: dict[str, str | None],
        failure: str,
    ) -> VerifyReport:
        reason = f"the original: {failure}"
        outputs = []
        for place, name in enumerate(names):
            if place in unsteady and random[name] is None:
                why = "it differs between two runs of the rewritten model"
                outputs.append(OutputCheck(name, DIFFERENT, False, 0.0, float("inf"), why))
            else:
                outputs.append(_unknown(name, "the original cannot be run"))
        if any(output.status == DIFFERENT for output in outputs):
            return self._verdict(outputs)
        return self._report(NOT_COMPARABLE, reason, outputs)

    def _verdict(self, outputs: Sequence[OutputCheck]) -> VerifyReport:
        equal = [output for output in outputs if output.status == EQUAL]
        if equal:
            whole = len(equal) == len(outputs)
            number = "all outputs" if whole else f"{len(equal)} outputs"
            alike = f"{number} equal those"
            if len(equal) == 1 and not whole:
                alike = "1 output equals that"
            how = "bit for bit"
            if not all(output.exact for output in equal):
                worst = max(equal, key=lambda output: output.error)
                how = f"within {worst.error:.2g} of the scale of the values"
            count = len(self._feeds)
            self._checks.append(
                f"{alike} of the {self._compared_with}, {how}, "
                f"on {count} {'sample' if count == 1 else 'samples'}{self._left}"
            )
        for status in (DIFFERENT, NOT_COMPARABLE):
            found = [output for output in outputs if output.status == status]
            if found:
                reason = f"output {quoted(found[0].name)}: {found[0].reason}"
                return self._report(status, reason, outputs)
        return self._report(EQUAL, "", outputs)

    @property
    def _left(self) -> str:
        if not self._defaults:
            return ""
        inputs = "input" if len(self._defaults) == 1 else "inputs"
        return f", with {inputs} {quoted(', '.join(self._defaults))} left at the default"

    @property
    def _compared_with(self) -> str:
        return "original in inference form" if self._inference else "original"

    def _report(
        self, status: str, reason: str, outputs: Sequence[OutputCheck] = ()
    ) -> VerifyReport:
        return VerifyReport(
            status=status,
            reason=reason,
            reference=self._compared_with,
            checks=tuple(self._checks),
            outputs=tuple(outputs),
            shapes=tuple(
                {name: tuple(array.shape) for name, array in feed.items()} for feed in self._feeds
            ),
            held=dict(self._held),
            seed=self._seed,
            optimisation="basic" if self._basic else "off",
            ranges=_ranges(self._feeds),
            defaults=tuple(self._defaults),
        )


def _ranges(
    feeds: Sequence[dict[str, npt.NDArray[Any]]],
) -> dict[str, tuple[float, float]]:
    drawn: dict[str, list[npt.NDArray[Any]]] = {}
    for feed in feeds:
        for name, array in feed.items():
            if array.size and array.dtype.kind != "O":
                drawn.setdefault(name, []).append(array)
    return {
        name: (min(float(array.min()) for array in arrays),
               max(float(array.max()) for array in arrays))
        for name, arrays in drawn.items()
    }  # fmt: skip


def _unknown(name: str, reason: str) -> OutputCheck:
    return OutputCheck(name, NOT_COMPARABLE, False, 0.0, float("nan"), reason)


def _identical(first: Any, second: Any) -> bool:
    ones, others = flat(first), flat(second)
    return len(ones) == len(others) and all(
        compare(one, other).exact for one, other in zip(ones, others, strict=True)
    )
