"""Ways to break a model file: at the level of bytes, and of the structure that onnx defines.

Every mutation takes its choices from the generator it is given, so that a seed makes the same file
again. Those of structure change a proto in place, and leave it as it is where they find nothing
to change.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import Message

from onnx_structdrop.schema import DOMAIN, DROPOUT_OPS, INLINED_KEY, METADATA_KEY

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

NAMES = ("", " ", "x", "input", "a/b", "If_0", "\n", "é" * 3, "n" * 300, "function:a::b", "None")
INTEGERS = (
    0, 1, -1, 2, 3, 4, 5, 7, 13, 16, 18, 21, 26, 27, 64, 255, 2**31 - 1, 2**31, -(2**31), 2**62,
    2**63 - 1, -(2**63),
)  # fmt: skip
FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 2.0, 1e-45, 3.4e38, math.inf, -math.inf, math.nan)
OP_TYPES = (
    "Add", "Sum", "Mul", "Div", "Sub", "Relu", "Sigmoid", "Clip", "Conv", "ConvTranspose",
    "BatchNormalization", "InstanceNormalization", "LayerNormalization", "MaxPool", "AveragePool",
    "GlobalAveragePool", "Concat", "Split", "Transpose", "Reshape", "Flatten", "Squeeze",
    "Unsqueeze", "Slice", "Pad", "Resize", "Gather", "Shape", "Size", "Expand", "Cast", "CastLike",
    "Identity", "Constant", "ConstantOfShape", "Dropout", "RandomUniform", "RandomUniformLike",
    "RandomNormal", "RandomNormalLike", "Bernoulli", "Multinomial", "Less", "Greater",
    "GreaterOrEqual", "Where", "Floor", "Not", "And", "Equal", "ReduceSum", "ReduceMean", "PRelu",
    "LeakyRelu", "If", "Loop", "Scan", "SequenceMap", "SequenceConstruct", "Optional", "MatMul",
    "Gemm", "Softmax", "HardSigmoid", "HardSwish", "Gelu", "QuantizeLinear", "DequantizeLinear",
    "CumSum", "Range", "Tile", "DepthToSpace", "Einsum", "StatelessRandomUniformV2", "NoSuchOp",
    "BiasDropout", "SpatialDropout", "DropBlock", "NoiseShapeDropout", "StructuredDropoutGrad", "",
)  # fmt: skip
DOMAINS = ("", "ai.onnx", "com.microsoft", "local", DOMAIN, "a b", "ai.onnx.ml", ":")
ATTRIBUTES = (
    "training_mode", "seed", "block_size", "channel_axis", "shared_axes", "noise_shape", "axis",
    "normalize", "seed_region", "scale_by_keep", "ratio", "to", "dtype", "value", "value_ints",
    "value_float", "perm", "axes", "group", "strides", "pads", "kernel_shape", "dilations", "mode",
    "auto_pad", "keepdims", "then_branch", "else_branch", "body", "is_test", "epsilon", "high",
    "low", "mean", "scale", "alpha", "start", "end", "num_outputs", "equation", "shape",
    "ceil_mode", "noop_with_empty_axes", "value_string", "coordinate_transformation_mode", "",
)  # fmt: skip

Graph = Any
"""A `GraphProto` or `FunctionProto`; both have nodes."""


def mutate_bytes(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Return a file with one to four places changed."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + int(2 ** rng.uniform(0, 10)))
        kind = rng.randrange(8)
        if kind == 0:
            del data[start:stop]
        elif kind == 1:
            data[start:start] = data[start:stop]
        elif kind == 2:
            data[start:start] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            donor = rng.choice(others)
            place = rng.randrange(len(donor))
            data[start:stop] = donor[place : place + stop - start]
        elif kind == 4 and rng.random() < 0.2:
            del data[start:]
        elif start < len(data):
            data[start] = rng.choice((data[start] ^ 1 << rng.randrange(8), rng.randrange(256)))
    return bytes(data)


def mutate_model(model: onnx.ModelProto, others: list[bytes], rng: random.Random) -> list[str]:
    """Change a proto in one to four ways, and return their names."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        change = rng.choices(list(CHANGES), list(CHANGES.values()))[0]
        try:
            change(model, rng)
        except (ValueError, TypeError, IndexError):
            continue  # nothing there to change, or a value that the field does not take
        done.append(change.__name__)
    if rng.random() < 0.02:
        donor = onnx.ModelProto.FromString(rng.choice(others))
        model.MergeFrom(donor)
        done.append("merge_models")
    return done


