"""Models of one operator to be timed.

The form of a node is settled by what the model holds. A kernel's model has no function, so that a
session without the library cannot be made from it: what such a session runs is the kernel. The
model of a function form is run without the library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import AttributeProto, helper

from onnx_structdrop.functions import function_proto
from onnx_structdrop.schema import DOMAIN, GRAD_OP, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onnx_structdrop.specs.base import DropoutSpec

__all__ = [
    "DATA",
    "MASK",
    "OUTPUT",
    "SCALE",
    "TYPES",
    "chain_model",
    "dropout_model",
    "gradient_model",
    "multiply_model",
    "structured_model",
]

DATA, SCALE, MASK, OUTPUT = "data", "scale", "mask", "output"
"""Names of the inputs and outputs; `MASK` is an output, but an input of the gradient."""

TYPES = {
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
    "bool": onnx.TensorProto.BOOL,
}
"""Element types by name."""

_OPSET = 20
_IR_VERSION = 9
_SEED = 2018


def multiply_model(shape: Sequence[int]) -> bytes:
    """Return the unit: float32 data times a scalar, one read and one write per element."""
    return _model(
        [helper.make_node("Mul", [DATA, "factor"], [OUTPUT])],
        {DATA: ("float32", shape)},
        {OUTPUT: ("float32", shape)},
        {"factor": 2.0},
    )


def dropout_model(shape: Sequence[int], rate: float) -> bytes:
    """Return onnxruntime's own Dropout in training mode.

    Its mask is an output of the model: onnxruntime deletes a Dropout whose mask nobody asks for.
    """
    on = helper.make_tensor("training", onnx.TensorProto.BOOL, [], [True])
    return _model(
        [helper.make_node("Dropout", [DATA, "ratio", "training"], [OUTPUT, MASK], seed=_SEED)],
        {DATA: ("float32", shape)},
        {OUTPUT: ("float32", shape), MASK: ("bool", shape)},
        {"ratio": rate},
        [on],
    )


def structured_model(
    spec: DropoutSpec,
    shape: Sequence[int],
    *,
    element: str = "float32",
    as_function: bool = False,
    mask_shape: Sequence[int] | None = None,
) -> bytes:
    """Return one node of a specification.

    Parameters
    ----------
    spec
        What to drop.
    shape, element
        Data.
    as_function
        Whether the model holds the function of the node, for a session without the library.
    mask_shape
        Shape of the mask, where it is to be an output.
    """
    outputs: dict[str, tuple[str, Sequence[int]]] = {OUTPUT: (element, shape)}
    if mask_shape is not None:
        outputs[MASK] = ("bool", mask_shape)
    functions = []
    if as_function:
        used = mask_shape is not None
        functions.append(function_proto(spec.op_type, _OPSET, element, mask_used=used))
    return _model(
        [_node(spec, len(shape), DATA, OUTPUT, MASK if mask_shape is not None else "")],
        {DATA: (element, shape)},
        outputs,
        {"ratio": spec.rate},
        functions=functions,
    )


def gradient_model(shape: Sequence[int], *, element: str = "float32") -> bytes:
    """Return the gradient operator on a full mask."""
    return _model(
        [helper.make_node(GRAD_OP, [DATA, MASK, SCALE], [OUTPUT], domain=DOMAIN)],
        {DATA: (element, shape), MASK: ("bool", shape), SCALE: ("float32", ())},
        {OUTPUT: (element, shape)},
        {},
    )


def chain_model(
    spec: DropoutSpec, shape: Sequence[int], length: int, *, shape_known: bool
) -> bytes:
    """Return nodes in a row between two multiplications.

    onnxruntime lets a node write over its input only where nobody else owns the input, so that
    neither end can be an input or output of the model, and only where it knows that the shapes are
    equal. Where `shape_known` is False, it has to find other memory for each output.
    """
    nodes = [helper.make_node("Mul", [DATA, "twice"], ["link_0"])]
    # Nodes of one seed would draw one mask.
    nodes += [
        _node(spec, len(shape), f"link_{i}", f"link_{i + 1}", "", seed=_SEED + i)
        for i in range(length)
    ]
    nodes.append(helper.make_node("Mul", [f"link_{length}", "half"], [OUTPUT]))
    declared = shape if shape_known else None
    return _model(
        nodes,
        {DATA: ("float32", declared)},
        {OUTPUT: ("float32", declared)},
        {"twice": 2.0, "half": 0.5, "ratio": spec.rate},
    )


def _node(
    spec: DropoutSpec, rank: int, data: str, output: str, mask: str, *, seed: int = _SEED
) -> onnx.NodeProto:
    node = helper.make_node(
        spec.op_type, [data, "ratio"], [output, mask, ""], domain=DOMAIN, name=f"{output}_dropout"
    )
    attributes = {"training_mode": 1, "seed": seed, **spec.node_attributes(rank)}
    for name, value in attributes.items():
        kind = AttributeProto.INT if isinstance(value, int) else AttributeProto.INTS
        node.attribute.append(helper.make_attribute(name, value, attr_type=kind))
    return node


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[int] | None]],
    outputs: Mapping[str, tuple[str, Sequence[int] | None]],
    scalars: Mapping[str, float],
    initializers: Iterable[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> bytes:
    def values(
        described: Mapping[str, tuple[str, Sequence[int] | None]],
    ) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, TYPES[element], shape)
            for name, (element, shape) in described.items()
        ]

    constants: list[Any] = [
        helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [value])
        for name, value in scalars.items()
    ]
    graph = helper.make_graph(
        list(nodes), "benchmark", values(inputs), values(outputs), [*constants, *initializers]
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        functions=functions,
        ir_version=_IR_VERSION,
    )
    content: bytes = model.SerializeToString()
    return content
