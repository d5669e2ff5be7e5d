"""One file, three ways to run it: functions, kernels, and nothing at all."""

from __future__ import annotations

import collections
import json
import pathlib

import numpy as np
import onnx
import onnxruntime
import pytest
from kernel_sessions import BODY_OPS, kernel_session, options_of, without_functions
from one_node import (
    LEVELS,
    assert_relations,
    attributes_of,
    dropped,
    node,
    one_node,
    random_data,
    run,
)
from onnx import TensorProto, helper

import onnx_structdrop as sd
from onnx_structdrop.functions import function_proto
from onnx_structdrop.schema import DOMAIN, DROPOUT_OPS, GRAD_OP, VERSION

SIZES = (3, 4, 6, 7)
FREE = ("N", "C", "H", "W")

each_op = pytest.mark.parametrize("op_type", DROPOUT_OPS)
each_level = pytest.mark.parametrize("level", LEVELS, ids=str)


def convolution():
    """Return x -> Conv -> Relu -> Conv -> Relu -> y."""
    rng = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(rng.normal(0, 0.4, (8, n, 3, 3)).astype(np.float32), f"w{i}")
        for i, n in enumerate((3, 8))
    ]
    nodes = []
    for i, (before, after) in enumerate((("x", "a"), ("a", "y"))):
        nodes.append(helper.make_node("Conv", [before, f"w{i}"], [f"c{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [after]))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, "H", "W"])
        for name, channels in (("x", 3), ("y", 8))
    ]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def operators_run(runner, feeds):
    """Run a session that profiles, and count the nodes that it ran, by operator."""
    run(runner, feeds)
    events = json.loads(pathlib.Path(runner.end_profiling()).read_text(encoding="utf-8"))
    return collections.Counter(
        event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    )


def profiled(options, folder):
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    return options


def operators_left(serialised, options, path):
    """Return the operators of the graph that onnxruntime runs, subgraphs included."""
    # Above EXTENDED, onnxruntime warns that a saved model is for this machine only.
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(serialised, options, providers=["CPUExecutionProvider"])
    # Not onnx.load: a custom operator is no fault of this file.
    model = onnx.ModelProto.FromString(path.read_bytes())
    graphs, ops = [model.graph], []
    while graphs:
        for entry in graphs.pop().node:
            ops.append((entry.domain, entry.op_type))
            graphs += [attribute.g for attribute in entry.attribute if attribute.HasField("g")]
    return ops


def plain_options(level=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if level is not None:
        options.graph_optimization_level = level
    return options


def test_one_file_three_ways(tmp_path):
    clean = convolution()
    model = sd.insert(clean, sd.DropBlock2D(0.3, 3, seed=1))
    path = tmp_path / "net.onnx"
    sd.save(model, path)
    content = path.read_bytes()
    sites = sum(entry.op_type == "DropBlock" for entry in model.graph.node)
    assert sites == 2
    feeds = {"x": random_data((2, 3, 12, 12))}

    # No library: the functions run, spelled out.
    options = profiled(plain_options(), tmp_path)
    ops = operators_run(onnxruntime.InferenceSession(content, options), feeds)
    assert "DropBlock" not in ops
    assert set(ops) & BODY_OPS
    runner = onnxruntime.InferenceSession(content, plain_options())
    by_function = [run(runner, feeds)[0] for _ in range(3)]

    # The library: the kernel runs, once per node, and nothing of a function.
    options = profiled(options_of(), tmp_path)
    ops = operators_run(kernel_session(content, options=options), feeds)
    assert ops["DropBlock"] == sites
    assert not set(ops) & BODY_OPS
    runner = kernel_session(content)
    by_kernel = [run(runner, feeds)[0] for _ in range(3)]

    for results in (by_function, by_kernel):
        assert len({result.tobytes() for result in results}) == 3
        assert all((result == 0).mean() > 0.1 for result in results)

    # Inference mode: nothing is left of the nodes, and the outputs are the clean model's.
    quiet = sd.set_training_mode(model, False).SerializeToString()
    expected = run(onnxruntime.InferenceSession(clean.SerializeToString()), feeds)[0]
    left = {op for _, op in operators_left(quiet, plain_options(), tmp_path / "eval.onnx")}
    assert left <= {"Conv", "FusedConv", "Relu", "ReorderInput", "ReorderOutput"}
    result = run(onnxruntime.InferenceSession(quiet, plain_options()), feeds)[0]
    assert result.tobytes() == expected.tobytes()
    # With the library too, outputs are those of the clean model: its nodes pass data on.
    assert run(kernel_session(quiet), feeds)[0].tobytes() == expected.tobytes()
    # And fold takes them out of the file.
    folded = sd.fold(sd.set_training_mode(model, False))
    assert [entry.op_type for entry in folded.graph.node] == ["Conv", "Relu"] * 2


@each_level
@each_op
def test_the_kernel_wins_at_every_level(op_type, level, tmp_path):
    model = one_node(op_type, FREE)
    options = options_of(level)
    content = model.SerializeToString()
    assert operators_left(content, options, tmp_path / "a.onnx") == [(DOMAIN, op_type)]
    options = profiled(options_of(level), tmp_path)
    feeds = {"data": random_data(SIZES), "ratio": np.array(0.4, np.float32)}
    assert operators_run(kernel_session(model, options=options), feeds) == {op_type: 1}


@each_level
def test_the_gradient_kernel_wins_at_every_level(level, tmp_path):
    values = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("output_grad", TensorProto.FLOAT, FREE),
            ("mask", TensorProto.BOOL, FREE),
            ("scale", TensorProto.FLOAT, []),
            ("data_grad", TensorProto.FLOAT, FREE),
        )
    ]
    names = ["output_grad", "mask", "scale"]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(GRAD_OP, names, ["data_grad"], domain=DOMAIN, name="grad")],
            "gradient",
            values[:3],
            values[3:],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[function_proto(GRAD_OP, 20, "float32")],
        ir_version=8,
    )
    feeds = {
        "output_grad": random_data(SIZES),
        "mask": np.ones(SIZES, bool),
        "scale": np.array(2, np.float32),
    }
    options = profiled(options_of(level), tmp_path)
    assert operators_run(kernel_session(model, options=options), feeds) == {GRAD_OP: 1}