def graphs(model: onnx.ModelProto) -> list[Graph]:
    """Return every graph of a model, at any depth, and every function."""
    found: list[Graph] = [model.graph, *model.functions]
    for graph in found:  # grows on the way
        for node in graph.node:
            for attribute in node.attribute:
                found += [attribute.g] if attribute.HasField("g") else []
                found += attribute.graphs
    return found


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for graph in graphs(model) for node in graph.node]


def _graph(model: onnx.ModelProto, rng: random.Random) -> Graph:
    return model.graph if rng.random() < 0.5 else rng.choice(graphs(model))


def _node(model: onnx.ModelProto, rng: random.Random) -> onnx.NodeProto:
    return rng.choice(list(_graph(model, rng).node))


def _name(model: onnx.ModelProto, rng: random.Random) -> str:
    """Return a name from the model, mostly, or a strange one."""
    if rng.random() < 0.2:
        return rng.choice(NAMES)
    node = _node(model, rng)
    return rng.choice([*node.input, *node.output, node.name])


def _put_at(field: Any, place: int, entry: Any) -> None:
    entries = list(field)
    entries.insert(place, entry)
    copies = [_copy(each) for each in entries]
    del field[:]
    field.extend(copies)


def _copy(entry: Any) -> Any:
    if not isinstance(entry, Message):
        return entry
    copy = type(entry)()
    copy.CopyFrom(entry)
    return copy


def _shuffled(field: Any, rng: random.Random) -> None:
    copies = [_copy(each) for each in field]
    rng.shuffle(copies)
    del field[:]
    field.extend(copies)


def drop_node(model: onnx.ModelProto, rng: random.Random) -> None:
    """Remove a node, and leave its consumers."""
    field = _graph(model, rng).node
    del field[rng.randrange(len(field))]


def bypass_node(model: onnx.ModelProto, rng: random.Random) -> None:
    """Let a node be an Identity of its first input."""
    node = _node(model, rng)
    node.op_type, node.domain = "Identity", ""
    del node.input[1:], node.output[1:], node.attribute[:]


def duplicate_node(model: onnx.ModelProto, rng: random.Random) -> None:
    """Repeat a node, with outputs of its own or the same."""
    field = _graph(model, rng).node
    copy = _copy(rng.choice(list(field)))
    if rng.random() < 0.7:
        names = [name and f"{name}_again" for name in copy.output]
        del copy.output[:]
        copy.output.extend(names)
    _put_at(field, rng.randrange(len(field) + 1), copy)


def reorder_nodes(model: onnx.ModelProto, rng: random.Random) -> None:
    """Move nodes out of topological order."""
    field = _graph(model, rng).node
    if rng.random() < 0.3:
        _shuffled(field, rng)
    else:
        entry = _copy(field.pop(rng.randrange(len(field))))
        _put_at(field, rng.randrange(len(field) + 1), entry)


def close_cycle(model: onnx.ModelProto, rng: random.Random) -> None:
    """Let a node read itself, or what a later node makes."""
    nodes = _graph(model, rng).node
    place = rng.randrange(len(nodes))
    later = nodes[rng.choice((place, rng.randrange(place, len(nodes))))]
    nodes[place].input[rng.randrange(len(nodes[place].input))] = rng.choice(list(later.output))


def rewire(model: onnx.ModelProto, rng: random.Random) -> None:
    """Change one name that a node reads or makes."""
    node = _node(model, rng)
    field = rng.choice((node.input, node.input, node.output))
    field[rng.randrange(len(field))] = _name(model, rng)


def resize_node(model: onnx.ModelProto, rng: random.Random) -> None:
    """Give a node more or fewer inputs or outputs."""
    node = _node(model, rng)
    field = rng.choice((node.input, node.output))
    kind = rng.randrange(4)
    if kind == 0:
        del field[rng.randrange(len(field)) :]
    elif kind == 1:
        del field[rng.randrange(len(field))]
    elif kind == 2:
        field.extend(_name(model, rng) for _ in range(rng.choice((1, 2, 5))))
    else:
        field[rng.randrange(len(field))] = ""


