"""Stand-in for the preparation, until it is there."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx
import onnx_ir as ir

from onnx_structdrop.functions import function_proto
from onnx_structdrop.graph.convert import as_ir, to_proto
from onnx_structdrop.graph.nodes import dropout_nodes
from onnx_structdrop.graph.scopes import default_opset
from onnx_structdrop.schema import DOMAIN, VERSION


@dataclasses.dataclass(frozen=True)
class Prepared:
    model: Any
    changes: tuple
    trainable: tuple
    frozen: tuple
    ratios: tuple
    statistics: tuple = ()


def prepare(model, *, requires_grad=None, frozen=(), batch_norm="frozen"):
    result = as_ir(model)
    ratios = []
    for i, (_, node) in enumerate(dropout_nodes(result)):
        node.outputs[1].name = f"structdrop_mask_{i}"
        node.outputs[2].name = f"structdrop_scale_{i}"
        if node.inputs[1].name not in ratios:
            ratios.append(node.inputs[1].name)
    opset = default_opset(result)
    names = {n.op_type for _, n in dropout_nodes(result)} | {"StructuredDropoutGrad"}
    result.opset_imports.setdefault(DOMAIN, VERSION)
    for op in names:
        kw = {} if op == "StructuredDropoutGrad" else {"mask_used": True}
        result.functions[DOMAIN, op, ""] = ir.serde.deserialize_function(
            function_proto(op, opset, "float32", **kw)
        )
    proto = to_proto(result)
    proto.ir_version = min(proto.ir_version, 10)
    stats = {i for n in proto.graph.node if n.op_type == "BatchNormalization" for i in n.input[3:5]}
    floats = [
        i.name
        for i in proto.graph.initializer
        if i.data_type == onnx.TensorProto.FLOAT and i.name not in ratios
    ]
    fixed = set(frozen) | stats
    if requires_grad is None:
        requires_grad = [n for n in floats if n not in fixed and n]
    rest = [n for n in floats if n not in requires_grad]
    return Prepared(proto, (), tuple(requires_grad), tuple(rest) + tuple(ratios), tuple(ratios))
