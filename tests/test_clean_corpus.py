"""`clean` on every model of a corpus, against references that it had no part in.

Run with ``pytest --corpus=DIR -k clean_corpus``. The table at the end names every model; a file is
*cleaned* (nothing random is left and the outputs are the reference's), *unchanged* (there was
nothing to do), *refused* (left, with the reason) or *wrong*.
"""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from rich.console import Console
from rich.table import Table

from onnx_structdrop.graph.clean import clean
from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.proofs.sources import is_random

ROWS: list[tuple[str, ...]] = []


def run(model, feeds=None, seed=0):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    feeds = feeds or inputs(session, seed)
    return session.run(None, {v.name: feeds[v.name] for v in session.get_inputs()}), feeds


def inputs(session, seed):
    generator = np.random.default_rng(seed)
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    feeds = {}
    for value in session.get_inputs():
        shape = [2 if index == 0 else 32 for index in range(len(value.shape))]
        shape = [a if isinstance(a, int) else b for a, b in zip(value.shape, shape, strict=True)]
        if value.type == "tensor(bool)":
            feeds[value.name] = np.array(True)
        elif value.shape == [] and value.type in types:
            feeds[value.name] = np.array(0.25, types[value.type])
        else:
            feeds[value.name] = generator.standard_normal(shape).astype(types[value.type])
    return feeds


def candidates(config):
    folder = config.getoption("--corpus")
    if folder is None:
        return [pytest.param(None, marks=pytest.mark.skip(reason="needs --corpus=DIR"), id="none")]
    index = json.loads((folder / "index.json").read_text())
    paths = [folder / entry["file"] for entry in index]
    paths += sorted((folder / "patterns").glob("*.onnx"))
    return [pytest.param(path, id=path.name) for path in paths]


def pytest_generate_tests(metafunc):
    if "path" in metafunc.fixturenames:
        metafunc.parametrize("path", candidates(metafunc.config))


def reference(path, folder, model):
    """Return a model to compare with, and where it is from; None where there is none."""
    refs = json.loads((folder / "refs.json").read_text())
    if path.stem in refs:
        return onnx.load(folder / refs[path.stem]["ref"]), "its eval export"
    if path.parent.name == "patterns" and ("train" in path.stem or draws(model)):
        sibling = re.sub("_train(_evalflag)?", "_eval", path.stem)
        if any(node.op_type == "BatchNormalization" for node in model.graph.node):
            # The sibling that kept its normalisation apart takes the train file's statistics.
            sibling = re.sub("ts_[a-z]+_eval", "ts_nofold_eval", sibling.replace("_dynshape", ""))
        found = path.with_name(f"{sibling}.onnx")
        if found.exists() and not draws(onnx.load(found)):
            return with_weights(onnx.load(found), model), f"{sibling}"
        return by_hand(model), "its last Conv fed from its Relu"
    if draws(model) or model.functions or "bn_train" in path.stem:
        return switched_off(model), "itself with rate 0, or switched off"
    return None, ""


