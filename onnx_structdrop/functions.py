"""The operators as model-local functions, instantiated for a model's opset and element type.

The bodies are translated from ONNXScript once per element type and then retargeted: a
function must import the very opset of the model that holds it.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING

import onnx

from onnx_structdrop import bodies
from onnx_structdrop.errors import ArgumentError, UnsupportedModelError
from onnx_structdrop.schema import DOMAIN, ELEMENT_TYPES, MAX_OPSET, MIN_OPSET, OPERATORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["check_opset", "function_proto"]

_BODIES: dict[str, Callable[[bodies.Arithmetic], Any]] = {
    "SpatialDropout": bodies.spatial_dropout,
    "NoiseShapeDropout": bodies.noise_shape_dropout,
    "DropBlock": bodies.drop_block,
    "StructuredDropoutGrad": bodies.structured_grad,
}

_SUMMARIES = {
    "SpatialDropout": "Drops whole channels; keeps with probability 1 - ratio.",
    "NoiseShapeDropout": "Drops with one decision per cell of noise_shape (1 = shared, 0 = own).",
    "DropBlock": "Drops blocks around random seeds so that about ratio of the map is lost.",
    "StructuredDropoutGrad": "Gradient of the dropout operators: where(mask, grad * scale, 0).",
}

_TENSOR = onnx.TensorProto
_ARITHMETIC = {
    # The product is computed wide and rounded once, as the reference does.
    "float16": bodies.Arithmetic(_TENSOR.FLOAT16, _TENSOR.FLOAT),
    "bfloat16": bodies.Arithmetic(_TENSOR.BFLOAT16, _TENSOR.FLOAT),
    "float32": bodies.Arithmetic(_TENSOR.FLOAT, _TENSOR.FLOAT),
    "float64": bodies.Arithmetic(_TENSOR.DOUBLE, _TENSOR.DOUBLE),
    None: bodies.Arithmetic(_TENSOR.UNDEFINED, _TENSOR.DOUBLE),
}

_ALLOWZERO_SINCE = 14
_CAST_LIKE_SINCE = 15
_BFLOAT16_BRANCH_SINCE = 16
_REDUCE_PROD_AXES_INPUT_SINCE = 18


def check_opset(opset: int) -> None:
    """Raise unless function bodies exist for this ai.onnx opset.

    Parameters
    ----------
    opset
        Version of the default operator set that the model imports.

    Raises
    ------
    UnsupportedModelError
        Outside `MIN_OPSET` to `MAX_OPSET`.
    """
    if opset < MIN_OPSET:
        raise UnsupportedModelError(
            f"the model imports ai.onnx opset {opset}, but structured dropout needs at least "
            f"{MIN_OPSET} (Dropout takes its ratio as an input from there on); convert it first: "
            f"onnx.version_converter.convert_version(model, {MIN_OPSET})"
        )
    if opset > MAX_OPSET:
        raise UnsupportedModelError(
            f"the model imports ai.onnx opset {opset}, newer than the newest supported one, "
            f"{MAX_OPSET}; export it at opset {MAX_OPSET} or below"
        )


def function_proto(
    op_type: str, opset: int, element_type: str | None, *, mask_used: bool = True
) -> onnx.FunctionProto:
    """Return one operator as a model-local function.

    Parameters
    ----------
    op_type
        Operator name, a key of `onnx_structdrop.schema.OPERATORS`.
    opset
        ai.onnx opset of the model that will hold the function, 13 to 26.
    element_type
        Element type of the data in all calls of the function: "float16", "bfloat16",
        "float32" or "float64". None makes a function for mixed or unknown types: it
        computes in float64 and needs opset 15 (CastLike).
    mask_used
        Whether any call has a use for mask or scale. If not, both are scalars in inference
        mode: their shapes would have to be computed, and onnxruntime computes what nobody uses.

    Returns
    -------
    onnx.FunctionProto
        A copy that the caller may change. Its attributes have no defaults: a node must
        spell them all out, so that every runtime and IR version reads the same.

    Raises
    ------
    ArgumentError
        If `op_type` or `element_type` is not one of those above.
    UnsupportedModelError
        If there is no body for `opset` (and these types).
    """
    if op_type not in OPERATORS:
        raise ArgumentError(f"unknown operator {op_type!r}; known are {', '.join(OPERATORS)}")
    if element_type is not None and element_type not in ELEMENT_TYPES:
        raise ArgumentError(
            f"{op_type} has no body for element type {element_type!r}; "
            f"allowed are {', '.join(ELEMENT_TYPES)}"
        )
    check_opset(opset)
    if element_type is None and opset < _CAST_LIKE_SINCE:
        raise UnsupportedModelError(
            f"{op_type} on several (or unknown) element types in one model needs ai.onnx opset "
            f"{_CAST_LIKE_SINCE}, the model imports {opset}; convert it first: "
            f"onnx.version_converter.convert_version(model, {_CAST_LIKE_SINCE})"
        )
    proto = onnx.FunctionProto()
    proto.CopyFrom(_translated(op_type, element_type, mask_used))
    proto.opset_import[0].version = opset
    if opset < _ALLOWZERO_SINCE:
        _without_allowzero(proto)
    if opset < _REDUCE_PROD_AXES_INPUT_SINCE:
        _axes_as_attribute(proto)
    if opset < _BFLOAT16_BRANCH_SINCE and element_type in ("bfloat16", None):
        _branch_wide(proto, _ARITHMETIC[element_type])
    return proto


@cache
def _translated(op_type: str, element_type: str | None, mask_used: bool) -> onnx.FunctionProto:
    source = _BODIES[op_type](_ARITHMETIC[element_type])
    proto: onnx.FunctionProto = source.to_function_proto()
    proto.domain = DOMAIN
    proto.doc_string = _SUMMARIES[op_type]
    types = _ARITHMETIC[element_type]
    if types.element == types.wide:
        _remove_casts_of_data(proto)
    _move_into_branches(proto, mask_used=mask_used)
    for node in _nodes(proto.node):
        if node.op_type == "Cast" and node.attribute[0].i == _TENSOR.UNDEFINED:
            node.op_type = "CastLike"
            del node.attribute[:]
            node.input.append(proto.input[0])
    return proto


def _branching(proto: onnx.FunctionProto) -> onnx.NodeProto | None:
    """Return the ``If`` on training_mode; the gradient has none."""
    return next((node for node in proto.node if node.op_type == "If"), None)


def _nodes(nodes: Any) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g.node)


def _remove_casts_of_data(proto: onnx.FunctionProto) -> None:
    """Remove the casts of data and result, which change nothing but cost a pass each."""
    data, result = proto.input[0], proto.output[0]
    branching = _branching(proto)
    if branching is None:
        _skip_casts(proto.node, data, result)
        return
    place = list(branching.output).index(result)
    for attribute in branching.attribute:
        _skip_casts(attribute.g.node, data, attribute.g.output[place].name)


def _skip_casts(nodes: Any, data: str, result: str) -> None:
    for position in reversed(range(len(nodes))):
        node = nodes[position]
        if node.op_type != "Cast":
            continue
        if node.input[0] == data:
            old, new = node.output[0], data
        elif node.output[0] == result:
            old, new = node.input[0], result
        else:
            continue
        del nodes[position]
        for other in nodes:
            for names in (other.input, other.output):
                names[:] = [new if name == old else name for name in names]


def _move_into_branches(proto: onnx.FunctionProto, *, mask_used: bool) -> None:
    """Move the arithmetic in front of the ``If`` into the branches that need it.

    onnxruntime removes no node for being without use: what stands outside would run in inference
    mode, and as a consumer of data keep it from fusing what surrounds the node.
    """
    branching = _branching(proto)
    if branching is None:
        return
    outside = [node for node in proto.node if node is not branching]
    for attribute in branching.attribute:
        branch = attribute.g
        if attribute.name == "else_branch" and not mask_used:
            _forget_mask(branch)
        needed = [copy.deepcopy(node) for node in _needed(outside, _inputs(branch.node))]
        for node in needed:
            node.name += "_outside"
        if attribute.name == "else_branch":
            _rename_outputs(needed, branch, "_eval")
        _replace(branch.node, [*needed, *branch.node])
    _replace(proto.node, [*_needed(outside, set(branching.input)), branching])


def _inputs(nodes: Any) -> set[str]:
    return {name for node in _nodes(nodes) for name in node.input}


def _needed(nodes: list[onnx.NodeProto], names: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that the values of these names are computed by, in order."""
    found: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if names.intersection(node.output):
            names = names.union(node.input)
            found.insert(0, node)
    return found


