"""Which operators onnxruntime-training 1.19.2 has gradients for, and whether they are right.

Each operator stands in a graph of its own between a convolution-like product and a loss. The
artifacts are built, a step runs, and the gradient along a random direction is compared with a
finite difference. Every case runs with static sizes, with a free batch and with free sizes
throughout, at several opsets, in a process of its own: some gradient kernels end it.

    python benchmarks/gradients.py [--opset 13 --opset 17 --opset 21] [NAME...]

The table in ``onnx_structdrop/training/preparation/support.py`` was made with it.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnx_structdrop.graph.topology.dataflow import operators

rng = np.random.default_rng(0)
IMAGE = (2, 4, 6, 6)
FREE = ("", "batch", "all")


def signed(*shape):
    """Return numbers from -1 to 1."""
    return rng.uniform(-1, 1, shape).astype(np.float32)


def positive(*shape):
    """Return numbers from 0.3 to 1."""
    return rng.uniform(0.3, 1, shape).astype(np.float32)


def ints(*values):
    """Return a list of int64."""
    return np.array(values, np.int64)


UNARY = operators(
    """Abs Acos Asin Asinh Atan Atanh Ceil Celu Clip Cos Cosh DepthToSpace Elu Erf Exp Flatten
Floor Gelu GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Hardmax Identity LeakyRelu
LogSoftmax LpNormalization Mish Neg Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus
Softsign SpaceToDepth Tan Tanh ThresholdedRelu"""
)
ON_POSITIVE = ["Sqrt", "Log", "Reciprocal"]
BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "PRelu"]
REDUCTIONS = operators(
    """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceProd ReduceSum ReduceSumSquare"""
)

CASES = {
    "BatchNormalization": ([signed(*IMAGE), positive(4), signed(4)], [signed(4), positive(4)],
                           {"training_mode": 1}, 3),
    "Cast": ([signed(*IMAGE)], [], {"to": TensorProto.FLOAT}, 1),
    "CastLike": ([signed(*IMAGE)], [np.float32(1)], {}, 1),
    "Concat": ([signed(*IMAGE), signed(*IMAGE)], [], {"axis": 1}, 1),
    "Conv": ([signed(*IMAGE), signed(4, 4, 3, 3), signed(4)], [], {"pads": [1] * 4}, 1),
    "Conv SAME": ([signed(*IMAGE), signed(4, 4, 3, 3)], [],
                  {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 1),
    "Conv depthwise": ([signed(*IMAGE), signed(4, 1, 3, 3)], [], {"group": 4}, 1),
    "ConvTranspose": ([signed(*IMAGE), signed(4, 3, 2, 2)], [], {"strides": [2, 2]}, 1),
    "CumSum": ([signed(*IMAGE)], [np.int64(1)], {}, 1),
    "Dropout": ([signed(*IMAGE)], [np.float32(0), np.array(True)], {}, 2),
    "Einsum": ([signed(3, 4), signed(4, 5)], [], {"equation": "ij,jk->ik"}, 1),
    "Expand": ([signed(2, 4, 1, 1)], [ints(2, 4, 3, 3)], {}, 1),
    "Gather": ([signed(*IMAGE)], [ints(0, 2)], {"axis": 1}, 1),
    "GatherElements": ([signed(3, 4)], [np.zeros((1, 4), np.int64)], {}, 1),
    "GatherND": ([signed(3, 4)], [np.zeros((2, 1), np.int64)], {}, 1),
    "Gemm": ([signed(3, 4), signed(5, 4), signed(5)], [], {"transB": 1}, 1),
    "GroupNormalization": ([signed(*IMAGE), positive(4), signed(4)], [], {"num_groups": 2}, 1),
    "GridSample": ([signed(*IMAGE)], [signed(2, 3, 3, 2)], {}, 1),
    "InstanceNormalization": ([signed(*IMAGE), positive(4), signed(4)], [], {}, 1),
    "LayerNormalization": ([signed(2, 3, 8), positive(8), signed(8)], [], {}, 3),
    "LayerNormalization one output": ([signed(2, 3, 8), positive(8), signed(8)], [], {}, 1),
    "LRN": ([signed(*IMAGE)], [], {"size": 3}, 1),
    "MatMul": ([signed(2, 3, 4), signed(4, 5)], [], {}, 1),
    "MatMul vector": ([signed(2, 3, 4), signed(4)], [], {}, 1),
    "AveragePool": ([signed(*IMAGE)], [], {"kernel_shape": [2, 2], "strides": [2, 2]}, 1),
    "AveragePool dilated": ([signed(*IMAGE)], [], {"kernel_shape": [2, 2], "dilations": [2, 2]}, 1),
    "MaxPool": ([signed(*IMAGE)], [], {"kernel_shape": [2, 2], "strides": [2, 2]}, 1),
    "MaxPool by columns": ([signed(*IMAGE)], [], {"kernel_shape": [2, 2], "storage_order": 1}, 1),
    "LpPool": ([signed(*IMAGE)], [], {"kernel_shape": [2, 2]}, 1),
    "Pad": ([signed(*IMAGE)], [ints(0, 0, 1, 1, 0, 0, 1, 1)], {}, 1),
    "Pad reflect": ([signed(*IMAGE)], [ints(0, 0, 1, 1, 0, 0, 1, 1)], {"mode": "reflect"}, 1),
    "Pad axes": ([signed(*IMAGE)], [ints(1, 1, 1, 1), np.float32(0), ints(2, 3)], {}, 1),
    "Pow": ([positive(*IMAGE)], [np.float32(2.5)], {}, 1),
    "Pow exponent": ([positive(*IMAGE), positive(*IMAGE)], [], {}, 1),
    "Reshape": ([signed(*IMAGE)], [ints(0, -1)], {}, 1),
    "Resize": ([signed(*IMAGE)], [None, np.float32([1, 1, 2, 2])], {"mode": "linear"}, 1),
    "ScatterElements": ([signed(3, 4)], [np.zeros((1, 4), np.int64), signed(1, 4)], {}, 1),
    "ScatterND": ([signed(3, 4)], [np.zeros((1, 1), np.int64), signed(1, 4)], {}, 1),
    "Slice": ([signed(*IMAGE)], [ints(1), ints(5), ints(2), ints(2)], {}, 1),
    "Split": ([signed(*IMAGE)], [ints(2, 2)], {"axis": 1}, 2),
    "Squeeze": ([signed(2, 4, 1, 1)], [ints(2, 3)], {}, 1),
    "Tile": ([signed(*IMAGE)], [ints(1, 1, 2, 2)], {}, 1),
    "Transpose": ([signed(*IMAGE)], [], {"perm": [0, 2, 3, 1]}, 1),
    "Trilu": ([signed(4, 4)], [], {}, 1),
    "Unsqueeze": ([signed(*IMAGE)], [ints(2)], {}, 1),
    "Where broadcast": ([signed(*IMAGE)], [], {}, 1),
}  # fmt: skip
CASES |= {name: ([signed(*IMAGE)], [], {}, 1) for name in UNARY}
CASES |= {name: ([positive(*IMAGE)], [], {}, 1) for name in ON_POSITIVE}
CASES |= {name: ([positive(*IMAGE), positive(4, 1, 1)], [], {}, 1) for name in BINARY}
CASES |= {name: ([positive(*IMAGE)], [ints(2, 3)], {}, 1) for name in REDUCTIONS}
for shuffle in ("DepthToSpace", "SpaceToDepth"):
    CASES[shuffle] = ([signed(*IMAGE)], [], {"blocksize": 2}, 1)


def build(name, opset, free):
    """Return the model and the names of its parameters."""
    trained, fixed, attributes, outputs = CASES[name]
    op_type = name.split()[0]
    attributes = dict(attributes)
    fixed = list(fixed)
    if op_type in REDUCTIONS and opset < 18 and op_type != "ReduceSum":
        attributes["axes"] = fixed.pop().tolist()
    tensors, names = [], []
    for index, array in enumerate((*trained, *fixed)):
        kind = "p" if index < len(trained) else "c"
        names.append("" if array is None else f"{kind}{index}")
        if array is not None:
            content = array[:1] if index == 0 and free else array
            if index == 0 and free == "all" and array.ndim > 2:
                content = content[:, :, :1, :1] if array.ndim == 4 else content
            tensors.append(numpy_helper.from_array(np.asarray(content), names[-1]))
    shape = list(trained[0].shape)
    dims = list(shape)
    if free:
        dims[0] = "N"
    if free == "all":
        dims[2:] = [f"S{axis}" for axis in range(2, len(shape))]
    nodes = [helper.make_node("Mul", ["x", names[0]], ["z"])]
    made = ["y", "y1", "y2"][:outputs]
    if op_type == "Where":
        tensors.append(numpy_helper.from_array(np.tile([True, False], 2)[:, None, None], "mask"))
        tensors.append(numpy_helper.from_array(np.float32(0), "zero"))
        nodes.append(helper.make_node("Where", ["mask", "z", "zero"], ["y"]))
    else:
        nodes.append(helper.make_node(op_type, ["z", *names[1:]], made, **attributes))
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model, [f"p{index}" for index in range(len(trained))], shape


def probe(name, opset, free):
    """Return what becomes of one case: "right", or what went wrong and where."""
    from onnxruntime.training import artifacts
    from onnxruntime.training.api import CheckpointState, Module

    model, parameters, shape = build(name, opset, free)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    x = rng.uniform(0.5, 1, shape).astype(np.float32)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    except Exception as error:  # noqa: BLE001 - the runtime raises many kinds
        return f"not at this opset: {str(error)[-80:]}"
    y = session.run(["y"], {"x": x})[0]
    dims = [f"D{axis}" if free else size for axis, size in enumerate(y.shape)]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, dims))
    target = rng.uniform(-1, 1, y.shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "training_model.onnx")
        try:
            artifacts.generate_artifacts(
                model, requires_grad=parameters, loss=artifacts.LossType.MSELoss,
                artifact_directory=folder,
            )  # fmt: skip
            proto = onnx.load(path)
            proto.ir_version = 8
            onnx.save(proto, path)
            state = CheckpointState.load_checkpoint(str(pathlib.Path(folder, "checkpoint")))
            module = Module(str(path), state, session_options=options)
            module.train()
            module(x, target)
        except Exception as error:  # noqa: BLE001
            return "no gradient: " + " ".join(str(error).split())[-90:]
        for key in parameters:
            module.lazy_reset_grad()
            module(x, target)
            gradient = state.parameters[key].grad.astype(np.float64)
            if not gradient.any():
                return f"zero for {key}"
            direction = np.sign(gradient) * rng.uniform(0.3, 1, gradient.shape)
            direction /= np.linalg.norm(direction)
            value, losses = state.parameters[key].data.copy(), []
            for sign in (1, -1):
                moved = value + sign * 3e-3 * direction
                state.parameters[key].data = moved.astype(np.float32)
                losses.append(float(module(x, target)))
            state.parameters[key].data = value
            slope, told = (losses[0] - losses[1]) / 6e-3, (gradient * direction).sum()
            if abs(slope - told) > 0.05 * abs(told) + 1e-4:
                return f"wrong for {key}: {told:.4g}, the loss says {slope:.4g}"
    return "right"


def apart(name, opset, free):
    """Run one case in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            text = probe(name, opset, free)
        except Exception as error:  # noqa: BLE001
            text = f"no run: {str(error)[-80:]}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return text or f"the process ends with signal {status}"


def main() -> int:
    """Print a line for each operator."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--opset", type=int, action="append")
    given = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    for name in given.names or sorted(CASES):
        found = {}
        for opset in given.opset or (13, 17, 21):
            for free in FREE:
                text = apart(name, opset, free)
                found.setdefault(text, []).append(f"{opset}{free and ' free ' + free}")
        told = "; ".join(
            text if len(found) == 1 else f"{text} ({', '.join(places)})"
            for text, places in found.items()
        )
        print(f"{name}: {told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
