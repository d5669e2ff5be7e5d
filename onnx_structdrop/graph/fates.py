"""What runtimes and optimisers do to the random nodes of a model without being asked.

Found by running them (onnxruntime 1.31, onnxslim 0.1, onnxsim 0.8, onnxoptimizer 0.4, onnxscript
0.7) on each form; the tests run onnxruntime's part again on the installed version.

=========  =======================================================================================
deleted    onnxruntime's EliminateDropout, on at the levels basic and above, deletes Dropout even
           in training mode, unless its mask is used, its output is an output of its graph, its
           data come from an input, a constant or another graph, or a subgraph reads both its
           output and its data. Other optimisers delete more.
frozen     Constant folders run a generator whose inputs are constant, once and for all: onnxslim
           every one of them, the onnxscript optimizer Bernoulli and Dropout.
merged     Common subexpression elimination takes nodes with equal inputs and attributes for one:
           onnxsim, onnxoptimizer and onnxslim; of Dropout also onnx-ir and onnxscript.
=========  =======================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from onnx_structdrop.graph.files.wellformed import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

__all__ = ["Fates", "is_deleted"]

_SMALL = 1024
"""Bytes up to which constants are compared by content."""

_SHAPE_ONLY = ("Shape", "Size")


def is_deleted(node: ir.Node, formal: frozenset[ir.Value] = frozenset()) -> bool | None:
    """Tell whether onnxruntime deletes a Dropout of the default domain, whatever its mode.

    Parameters
    ----------
    node
        A Dropout.
    formal
        Inputs and outputs of the function that it is in: what they become is for the caller
        to say.

    Returns
    -------
    bool or None
        None where that depends on the call of its function, or on whether one subgraph reads
        its output as well as its data.
    """
    if not node.outputs or not node.inputs or node.inputs[0] is None:
        return False
    output = node.outputs[0]
    if any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:]):
        return False
    if output.is_graph_output():
        return None if output in formal else False
    # An Identity in front is gone by then.
    data, producer = node.inputs[0], node.inputs[0].producer()
    while producer is not None and producer.op_type == "Identity":
        source = producer.inputs[0] if producer.inputs else None
        if source is None:
            return False
        data, producer = source, source.producer()
    if producer is None:
        return None if data in formal else False
    if producer.graph is not node.graph or producer.op_type == "Constant":
        return False
    # It renames what subgraphs read, unless the new name is there already.
    return None if _is_read_inside(output) and _is_read_inside(data) else True


def _is_read_inside(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and any(
        user.graph is not producer.graph for user, _ in value.uses()
    )


class Fates:
    """Which random nodes of a model would be frozen, and which taken for one."""

    def __init__(self) -> None:
        self._keys: dict[ir.Value, int] = {}
        self._constant: set[ir.Value] = set()
        self._numbers: dict[Hashable, int] = {}
        self._frozen: set[ir.Node] = set()
        self._alike: dict[Hashable, list[ir.Node]] = {}
        self._group: dict[ir.Node, Hashable] = {}
        self._named: dict[Hashable, tuple[str, ...]] = {}

    def read(self, graph: ir.Graph | ir.Function, random: Collection[ir.Node]) -> None:
        """Look at a graph, given that the graphs around it were looked at.

        Parameters
        ----------
        graph
            Is only read. Its nodes are in topological order.
        random
            Its random nodes.
        """
        for node in graph:
            key = self._number(self._key(node))
            constant = self._is_constant(node)
            if node in random:
                self._group[node] = (key, id(graph))
                self._alike.setdefault(self._group[node], []).append(node)
                if constant:
                    self._frozen.add(node)
                continue
            for place, output in enumerate(node.outputs):
                self._keys[output] = self._number((key, place))
                if constant:
                    self._constant.add(output)

    def frozen(self, node: ir.Node) -> bool:
        """Tell whether all that a random node reads is constant."""
        return node in self._frozen

    def alike(self, node: ir.Node) -> tuple[str, ...]:
        """Return the outputs of the random nodes of the graph that compute what a node does.

        It is one of them; seeds count. All nodes of a group share one tuple: where all masks of a
        net are alike, a list of the others for each of them would grow by the square.
        """
        group = self._group[node]
        if group not in self._named:
            alike = self._alike[group]
            self._named[group] = tuple(one.outputs[0].name or "" for one in alike if one.outputs)
        return self._named[group]

    def _number(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _is_constant(self, node: ir.Node) -> bool:
        if node.op_type in _SHAPE_ONLY and node.inputs and node.inputs[0] is not None:
            shape = node.inputs[0].shape
            if shape is not None and all(isinstance(size, int) for size in shape):
                return True
        return all(value is None or self._is_known(value) for value in node.inputs)

    def _is_known(self, value: ir.Value) -> bool:
        return value in self._constant or (value.is_initializer() and not value.is_graph_input())

    def _key(self, node: ir.Node) -> Hashable:
        return (
            node.op_identifier(),
            tuple(self._value_key(value) for value in node.inputs),
            frozenset(
                (attribute.name, _attribute_key(attribute))
                for attribute in node.attributes.values()
            ),
        )

    def _value_key(self, value: ir.Value | None) -> Hashable:
        if value is None:
            return None
        if value not in self._keys:
            tensor = value.const_value if self._is_known(value) else None
            self._keys[value] = self._number(id(value) if tensor is None else _tensor_key(tensor))
        return self._keys[value]


def _attribute_key(attribute: ir.Attr) -> Hashable:
    if attribute.is_ref():
        return ("reference", attribute.ref_attr_name)
    value = attribute.value
    if attribute.type == ir.AttributeType.TENSOR:
        return _tensor_key(value)
    if attribute.type == ir.AttributeType.FLOAT:
        return repr(value)  # NaN equals itself here
    if isinstance(value, list | tuple):
        return (attribute.type, tuple(map(repr, value))) if _is_plain(attribute) else id(attribute)
    return (attribute.type, value) if _is_plain(attribute) else id(attribute)


def _is_plain(attribute: ir.Attr) -> bool:
    return attribute.type in (
        ir.AttributeType.INT,
        ir.AttributeType.INTS,
        ir.AttributeType.FLOATS,
        ir.AttributeType.STRING,
        ir.AttributeType.STRINGS,
    )


def _tensor_key(tensor: ir.TensorProtocol) -> Hashable:
    if tensor.dtype == ir.DataType.STRING or tensor.nbytes > _SMALL:
        return id(tensor)
    try:
        content = tensor.tobytes()
    except Exception as error:  # noqa: BLE001 - what cannot be read is equal to nothing else
        return (id(tensor), one_line(error))
    return (tensor.dtype, tuple(tensor.shape.numpy()), content)