def _rename_outputs(nodes: list[onnx.NodeProto], branch: onnx.GraphProto, suffix: str) -> None:
    """Rename what the nodes make, here and in the branch that reads it."""
    made = {name for node in nodes for name in node.output}
    for node in (*nodes, *_nodes(branch.node)):
        for names in (node.input, node.output):
            names[:] = [f"{name}{suffix}" if name in made else name for name in names]


def _replace(place: Any, nodes: list[onnx.NodeProto]) -> None:
    copies = [copy.deepcopy(node) for node in nodes]
    del place[:]
    place.extend(copies)


def _forget_mask(branch: onnx.GraphProto) -> None:
    """Make mask and scale of the inference branch plain scalars."""
    result, mask, scale = (
        next(value.name for value in branch.output if value.name.startswith(word))
        for word in ("output", "mask", "scale")
    )
    truth = onnx.helper.make_tensor(mask, _TENSOR.BOOL, [], [True])
    constants = [
        onnx.helper.make_node("Constant", [], [mask], value=truth, name="no_mask"),
        onnx.helper.make_node("Constant", [], [scale], value_float=1.0, name="no_scale"),
    ]
    _replace(branch.node, [*_needed(list(branch.node), {result}), *constants])


def _without_allowzero(proto: onnx.FunctionProto) -> None:
    for node in _nodes(proto.node):
        if node.op_type == "Reshape":
            del node.attribute[:]