def rename_node(model: onnx.ModelProto, rng: random.Random) -> None:
    """Change what a node is called."""
    _node(model, rng).name = _name(model, rng)


def change_operator(model: onnx.ModelProto, rng: random.Random) -> None:
    """Make another operator of a node."""
    node = _node(model, rng)
    kind = rng.randrange(6)
    if kind < 4:
        node.op_type = rng.choice(OP_TYPES)
    elif kind == 4:
        node.domain = rng.choice(DOMAINS)
    else:
        node.overload = rng.choice(NAMES)


def change_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    """Remove, repeat, rename, retype or change an attribute, or add one."""
    holders = [node for node in _graph(model, rng).node if node.attribute]
    node = rng.choice(holders) if holders and rng.random() < 0.8 else _node(model, rng)
    _change_attribute_of(node, model, rng)


def _change_attribute_of(node: onnx.NodeProto, model: onnx.ModelProto, rng: random.Random) -> None:
    field = node.attribute
    kind = rng.randrange(9)
    if kind == 0 or not field:
        _fill(field.add(name=rng.choice(ATTRIBUTES)), model, rng)
        return
    place = rng.randrange(len(field))
    attribute = field[place]
    if kind == 1:
        del field[place]
    elif kind == 2:
        field.add().CopyFrom(attribute)
    elif kind == 3:
        attribute.name = rng.choice(ATTRIBUTES)
    elif kind == 4:
        attribute.type = rng.randrange(15)
    elif kind == 5:
        attribute.ref_attr_name = rng.choice((*NAMES, *ATTRIBUTES))
    elif kind == 6:
        values = attribute.ints or attribute.floats or attribute.strings
        del values[rng.randrange(len(values)) :]
    elif kind == 7 and attribute.type == onnx.AttributeProto.INTS:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(INTEGERS)
    else:
        name = attribute.name
        attribute.Clear()
        attribute.name = name
        _fill(attribute, model, rng)


def _fill(attribute: onnx.AttributeProto, model: onnx.ModelProto, rng: random.Random) -> None:
    """Give an attribute a random type and value."""
    kinds = onnx.AttributeProto
    kind = rng.choice((
        kinds.INT, kinds.INT, kinds.INTS, kinds.INTS, kinds.FLOAT, kinds.FLOATS, kinds.STRING,
        kinds.STRINGS, kinds.TENSOR, kinds.TENSORS, kinds.GRAPH, kinds.GRAPHS, kinds.TYPE_PROTO,
        kinds.SPARSE_TENSOR,
    ))  # fmt: skip
    attribute.type = kind
    count = rng.choice((0, 1, 2, 3, 4, 5))
    if kind == kinds.INT:
        attribute.i = rng.choice(INTEGERS)
    elif kind == kinds.INTS:
        attribute.ints.extend(rng.choice(INTEGERS) for _ in range(count))
    elif kind == kinds.FLOAT:
        attribute.f = rng.choice(FLOATS)
    elif kind == kinds.FLOATS:
        attribute.floats.extend(rng.choice(FLOATS) for _ in range(count))
    elif kind == kinds.STRING:
        attribute.s = rng.choice((b"", b"SAME_UPPER", b"NOTSET", b"\xff\xfe", b"x" * 300))
    elif kind == kinds.STRINGS:
        attribute.strings.extend(rng.choice((b"", b"x", b"\xff")) for _ in range(count))
    elif kind == kinds.TENSOR:
        attribute.t.CopyFrom(_tensor(rng))
    elif kind == kinds.TENSORS:
        attribute.tensors.extend(_tensor(rng) for _ in range(count))
    elif kind == kinds.GRAPH:
        attribute.g.CopyFrom(_small_graph(model, rng))
    elif kind == kinds.GRAPHS:
        attribute.graphs.extend(_small_graph(model, rng) for _ in range(count))
    elif kind == kinds.TYPE_PROTO:
        _change_type(attribute.tp, rng)


