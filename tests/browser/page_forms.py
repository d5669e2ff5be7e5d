"""Small models in the forms that a page could load: functions, inlined, and plain Dropout."""

from __future__ import annotations

import numpy as np
import onnx

import onnx_structdrop as sd

SHAPE = (8, 4, 12, 12)
SPECS = {
    "SpatialDropout": sd.SpatialDropout2D(0.3, seed=1),
    "DropBlock": sd.DropBlock2D(0.3, 3, seed=1),
    "NoiseShapeDropout": sd.DropPath(0.5, seed=1),
}
OPSETS = (13, 18, 22)
UNIFORM_UNTIL = 21


def forms() -> dict[str, onnx.ModelProto]:
    """Return models by name, "operator opset form"; each is random if the runtime keeps it so."""
    result = {}
    for opset in OPSETS:
        for name, spec in SPECS.items():
            live = sd.insert(plain(opset, "Relu"), spec)
            result[f"{name} {opset} function"] = live
            result[f"{name} {opset} inlined"] = sd.inline(live)
            if opset <= UNIFORM_UNTIL:
                result[f"{name} {opset} uniform"] = sd.inline(live, "uniform")
        result[f"Dropout {opset} standard"] = plain(opset, "Dropout")
    return result


def plain(opset: int, last: str) -> onnx.ModelProto:
    """Return Conv, Relu, and what is asked for behind them; Dropout is in training mode."""
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node
    eye = np.eye(SHAPE[1], dtype=np.float32).reshape(SHAPE[1], SHAPE[1], 1, 1)
    weights = [onnx.numpy_helper.from_array(eye, "w")]
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"])]
    if last == "Dropout":
        nodes += [node("Dropout", ["r", "ratio", "training"], ["d"]), node("Relu", ["d"], ["y"])]
        weights += [onnx.helper.make_tensor("ratio", onnx.TensorProto.FLOAT, [], [0.3])]
        weights += [onnx.helper.make_tensor("training", onnx.TensorProto.BOOL, [], [True])]
    else:
        nodes += [node("Conv", ["r", "w"], ["d"]), node(last, ["d"], ["y"])]
    shape = ["N", *SHAPE[1:]]
    graph = onnx.helper.make_graph(
        nodes,
        "plain",
        [value("x", onnx.TensorProto.FLOAT, shape)],
        [value("y", onnx.TensorProto.FLOAT, shape)],
        weights,
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8
    )
