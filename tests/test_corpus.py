"""The main job on every model of a corpus: insert everywhere, run, switch off, fold.

Run with ``pytest --corpus=DIR``; the sample models of the repository are always covered. The table
at the end names every model with its sites and its result; none is left out.
"""

from __future__ import annotations

import collections
import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from rich.console import Console
from rich.table import Table
from samples import MODELS

import onnx_structdrop as sd

# Models that hold nothing to insert behind, or that no function body fits, and why.
REFUSED = {
    "onnxnode_dropout_default_mask.onnx": "no site",
    "onnxnode_training_dropout.onnx": "no site",
    "onnxnode_training_dropout_mask.onnx": "no site",
    "trap_input_to_output.onnx": "no site",
    "trap_opset7_attr.onnx": "opset 7",
}

SPECS = {
    3: sd.DropBlock1D(0.1, 7, seed=1),
    4: sd.DropBlock2D(0.1, 7, seed=1),
    5: sd.DropBlock3D(0.1, 3, seed=1),
}

ROWS: list[tuple[str, ...]] = []

Level = onnxruntime.GraphOptimizationLevel


@dataclasses.dataclass
class Runner:
    """A session of a model, fed with the same random inputs every time."""

    session: onnxruntime.InferenceSession

    @classmethod
    def of(cls, model, level):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 3
        content = model.SerializeToString()
        return cls(onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"]))

    def signature(self):
        values = [*self.session.get_inputs(), *self.session.get_outputs()]
        return [(value.name, value.type, len(value.shape)) for value in values]

    def run(self):
        return self.session.run(None, self._feeds())

    def _feeds(self):
        generator = np.random.default_rng(0)
        feeds = {}
        for value in self.session.get_inputs():
            sizes = [2, *(32 for _ in value.shape[1:])]
            shape = [
                size if isinstance(size, int) else default
                for size, default in zip(value.shape, sizes, strict=False)
            ]
            types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
            if value.type == "tensor(bool)":
                feeds[value.name] = np.array(False)
            else:
                feeds[value.name] = generator.standard_normal(shape).astype(types[value.type])
        return feeds


def candidates(config):
    paths = sorted(MODELS.glob("*.onnx"))
    folder = config.getoption("--corpus")
    if folder is not None:
        index = json.loads((folder / "index.json").read_text())
        paths += [folder / entry["file"] for entry in index]
        paths += sorted((folder / "refs").glob("*.onnx"))
    return paths


def pytest_generate_tests(metafunc):
    if "path" in metafunc.fixturenames:
        paths = candidates(metafunc.config)
        metafunc.parametrize("path", paths, ids=[path.name for path in paths])


def inserted_everywhere(model):
    """Insert the specification that fits the rank of each site, at sites of every kind."""
    sites = sd.find_sites(model)
    by_rank = collections.defaultdict(list)
    for site in sites:
        by_rank[len(site.shape)].append(site)
    for rank, chosen in by_rank.items():
        model = sd.insert(model, SPECS[rank], chosen)
    return model, sites


def row(path, sites, result):
    kinds = collections.Counter(site.kind for site in sites)
    stages = collections.Counter(site.stage for site in sites)
    ROWS.append(
        (
            path.name,
            str(len(sites)),
            " ".join(f"{kind}:{count}" for kind, count in sorted(kinds.items())),
            " ".join(
                f"{'-' if stage is None else stage}:{count}"
                for stage, count in sorted(stages.items(), key=lambda item: item[0] or 0)
            ),
            result,
        )
    )


def test_insert_run_switch_off_fold(path):
    model = onnx.load(path)
    if path.name in REFUSED:
        with pytest.raises(sd.StructDropError, match=REFUSED[path.name]) as refusal:
            sd.insert(model, SPECS[4])
        row(path, [], f"refused: {str(refusal.value)[:60]}")
        return
    before = model.SerializeToString(deterministic=True)
    training, sites = inserted_everywhere(model)
    assert sites, "a model with nothing to insert behind belongs into REFUSED"
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(training, full_check=True)
    assert len(sd.inspect(training).own) == len(sites)

    # float16 runs in float32 between nodes that have no other kernel, so an Identity rounds:
    # there the comparison needs the optimiser, which removes it.
    half = any(site.dtype == "float16" for site in sites)
    level = Level.ORT_ENABLE_BASIC if half else Level.ORT_DISABLE_ALL
    original = Runner.of(model, level)
    evaluation = Runner.of(sd.set_training_mode(training, False), level)
    live = Runner.of(training, Level.ORT_ENABLE_ALL)
    # Sizes are compared as the files declare them: onnxruntime refines them by inference, which
    # does not see through the node where it makes an output of the graph.
    assert list(training.graph.input) == list(model.graph.input)
    assert list(training.graph.output) == list(model.graph.output)
    assert original.signature() == evaluation.signature() == live.signature()

    random_anyway = any(node.active is not False for node in sd.inspect(model).foreign)
    expected, found = original.run(), evaluation.run()
    if not random_anyway:
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    runs = [live.run() for _ in range(2)]
    assert any(not np.array_equal(a, b) for a, b in zip(*runs, strict=True))

    folded = sd.fold(training)
    assert sd.differences(model, folded) == []
    note = "equal" if not random_anyway else "equal (its own dropout is live in eval mode)"
    row(path, sites, note + (" at ORT basic" if half else ""))


def test_print_table(capsys):
    """Print the table last; it holds a row per model."""
    table = Table(title="insert everywhere, run, switch off, fold", box=None)
    for column in ("model", "sites", "by kind", "by stage", "result"):
        table.add_column(column, no_wrap=True)
    for cells in ROWS:
        table.add_row(*cells)
    with capsys.disabled():
        print()
        Console(width=200).print(table)
    assert ROWS
