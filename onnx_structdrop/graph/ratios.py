"""The values that drive the ratios of inserted nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnx_structdrop.errors import ArgumentError, SiteError
from onnx_structdrop.graph.scopes import function_scope

if TYPE_CHECKING:
    from onnx_structdrop.graph.names import Names
    from onnx_structdrop.graph.record import Record
    from onnx_structdrop.graph.sites import Site

__all__ = ["Ratios"]


class Ratios:
    """One graph input for all, or a constant per distinct rate.

    Constants are initializers of the main graph, which subgraphs see as well, and Constant nodes
    in function bodies, which see neither.
    """

    def __init__(
        self, model: ir.Model, names: Names, ratio_input: str | None, record: Record
    ) -> None:
        self._model = model
        self._names = names
        self._constants: dict[tuple[int, float], ir.Value] = {}
        self._bodies: dict[str, ir.Function] | None = None
        self._input = None if ratio_input is None else self._graph_input(ratio_input, record)

    def get(self, rate: float, site: Site) -> ir.Value:
        """Return the value that drives the ratio of a node at a site."""
        in_function = site.scope.startswith("function:")
        if self._input is not None:
            if in_function:
                raise SiteError(
                    f"site {site.value!r} lies in {site.scope}, which cannot see the graph input "
                    f"{self._input.name!r}; leave it out, or inline the model's functions first"
                )
            return self._input
        body = self._function_body(site.scope) if in_function else None
        key = (id(body), rate)
        if key not in self._constants:
            self._constants[key] = (
                self._initializer(rate) if body is None else self._constant_node(rate, body)
            )
        return self._constants[key]

    def _graph_input(self, name: str, record: Record) -> ir.Value:
        for value in self._model.graph.inputs:
            if value.name == name:
                scalar = value.shape is not None and value.shape.rank() == 0
                if value.dtype == ir.DataType.FLOAT and scalar:
                    return value
                raise ArgumentError(
                    f"the model's input {name!r} cannot drive the ratio: "
                    f"it is {value.type}{value.shape}, a float32 scalar is needed"
                )
        if not name or name in self._names:
            raise ArgumentError(f"ratio_input {name!r} is not a free name in this model")
        self._names.take(name)
        value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
        self._model.graph.inputs.append(value)
        record.ratio_inputs.append(name)
        return value

    def _initializer(self, rate: float) -> ir.Value:
        name = self._names.take("structdrop_ratio")
        tensor = ir.tensor(np.asarray(rate, np.float32), name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape([]),
            const_value=tensor,
        )
        self._model.graph.register_initializer(value)
        return value

    def _constant_node(self, rate: float, body: ir.Function) -> ir.Value:
        name = self._names.take("structdrop_ratio")
        node = ir.node(
            "Constant",
            [],
            {"value": ir.tensor(np.asarray(rate, np.float32), name=name)},
            name=name,
            outputs=[
                ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
            ],
        )
        body.insert_before(next(iter(body)), node)
        return node.outputs[0]

    def _function_body(self, scope: str) -> ir.Function:
        if self._bodies is None:
            self._bodies = {
                function_scope(function): function for function in self._model.functions.values()
            }
        # Names of functions may hold a slash: the longest one that fits.
        while scope not in self._bodies:
            scope = scope[: scope.rindex("/")]
        return self._bodies[scope]