def _axes_as_attribute(proto: onnx.FunctionProto) -> None:
    constants = {
        node.output[0]: list(node.attribute[0].ints)
        for node in _nodes(proto.node)
        if node.op_type == "Constant" and node.attribute[0].name == "value_ints"
    }
    for node in _nodes(proto.node):
        if node.op_type == "ReduceProd" and len(node.input) == 2:
            node.attribute.append(onnx.helper.make_attribute("axes", constants[node.input.pop()]))


def _branch_wide(proto: onnx.FunctionProto, types: bodies.Arithmetic) -> None:
    """Move the cast to the element type behind the ``If``, which takes no bfloat16 below 16."""
    branching = _branching(proto)
    if branching is None:
        return
    result = proto.output[0]
    place = list(branching.output).index(result)
    for attribute in branching.attribute:
        branch = attribute.g
        output = branch.output[place].name
        position = next(i for i, node in enumerate(branch.node) if output in node.output)
        last = branch.node[position]
        if last.op_type in ("Cast", "CastLike"):
            branch.output[place].name = last.input[0]
            del branch.node[position]
        else:
            last.op_type = "Cast"
            last.attribute.append(onnx.helper.make_attribute("to", types.wide))
    wide = branching.output[place] = f"{result}_wide"
    if types.element == _TENSOR.UNDEFINED:
        proto.node.append(onnx.helper.make_node("CastLike", [wide, proto.input[0]], [result]))
    else:
        proto.node.append(onnx.helper.make_node("Cast", [wide], [result], to=types.element))