@each_op
def test_what_the_file_says_of_the_function_does_not_matter(op_type):
    """With the same seed, the kernel draws the same where the file holds no function."""
    model = one_node(op_type, FREE)
    data = random_data(SIZES)
    first, second = kernel_session(model), kernel_session(without_functions(model))
    for _ in range(3):
        pair = [dropped(runner, data, 0.4) for runner in (first, second)]
        assert_relations(op_type, attributes_of(op_type, 4), data, 0.4, pair[0])
        for ours, theirs in zip(*pair, strict=True):
            assert ours.tobytes() == theirs.tobytes()


def test_sessions_with_and_without_the_library_live_side_by_side(tmp_path):
    model = one_node("DropBlock", SIZES).SerializeToString()
    with_library = operators_left(model, options_of(), tmp_path / "with.onnx")
    without = operators_left(model, plain_options(), tmp_path / "without.onnx")
    again = operators_left(model, options_of(), tmp_path / "again.onnx")
    assert with_library == again == [(DOMAIN, "DropBlock")]
    assert (DOMAIN, "DropBlock") not in without


@each_op
def test_inside_a_branch_a_loop_and_a_function(op_type):
    """Nodes in subgraphs and in other functions run as kernels; each turn of a loop is a run."""
    attributes = attributes_of(op_type, 4)
    call = node(op_type, ["carried", "ratio"], ["dropped", "", ""], attributes)
    outer = helper.make_function(
        "own.domain",
        "Outer",
        ["carried", "ratio"],
        ["dropped"],
        [call],
        [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)],
    )
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Outer", ["x", "ratio"], ["seen"], domain="own.domain", name="call"),
            helper.make_node("Identity", ["going"], ["still"]),
        ],
        "body",
        [value("turn", TensorProto.INT64, []), value("going", TensorProto.BOOL, [])],
        [value("still", TensorProto.BOOL, []), value("seen", TensorProto.FLOAT, SIZES)],
    )
    branch = helper.make_graph(
        [helper.make_node("Loop", ["turns", ""], ["stacked"], body=body)],
        "branch",
        [],
        [value("stacked", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"])],
        "other",
        [],
        [value("same", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=other)],
        "outside",
        [
            value("flag", TensorProto.BOOL, []),
            value("turns", TensorProto.INT64, []),
            value("x", TensorProto.FLOAT, SIZES),
            value("ratio", TensorProto.FLOAT, []),
        ],
        [value("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid("", 20),
            helper.make_opsetid(DOMAIN, VERSION),
            helper.make_opsetid("own.domain", 1),
        ],
        # Our function is left out: only the kernel can run the node.
        functions=[outer],
        ir_version=9,
    )
    feeds = {
        "flag": np.array(True),
        "turns": np.array(5),
        "x": random_data(SIZES),
        "ratio": np.array(0.5, np.float32),
    }
    stacked = run(kernel_session(model), feeds)[0]
    assert stacked.shape == (5, *SIZES)
    assert len({turn.tobytes() for turn in stacked}) == 5
    reference = dropped(kernel_session(one_node(op_type, SIZES)), feeds["x"], 0.5).output
    assert stacked[0].tobytes() == reference.tobytes()