def _tensor(rng: random.Random) -> onnx.TensorProto:
    dims = [rng.choice((0, 1, 1, 2, 3, 2**31, -1)) for _ in range(rng.choice((0, 0, 1, 2)))]
    tensor = onnx.TensorProto(dims=dims, data_type=rng.randrange(26), name=rng.choice(NAMES))
    kind = rng.randrange(6)
    if kind == 0:
        tensor.raw_data = rng.randbytes(rng.choice((0, 1, 4, 8, 24)))
    elif kind == 1:
        tensor.float_data.append(rng.choice(FLOATS))
        tensor.data_type = onnx.TensorProto.FLOAT
    elif kind == 2:
        tensor.int64_data.append(rng.choice(INTEGERS))
        tensor.data_type = onnx.TensorProto.INT64
    elif kind == 3:
        tensor.int32_data.append(rng.randrange(2))
        tensor.data_type = onnx.TensorProto.BOOL
    elif kind == 4:
        tensor.string_data.append(b"\xff")
    return tensor


def _small_graph(model: onnx.ModelProto, rng: random.Random) -> onnx.GraphProto:
    """Return a graph that reads the one around it, in one node."""
    output = onnx.ValueInfoProto(name=rng.choice(("inner", "inner_2", "x")))
    _change_type(output.type, rng)
    op_type = rng.choice(("Identity", "Dropout", "RandomUniformLike", "Relu"))
    node = onnx.NodeProto(op_type=op_type, input=[_name(model, rng)], output=[output.name])
    return onnx.GraphProto(name="inner", node=[node], output=[output])


def change_value(model: onnx.ModelProto, rng: random.Random) -> None:
    """Remove, repeat, move, rename or retype an input, an output or a description."""
    graph = _graph(model, rng)
    field = rng.choice((graph.input, graph.output, graph.value_info))
    if isinstance(graph, onnx.FunctionProto) and field is not graph.value_info:
        field.append(_name(model, rng))
        _shuffled(field, rng)
        if rng.random() < 0.7:
            del field[rng.randrange(len(field))]
        return
    kind = rng.randrange(8)
    if kind == 0:
        del field[rng.randrange(len(field))]
    elif kind == 1:
        _put_at(field, rng.randrange(len(field) + 1), rng.choice(list(field)))
    elif kind == 2:
        field.add(name=_name(model, rng))
    elif kind == 3:
        rng.choice(list(field)).name = _name(model, rng)
    elif kind == 4:
        _shuffled(field, rng)
    else:
        _change_type(rng.choice(list(field)).type, rng)


def _change_type(kind: onnx.TypeProto, rng: random.Random) -> None:
    choice = rng.randrange(11)
    if choice < 3:
        kind.tensor_type.elem_type = rng.randrange(26)
    elif choice == 3:
        kind.Clear()
    elif choice == 4:
        kind.tensor_type.ClearField("shape")
    elif choice == 5:
        kind.sequence_type.elem_type.tensor_type.elem_type = rng.randrange(1, 17)
    elif choice == 6:
        kind.optional_type.elem_type.tensor_type.elem_type = rng.randrange(1, 17)
    elif choice == 7 and rng.random() < 0.5:
        kind.sparse_tensor_type.elem_type = 1
    elif choice == 8 and rng.random() < 0.3:
        kind.map_type.key_type = 7
    else:
        dims = kind.tensor_type.shape.dim
        if not dims or rng.random() < 0.3:
            dims.add()
        elif rng.random() < 0.2:
            del dims[rng.randrange(len(dims))]
            return
        dim = rng.choice(list(dims))
        dim.Clear()
        if rng.random() < 0.6:
            dim.dim_value = rng.choice(INTEGERS)
        elif rng.random() < 0.7:
            dim.dim_param = rng.choice(("N", "", "N*2", "3", "None", "H"))


def change_initializer(model: onnx.ModelProto, rng: random.Random) -> None:
    """Remove, repeat, rename or corrupt an initializer."""
    field = rng.choice([g for g in graphs(model) if hasattr(g, "initializer")]).initializer
    place = rng.randrange(len(field))
    tensor = field[place]
    kind = rng.randrange(9)
    if kind == 0:
        del field[place]
    elif kind == 1:
        field.add().CopyFrom(tensor)
    elif kind == 2:
        tensor.name = _name(model, rng)
    else:
        _corrupt(tensor, kind, rng)


