"""A network of one parameter and one dropout node, as artifacts."""

from __future__ import annotations

import numpy as np
import onnx
from one_node import TENSOR_TYPES, attributes_of
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnx_structdrop.functions import function_proto
from onnx_structdrop.schema import DOMAIN, GRAD_OP, VERSION
from onnx_structdrop.training import Prepared, generate_artifacts

OPSET = 17


def operator_artifacts(folder, op_type, weights, *, element="float32", ratio=0.6, **changes):
    """Return artifacts that train `weights` so that what a node makes of them meets a target."""
    attributes = {"training_mode": 1, "seed": 6, **attributes_of(op_type, weights.ndim, **changes)}
    call = helper.make_node(op_type, ["data", "ratio"], ["dropped", "mask", "scale"], domain=DOMAIN)
    for name, value in attributes.items():
        kind = AttributeProto.INTS if isinstance(value, list) else AttributeProto.INT
        call.attribute.append(helper.make_attribute(name, value, attr_type=kind))
    nodes = [
        helper.make_node("Cast", ["weights"], ["data"], to=TENSOR_TYPES[element]),
        call,
        helper.make_node("Cast", ["dropped"], ["output"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, weights.shape)],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.asarray(ratio, np.float32), "ratio"),
        ],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        functions=[
            function_proto(op_type, OPSET, element, mask_used=True),
            function_proto(GRAD_OP, OPSET, element),
        ],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    prepared = Prepared(model, (), ("weights",), ("ratio",), ("ratio",))
    return generate_artifacts(
        prepared, folder, loss="mse", optimizer="sgd", extra_outputs=["mask", "scale"]
    )
