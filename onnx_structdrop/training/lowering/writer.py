"""Writing nodes that take the place of one: fresh names, constants, known shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_structdrop.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Rule = Callable[["Operation", "Writer"], None]

__all__ = ["Operation", "Size", "Writer"]

Size = int | None
"""Size of an axis; None where it is known at run time only."""

_SHAPELESS = frozenset({"Size", "Shape"})


class Operation:
    """A node to replace, with its attributes read.

    Attributes
    ----------
    node
        The node.
    inputs, outputs
        Names, "" where one is left out.
    attributes
        Values by name; strings as str.
    """

    def __init__(self, node: onnx.NodeProto) -> None:
        self.node = node
        self.inputs = list(node.input)
        self.outputs = list(node.output)
        self.attributes: dict[str, Any] = {}
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            self.attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value

    def input(self, index: int) -> str:
        """Return the name of an input, "" where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def output(self, index: int) -> str:
        """Return the name of an output, "" where it is left out."""
        return self.outputs[index] if index < len(self.outputs) else ""

    def refuse(self, why: str) -> UnsupportedModelError:
        """Return the error that says why the node has no standard form."""
        name = self.node.name or (self.outputs[0] if self.outputs else "")
        domain = f"{self.node.domain}::" if self.node.domain else ""
        return UnsupportedModelError(
            f"node {name!r} ({domain}{self.node.op_type}) cannot be lowered to standard ONNX: {why}"
        )


class Writer:
    """Collects nodes and initializers, and knows what the graph says of its values.

    Parameters
    ----------
    graph
        The graph whose nodes are replaced. Its value infos give shapes and element types.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._taken: set[str] = {tensor.name for tensor in graph.initializer}
        self._shapes: dict[str, tuple[Size, ...]] = {}
        self._types: dict[str, int] = {}
        self.producers: dict[str, onnx.NodeProto] = {}
        self.used: set[str] = {output.name for output in graph.output}
        self.lengths: dict[str, tuple[int, ...]] = {}
        """Values of small integer vectors that are known here."""
        for value in (*graph.value_info, *graph.input, *graph.output):
            self._describe(value)
        for tensor in graph.initializer:
            self._shapes[tensor.name] = tuple(tensor.dims)
            self._types[tensor.name] = tensor.data_type
        for node in graph.node:
            self._taken.update(node.output)
            self.used.update(node.input)
            self.producers.update((output, node) for output in node.output if output)
        self._taken.update(value.name for value in graph.input)
        self._count = 0

    def _describe(self, value: onnx.ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        self._types[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            self._shapes[value.name] = tuple(
                dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim
            )

    def shape(self, operation: Operation, name: str) -> tuple[Size, ...]:
        """Return the sizes of a value's axes, None for those that are not known.

        Raises
        ------
        UnsupportedModelError
            Not even the number of axes is known.
        """
        if name not in self._shapes:
            raise operation.refuse(f"the shape of {name!r} is not known; export it with shapes")
        return self._shapes[name]

    def static(self, operation: Operation, name: str) -> tuple[int, ...]:
        """Return the sizes of a value's axes, all of which have to be known.

        Raises
        ------
        UnsupportedModelError
            One is not.
        """
        sizes = self.shape(operation, name)
        known = tuple(size for size in sizes if size is not None)
        if len(known) < len(sizes):
            raise operation.refuse(f"the shape of {name!r} is {sizes}; it has to be fixed")
        return known

    def dtype(self, name: str) -> Any:
        """Return numpy's element type of a value, float32 where the graph does not say."""
        kind = self._types.get(name, onnx.TensorProto.FLOAT) or onnx.TensorProto.FLOAT
        return np.dtype(helper.tensor_dtype_to_np_dtype(kind))

    def element_type(self, name: str) -> int:
        """Return ONNX's element type of a value, float32 where the graph does not say."""
        return int(self._types.get(name, onnx.TensorProto.FLOAT) or onnx.TensorProto.FLOAT)

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Return the name of an initializer with these values, made once."""
        array = np.asarray(values, dtype)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.fresh("constant")
            self.initializers.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def scalar(self, value: float, like: str) -> str:
        """Return the name of a constant scalar of another value's element type."""
        return self.constant(value, self.dtype(like))

    def fresh(self, stem: str) -> str:
        """Return a name that nothing has."""
        while True:
            self._count += 1
            name = f"structdrop.lowered.{stem}_{self._count}"
            if name not in self._taken:
                self._taken.add(name)
                return name

    def emit(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Write a node with one output and return that.

        Parameters
        ----------
        op
            A standard operator.
        inputs
            Names, "" for one that is left out.
        output
            Name of the output; a fresh one by default.
        attributes
            Of the node.
        """
        return self.emit_all(op, inputs, [output or self.fresh(op.lower())], **attributes)[0]

    def emit_all(
        self, op: str, inputs: Iterable[str], outputs: Sequence[str], **attributes: Any
    ) -> Sequence[str]:
        """Write a node with several outputs and return them."""
        name = self.fresh(f"node_{op.lower()}")
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), name, **attributes))
        kind = self._types.get(next(iter(self.nodes[-1].input), ""))
        if kind is not None and op not in _SHAPELESS:
            for output in outputs:
                self._types.setdefault(output, kind)
        return outputs

    def reshape(self, value: str, sizes: Sequence[int], output: str | None = None) -> str:
        """Write a Reshape; -1 is what is left, 0 the size that the axis has."""
        return self.emit("Reshape", value, self.constant(sizes), output=output)

    def transpose(self, value: str, order: Sequence[int], output: str | None = None) -> str:
        """Write a Transpose."""
        return self.emit("Transpose", value, perm=list(order), output=output)

    def total(
        self, value: str, axes: Sequence[int], *, keep: bool, output: str | None = None
    ) -> str:
        """Write a sum over axes."""
        return self.emit("ReduceSum", value, self.constant(axes), keepdims=int(keep), output=output)

    def count(self, value: str, like: str, divisor: int = 1) -> str:
        """Write the number of elements of a value, divided, in another value's element type."""
        size = self.emit("Size", value)
        if divisor != 1:
            size = self.emit("Div", size, self.constant(divisor))
        number = self.emit("Cast", size, to=self.element_type(like))
        self._types[number] = self.element_type(like)
        return number