def _corrupt(tensor: onnx.TensorProto, kind: int, rng: random.Random) -> None:
    if kind == 3:
        tensor.data_type = rng.randrange(28)
    elif kind == 4:
        tensor.dims.append(rng.choice(INTEGERS))
    elif kind == 5:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(INTEGERS)
    elif kind == 6:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif kind == 7:
        values = rng.choice((tensor.float_data, tensor.int64_data, tensor.int32_data))
        values.append(rng.choice((0, 1, 7)))
    else:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        entries = {
            "location": rng.choice(
                ("", "..", "../x", "/etc/passwd", "data.bin", "C:\\x", ".", "a/../../b", "\0")
            ),
            "offset": rng.choice(("0", "-1", "1e3", str(2**64), "", "4096")),
            "length": rng.choice(("0", "4", "-1", str(2**63), "x")),
        }
        for key in rng.sample(sorted(entries), rng.randrange(4)):
            tensor.external_data.add(key=key, value=entries[key])


def corrupt_constant(model: onnx.ModelProto, rng: random.Random) -> None:
    """Corrupt the tensor of a Constant."""
    tensors = [a.t for node in _nodes(model) for a in node.attribute if a.HasField("t")]
    tensor = rng.choice(tensors)
    if rng.random() < 0.4:
        tensor.CopyFrom(_tensor(rng))
    else:
        _corrupt(tensor, rng.randrange(3, 9), rng)


def change_imports(model: onnx.ModelProto, rng: random.Random) -> None:
    """Change the operator sets that the model or a function imports, or the IR version."""
    field = rng.choice((model, *model.functions)).opset_import
    kind = rng.randrange(6)
    if kind == 0:
        model.ir_version = rng.choice((*range(16), -1, 2**31))
    elif kind == 1:
        del field[rng.randrange(len(field))]
    elif kind == 2:
        field.add(domain=rng.choice(DOMAINS), version=rng.choice(INTEGERS))
    else:
        version = rng.randrange(1, 28) if rng.random() < 0.8 else rng.choice(INTEGERS)
        rng.choice(list(field)).version = version


def change_function(model: onnx.ModelProto, rng: random.Random) -> None:
    """Repeat, rename or remove a function, change its signature, or let it call itself."""
    function = rng.choice(list(model.functions))
    kind = rng.randrange(9)
    if kind == 0:
        del model.functions[list(model.functions).index(function)]
    elif kind == 1:
        model.functions.add().CopyFrom(function)
    elif kind == 2:
        function.name = rng.choice((*OP_TYPES, *(f.name for f in model.functions)))
    elif kind == 3:
        function.domain = rng.choice(DOMAINS)
    elif kind == 4:
        other = rng.choice(list(model.functions))  # itself, or a ring
        call = function.node.add(op_type=other.name, domain=other.domain, name="recursion")
        call.input.extend(function.input)
        call.output.extend(f"{name}_recursion" for name in other.output)
        if rng.random() < 0.5:
            function.output[0] = call.output[0]
    elif kind == 5:
        field = rng.choice((function.input, function.output))
        if rng.random() < 0.5:
            field.append(_name(model, rng))
        else:
            del field[rng.randrange(len(field))]
    elif kind == 6:
        rng.choice((function.attribute, function.input)).append(rng.choice(ATTRIBUTES))
    elif kind == 7:
        _fill(function.attribute_proto.add(name=rng.choice(ATTRIBUTES)), model, rng)
    else:
        function.overload = rng.choice(NAMES)


def make_function(model: onnx.ModelProto, rng: random.Random) -> None:
    """Move a node into a function, and call it."""
    node = rng.choice([n for n in model.graph.node if n.input and n.output])
    function = model.functions.add(domain="local", name=f"Of{len(model.functions)}")
    function.opset_import.extend(model.opset_import)
    function.node.add().CopyFrom(node)
    function.input.extend(dict.fromkeys(filter(None, node.input)))
    function.output.extend(filter(None, node.output))
    if not any(entry.domain == "local" for entry in model.opset_import):
        model.opset_import.add(domain="local", version=1)
    node.op_type, node.domain = function.name, "local"
    names = list(function.input), list(function.output)
    del node.attribute[:], node.input[:], node.output[:]
    node.input.extend(names[0])
    node.output.extend(names[1])