def switched_off(model):
    """Return the model with every constant rate at 0 and its normalisation in inference mode."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    rates = {node.input[1] for node in graph.node if node.op_type == "Dropout" and node.input[1:]}
    for tensor in graph.initializer:
        if tensor.name in rates:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(0), tensor.name))
    for node in graph.node:
        if "ratio" in node.output:
            node.attribute[0].f = 0.0
        if node.op_type == "BatchNormalization":
            kept = [a for a in node.attribute if a.name != "training_mode"]
            del node.attribute[:], node.output[1:]
            node.attribute.extend(kept)
    return result


def with_weights(target, source):
    """Return `target` with the weights that `source` has under the same names."""
    given = {tensor.name: tensor for tensor in source.graph.initializer}
    for tensor in target.graph.initializer:
        other = given.get(tensor.name)
        if other is not None and list(other.dims) == list(tensor.dims):
            tensor.CopyFrom(other)
    norms = [
        [node for node in model.graph.node if node.op_type == "BatchNormalization"]
        for model in (target, source)
    ]
    for mine, other in zip(*norms, strict=True):
        # Equal tensors of an export are one initializer behind Identity nodes: feed them apart.
        for index in range(1, 5):
            name = f"reference_{mine.output[0]}_{index}"
            target.graph.initializer.add().CopyFrom(given[other.input[index]])
            target.graph.initializer[-1].name = name
            mine.input[index] = name
    if source.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        # A free batch size is fed with the size that the sibling fixes.
        del target.graph.value_info[:]
        for value in (*target.graph.input, *target.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return target


def by_hand(model):
    """Return the model with its last Conv fed from its last Relu, and inference statistics."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    relu = [node for node in result.graph.node if node.op_type == "Relu"][-1]
    conv = [node for node in result.graph.node if node.op_type == "Conv"][-1]
    conv.input[0] = relu.output[0]
    for node in result.graph.node:
        if node.op_type == "BatchNormalization":
            kept = [a for a in node.attribute if a.name != "training_mode"]
            del node.attribute[:], node.output[1:]
            node.attribute.extend(kept)
    needed = {conv.output[0], result.graph.output[0].name}
    kept = []
    for node in reversed(result.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    del result.graph.node[:]
    result.graph.node.extend(reversed(kept))
    return result


def draws(model):
    """Tell whether a flat model holds randomness, be it switched off."""
    return any("Random" in node.op_type or node.op_type == "Dropout" for node in model.graph.node)


def random_nodes(model):
    private = ir.from_proto(model)
    graphs = [private.graph, *private.functions.values()]
    nodes = [node for graph in graphs for node in graph.all_nodes()]
    return [node for node in nodes if is_random(node) and node.op_type != "Dropout"]


def signature(values):
    return [value.SerializeToString(deterministic=True) for value in values]


def test_clean(path, request):
    folder = request.config.getoption("--corpus")
    model = onnx.load(path)
    before = model.SerializeToString(deterministic=True)
    cleaned, report = clean(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(cleaned, full_check=True)
    assert signature(cleaned.graph.input) == signature(model.graph.input)
    assert signature(cleaned.graph.output) == signature(model.graph.output)
    assert cleaned.metadata_props == model.metadata_props
    assert report.changed == bool(differences(model, cleaned))

    again, second = clean(cleaned)
    assert not second.changed
    assert differences(cleaned, again) == []

    results, feeds = run(cleaned)
    assert all(np.isfinite(result).all() for result in results)
    live = random_nodes(cleaned)
    assert bool(live) <= bool(report.residual)
    other, where = reference(path, folder, model)
    gap = ""
    if other is not None:
        off = {n: np.zeros_like(v) if v.dtype == bool else v for n, v in feeds.items()}
        expected, _ = run(other, off)
        scale = max(float(np.abs(result).max()) for result in expected)
        pairs = [(a.astype(float), b.astype(float)) for a, b in zip(expected, results, strict=True)]
        worst = max(float(np.abs(a - b).max()) for a, b in pairs)
        half = any(result.dtype == np.float16 for result in results)
        tolerance = (2e-3 if half else 2e-6) * max(scale, 1.0)
        gap = f"{worst:.1e} of {scale:.2g} (allowed {tolerance:.0e})"
        if not report.residual and worst > tolerance:
            ROWS.append((path.name, "wrong", gap, where))
            pytest.fail(f"outputs differ by {worst}")
    elif not report.residual and not report.changed:
        assert differences(model, cleaned) == []
    repeated, _ = run(cleaned, feeds)
    steady = all(np.array_equal(a, b) for a, b in zip(results, repeated, strict=True))
    assert steady or report.residual
    if report.residual:
        outcome, where = "refused", "; ".join(left.reason for left in report.residual)
    else:
        outcome = "cleaned" if report.changed else "unchanged"
    ROWS.append((path.name, outcome, gap, where))


def test_print_table(capsys, request):
    """Print the table last; it holds a row per model."""
    if request.config.getoption("--corpus") is None:
        pytest.skip("needs --corpus=DIR")
    table = Table(title="clean", box=None)
    for column in ("model", "result", "largest difference", "compared with"):
        table.add_column(column, no_wrap=True)
    for cells in ROWS:
        table.add_row(*cells)
    counts = {
        name: sum(row[1] == name for row in ROWS)
        for name in ("cleaned", "unchanged", "refused", "wrong")
    }
    with capsys.disabled():
        print()
        Console(width=200).print(table)
        print(" · ".join(f"{name} {count}" for name, count in counts.items()))
    assert not counts["wrong"]