def wrap_node(model: onnx.ModelProto, rng: random.Random) -> None:
    """Move a node into the branches of an If, once or many times over, or into a Loop."""
    node = _node(model, rng)
    node.output[0]  # a node without outputs cannot be wrapped
    if rng.random() < 0.3:
        _wrap_in_loop(node)
        return
    for depth in range(rng.choice((1, 1, 2, 12, 25))):
        inner = _copy(node)
        node.Clear()
        node.op_type, node.name = "If", f"wrapped_{depth}"
        # No graph defines the condition, unless it was given a boolean input by that name.
        node.input.append(_condition(model))
        for branch in ("then_branch", "else_branch"):
            graph = onnx.GraphProto(name=branch)
            body = graph.node.add()
            body.CopyFrom(inner)
            names = [f"{name}_{branch[0]}{depth}" for name in inner.output if name]
            if rng.random() < 0.9:
                body.output[:] = names
            graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
            attribute = node.attribute.add(name=branch, type=onnx.AttributeProto.GRAPH)
            attribute.g.CopyFrom(graph)
            if depth > 2:
                break  # both branches would double the file each time
        node.output.extend(filter(None, inner.output))


def _condition(model: onnx.ModelProto) -> str:
    if all(info.name != "condition" for info in model.graph.input):
        model.graph.input.append(
            onnx.helper.make_tensor_value_info("condition", onnx.TensorProto.BOOL, [])
        )
    return "condition"


def _wrap_in_loop(node: onnx.NodeProto) -> None:
    inner = _copy(node)
    outputs = [name for name in inner.output if name]
    node.Clear()
    node.op_type, node.name = "Loop", "wrapped_loop"
    node.input.extend(("", "", *inner.input[:1]))
    node.output.extend(outputs)
    body = node.attribute.add(name="body", type=onnx.AttributeProto.GRAPH).g
    body.input.extend(onnx.ValueInfoProto(name=name) for name in ("i", "go", "state"))
    inner.input[:1] = ["state"]
    inner.output[:] = [f"{name}_body" for name in outputs]
    body.node.add(op_type="Identity", input=["go"], output=["on"])
    body.node.add().CopyFrom(inner)
    body.output.extend(onnx.ValueInfoProto(name=name) for name in ("on", *inner.output))


def corrupt_dropout(model: onnx.ModelProto, rng: random.Random) -> None:
    """Change the ratio, the mode or the outputs of a Dropout or a generator."""
    random_ops = ("Dropout", "BatchNormalization", "Bernoulli", "Multinomial")
    nodes = [n for n in _nodes(model) if n.op_type in random_ops or n.op_type.startswith("Random")]
    node = rng.choice(nodes) if nodes else _node(model, rng)
    kind = rng.randrange(6)
    if kind < 2:
        content = rng.choice((-1.0, 0.0, 0.3, 1.0, 2.0, math.nan, math.inf))
        constant = onnx.helper.make_tensor("", rng.choice((1, 10, 11)), rng.choice(([], [1])),
                                           [content])  # fmt: skip
        _feed(model, node, 1, constant)
    elif kind == 2:
        constant = onnx.helper.make_tensor("", rng.choice((6, 7, 9)), [], [rng.randrange(2)])
        _feed(model, node, 2, constant)
    elif kind == 3:
        node.output.append(rng.choice(("mask_x", "", *node.output)))
    elif kind == 4:
        model.graph.output.add(name=rng.choice(list(node.output)))
    else:
        _change_attribute_of(node, model, rng)


def _feed(
    model: onnx.ModelProto, node: onnx.NodeProto, place: int, tensor: onnx.TensorProto
) -> None:
    tensor.name = f"constant_{len(model.graph.initializer)}"
    model.graph.initializer.append(tensor)
    node.input.extend([""] * (place + 1 - len(node.input)))
    node.input[place] = tensor.name


def corrupt_own(model: onnx.ModelProto, rng: random.Random) -> None:
    """Corrupt a node of our domain, make one of another node, or corrupt our functions."""
    own = [node for node in _nodes(model) if node.domain == DOMAIN]
    if not own or rng.random() < 0.1:
        node = _node(model, rng)
        node.domain, node.op_type = DOMAIN, rng.choice((*DROPOUT_OPS, "Nothing"))
        return
    node = rng.choice(own)
    kind = rng.randrange(8)
    if kind < 3:
        _change_attribute_of(node, model, rng)
    elif kind == 3:
        rng.choice(list(node.attribute)).i = rng.choice(INTEGERS)
    elif kind == 4:
        node.op_type = rng.choice((*DROPOUT_OPS, "StructuredDropoutGrad"))
    elif kind == 5:
        # The mask and the scale are used.
        place = rng.randrange(len(node.output))
        node.output[place] = node.output[place] or f"{node.name}_{place}"
        if rng.random() < 0.5:
            model.graph.output.add(name=node.output[place])
        else:
            _node(model, rng).input.append(node.output[place])
    elif kind == 6:
        node.input[rng.randrange(len(node.input))] = _name(model, rng)
    else:
        functions = [f for f in model.functions if f.domain == DOMAIN]
        function = rng.choice(functions)
        rng.choice((function.node, function.input, function.output)).pop()


def corrupt_metadata(model: onnx.ModelProto, rng: random.Random) -> None:
    """Corrupt the entries that insertion and inlining write, or add some."""
    entries = [e for e in model.metadata_props if e.key == METADATA_KEY]
    key = rng.choice((METADATA_KEY, METADATA_KEY, INLINED_KEY, "", "x"))
    entry = rng.choice(entries) if entries and rng.random() < 0.8 else model.metadata_props.add()
    entry.key = entry.key or key
    record = {
        "ir_version": rng.choice((*INTEGERS, 8, 9, "8", None, 7.5, [])),
        "ratio_inputs": rng.choice(([], [_name(model, rng)], None, 3, {}, "input", [None])),
        "imports": rng.choice(([], [""], 3, ["x"], None)),
        "functions": rng.choice(([], [""], ["AAAA"], ["%"], [None], 5)),
    }
    for name in rng.sample(sorted(record), rng.choice((0, 0, 1, 2))):
        del record[name]
    entry.value = rng.choice((
        json.dumps(record), json.dumps(record), json.dumps(record), "", "[]", "{}", "null", "3",
        "[" * 5000, json.dumps(record)[:-2], "NaN", '"' + "x" * 1000,
    ))  # fmt: skip
    if rng.random() < 0.1:
        _node(model, rng).metadata_props.add(key=METADATA_KEY, value=rng.choice(("output", "x")))


def change_any_field(model: onnx.ModelProto, rng: random.Random) -> None:
    """Change any one field of any message, whatever it means."""
    message: Any = rng.choice(list(_messages(model)))
    field = rng.choice(list(message.DESCRIPTOR.fields))
    value = getattr(message, field.name)
    if hasattr(value, "append") or hasattr(value, "add"):
        kind = rng.randrange(3)
        if kind == 0 and len(value):
            del value[rng.randrange(len(value))]
        elif kind == 1 and len(value):
            _put_at(value, rng.randrange(len(value) + 1), rng.choice(list(value)))
        elif field.message_type is not None:
            value.add()
        else:
            value.append(_scalar(field, rng))
    elif field.message_type is not None:
        if rng.random() < 0.5:
            message.ClearField(field.name)
        else:
            value.SetInParent()
    elif rng.random() < 0.2:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(field, rng))


def _messages(message: Message) -> Iterator[Message]:
    yield message
    if isinstance(message, onnx.TensorProto):
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in (value,) if isinstance(value, Message) else value:
                yield from _messages(each)


def _scalar(field: Any, rng: random.Random) -> Any:
    if field.type == field.TYPE_STRING:
        return rng.choice(NAMES)
    if field.type == field.TYPE_BYTES:
        return rng.choice((b"", b"\xff", b"x" * 300))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    return rng.choice(INTEGERS)


CHANGES: dict[Callable[[onnx.ModelProto, random.Random], None], int] = {
    drop_node: 4,
    bypass_node: 3,
    duplicate_node: 4,
    reorder_nodes: 3,
    close_cycle: 4,
    rewire: 8,
    resize_node: 6,
    rename_node: 3,
    change_operator: 8,
    change_attribute: 10,
    change_value: 8,
    change_initializer: 6,
    corrupt_constant: 5,
    change_imports: 4,
    change_function: 6,
    make_function: 3,
    wrap_node: 4,
    corrupt_dropout: 7,
    corrupt_own: 8,
    corrupt_metadata: 4,
    change_any_field: 8,
}
"""Every change of structure, and how often it is taken."""
