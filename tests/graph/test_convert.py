"""Conversion between protos and onnx-ir: nothing is lost, nothing of the caller's is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper

from onnx_structdrop.errors import ArgumentTypeError, ModelError, UnsupportedModelError
from onnx_structdrop.graph.convert import as_ir, from_proto, like, to_proto
from onnx_structdrop.graph.files.texts import check_text
from onnx_structdrop.graph.files.wellformed import one_line

MODELS = sorted((Path(__file__).parents[2] / "models").glob("*.onnx"))
FLOAT = TensorProto.FLOAT


def info(name, shape=("N", 3), elem_type=FLOAT):
    return helper.make_tensor_value_info(name, elem_type, shape)


def model_of(*nodes, inputs=(), outputs=(), ir_version=10, **graph):
    nodes = nodes or (helper.make_node("Relu", ["x"], ["y"], name="relu"),)
    return helper.make_model(
        helper.make_graph(nodes, "g", [info("x"), *inputs], [info("y"), *outputs], **graph),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("d", 1)],
        ir_version=ir_version,
    )


def weight(name="w", size=3):
    return numpy_helper.from_array(np.arange(size, dtype=np.float32), name)


def function(**fields):
    return helper.make_function(
        "d", "F", ["a"], ["b"],
        [helper.make_node("Relu", ["a"], ["c"], name="n"), helper.make_node("Relu", ["c"], ["b"])],
        [helper.make_opsetid("", 17)],
        **fields,
    )  # fmt: skip


def with_function(ir_version=10, **fields):
    model = model_of(helper.make_node("F", ["x"], ["y"], domain="d"), ir_version=ir_version)
    model.functions.append(function(**fields))
    return model


def branches(branch):
    return (
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch, name="if"),
    )


def canonical(message):
    """Return a copy without what has no meaning: explicit empty strings, order of metadata."""
    copy = type(message)()
    copy.CopyFrom(message)
    _canonicalise(copy)
    return copy


def _canonicalise(message):
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for each in value if _is_repeated(field, value) else [value]:
                _canonicalise(each)
            if field.name == "metadata_props":
                value.sort(key=lambda entry: entry.key)
        elif field.type == field.TYPE_STRING and value == "":
            message.ClearField(field.name)


def _is_repeated(field, value):
    return not hasattr(value, "DESCRIPTOR")


# --- what must survive --------------------------------------------------------------------------


def trailing_empty_outputs():
    return model_of(helper.make_node("Foo", ["x"], ["y", "", ""], domain="d"))


def only_empty_outputs():
    return model_of(
        helper.make_node("Foo", ["x"], ["", ""], domain="d"), helper.make_node("Relu", ["x"], ["y"])
    )


def empty_names_in_between():
    return model_of(helper.make_node("Foo", ["x", "", "x", ""], ["", "y", ""], domain="d"))


def trailing_empty_outputs_in_function():
    model = with_function()
    model.functions[0].node[0].output.extend(["", ""])
    return model


def metadata_and_docs_everywhere():
    tensor = weight()
    model = model_of(
        helper.make_node("Relu", ["x"], ["t"], name="r"),
        helper.make_node("Foo", ["t"], ["y"], domain="d", value=weight("")),
        initializer=[tensor],
        value_info=[info("t")],
    )
    graph = model.graph
    holders = (model, graph, graph.node[0], graph.input[0], graph.output[0], graph.value_info[0],
               graph.initializer[0], graph.node[1].attribute[0].t)  # fmt: skip
    for holder in holders:
        holder.doc_string = "some words"
        for key in "ba":
            holder.metadata_props.add(key=key, value=f"value of {key}")
    graph.node[1].attribute[0].doc_string = "an attribute"
    model.producer_name, model.producer_version, model.domain = "p", "1", "dom"
    model.model_version = 7
    return model


def value_info_of_unknown_names_inputs_outputs():
    described = [info("zz"), info("y", (1, 3)), info("t"), info("x", (1, 3))]
    return model_of(
        helper.make_node("Relu", ["x"], ["t"]), helper.make_node("Relu", ["t"], ["y"]),
        value_info=described,
    )  # fmt: skip


def output_described_twice():
    model = model_of(value_info=[info("y", (1, 3))])
    for description, key in ((model.graph.value_info[0], "a"), (model.graph.output[0], "b")):
        description.metadata_props.add(key=key, value="v")
        description.doc_string = key
    return model


def value_info_of_some_initializers():
    return model_of(
        helper.make_node("Relu", ["x"], ["t"]), helper.make_node("Relu", ["t"], ["y"]),
        initializer=[weight("v"), weight("w")], value_info=[info("t"), info("w", (3,))],
    )  # fmt: skip


def quantization_annotations():
    model = model_of(
        helper.make_node("Relu", ["x"], ["t"]), helper.make_node("Relu", ["t"], ["y"]),
        initializer=[weight()], outputs=[info("x")],
    )  # fmt: skip
    for name in ("t", "unknown", "x", "y", "w"):
        annotation = model.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    return model


def pass_through_output_described_differently():
    return model_of(outputs=[info("x", ("M", None)), info("w", (3,))], initializer=[weight()])


def initializer_that_is_an_input():
    return model_of(inputs=[info("w", (3,))], initializer=[weight()])


def shapes_and_denotations():
    model = model_of(inputs=[info("scalar", ()), info("unranked", None), info("odd", ())])
    dims = model.graph.input[3].type.tensor_type.shape.dim
    for name in ("2*N", "N + 1", "sp ace", "unk__0"):
        dims.add(dim_param=name)
    dims.add()
    dims.add(dim_value=0)
    dims.add(dim_value=-1)
    model.graph.input[0].type.denotation = "IMAGE"
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    return model


def sequence_optional_and_sparse_types():
    tensor = helper.make_tensor_type_proto(FLOAT, ["N", 2])
    sequence = helper.make_sequence_type_proto(tensor)
    sequence.denotation = "outer"
    types = (sequence, helper.make_optional_type_proto(sequence),
             helper.make_sparse_tensor_type_proto(FLOAT, [2]))  # fmt: skip
    return model_of(inputs=[helper.make_value_info(f"i{n}", t) for n, t in enumerate(types)])


def output_without_type():
    model = model_of()
    model.graph.output[0].ClearField("type")
    return model


def tensors_in_every_encoding():
    return model_of(
        initializer=[
            helper.make_tensor("half", TensorProto.FLOAT16, [2], [1, 2]),
            helper.make_tensor("int4", TensorProto.INT4, [3], [1, 2, 3]),
            helper.make_tensor("none", TensorProto.INT64, [0], []),
            helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"\xff"]),
            helper.make_tensor("double", TensorProto.DOUBLE, [], [0.5]),
            helper.make_tensor("float", FLOAT, [2], [1, 2]),
            weight("raw"),
        ]
    )


def attributes_of_every_type():
    model = model_of()
    attributes = model.graph.node[0].attribute
    for value in (1, 0.1, "text", b"\xff\xfe", [1, 2], [0.5], ["a", "b"], weight("t"),
                  [weight("t"), weight("u")], helper.make_tensor_type_proto(FLOAT, ["N", None]),
                  [helper.make_tensor_type_proto(FLOAT, None)]):  # fmt: skip
        attributes.append(helper.make_attribute(f"a{len(attributes)}", value))
    attributes.add(name="empty", type=onnx.AttributeProto.INTS)
    attributes[0].doc_string = "first"
    return model


def subgraph_with_everything():
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["s"]),
         helper.make_node("Foo", ["s"], ["t", "", ""], domain="d")],
        "branch", [], [info("t", None)],
        initializer=[weight("v"), weight("w")], value_info=[info("x"), info("s"), info("w", (3,))],
    )  # fmt: skip
    return model_of(*branches(branch))


def function_with_everything():
    model = with_function(
        attributes=["q", "z"], attribute_protos=[helper.make_attribute("p", weight("p"))],
        doc_string="words", value_info=[info(name) for name in ("c", "unknown", "a", "b")],
        overload="o",
    )  # fmt: skip
    model.functions[0].metadata_props.add(key="k", value="v")
    reference = model.functions[0].node[0].attribute.add(name="r", ref_attr_name="q")
    reference.type = onnx.AttributeProto.INT
    model.graph.node[0].overload = "o"
    return model


def function_value_info_before_ir_10():
    model = with_function(ir_version=9)
    model.graph.value_info.extend(info(f"d::F/{name}") for name in ("a", "c", "b"))
    return model


def qualified_value_info_since_ir_10():
    model = function_value_info_before_ir_10()
    model.ir_version = 10
    return model


def device_configurations():
    model = model_of(ir_version=11)
    model.configuration.add(name="c", num_devices=2, device=["a", "b"])
    placed = model.graph.node[0].device_configurations.add(configuration_id="c", pipeline_stage=1)
    placed.sharding_spec.add(tensor_name="x", device=[0])
    return model


def unloaded_external_data():
    model = model_of(initializer=[external_tensor()])
    model.graph.node[0].attribute.append(helper.make_attribute("a", external_tensor("b")))
    return model


def external_tensor(name="w", **entries):
    tensor = TensorProto(name=name, data_type=FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    entries = {"location": "w.bin", "offset": "0", "checksum": "abc", "prepacked_0": "1"} | entries
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def metadata_keys_given_twice():
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["r"])], "b", [], [info("r")])
    model = model_of(*branches(branch))
    model.functions.append(function())
    model.opset_import.append(helper.make_opsetid("e", 1))
    places = (
        model, model.graph, model.graph.node[1], model.functions[0], model.functions[0].node[0],
        model.graph.node[1].attribute[0].g, model.graph.node[1].attribute[0].g.node[0],
    )  # fmt: skip
    for place in places:
        for key, value in (("k", "1"), ("a", "x"), ("k", "2"), ("a", "x")):
            place.metadata_props.add(key=key, value=value)
    return model


PRESERVED = [
    metadata_keys_given_twice,
    trailing_empty_outputs,
    only_empty_outputs,
    empty_names_in_between,
    trailing_empty_outputs_in_function,
    metadata_and_docs_everywhere,
    value_info_of_unknown_names_inputs_outputs,
    output_described_twice,
    value_info_of_some_initializers,
    quantization_annotations,
    pass_through_output_described_differently,
    initializer_that_is_an_input,
    shapes_and_denotations,
    sequence_optional_and_sparse_types,
    output_without_type,
    tensors_in_every_encoding,
    attributes_of_every_type,
    subgraph_with_everything,
    function_with_everything,
    function_value_info_before_ir_10,
    qualified_value_info_since_ir_10,
    device_configurations,
    unloaded_external_data,
]


def check_round_trip(proto):
    before = proto.SerializeToString()
    model = as_ir(proto)
    after = like(proto, model)
    copied = to_proto(as_ir(model))
    assert proto.SerializeToString() == before
    assert canonical(after) == canonical(proto)
    assert copied.SerializeToString() == after.SerializeToString()
    # Once through, the bytes do not change any more.
    assert like(proto, as_ir(after)).SerializeToString() == after.SerializeToString()


@pytest.mark.parametrize("build", PRESERVED, ids=lambda build: build.__name__)
def test_preserved(build):
    check_round_trip(build())


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_exported_models_are_preserved(path):
    check_round_trip(onnx.load(path))


# --- what is refused ----------------------------------------------------------------------------


def training_info():
    model = model_of()
    model.training_info.add().algorithm.name = "step"
    return model


def sparse():
    return onnx.SparseTensorProto(
        values=weight("s", 1), indices=numpy_helper.from_array(np.zeros(1, np.int64)), dims=[3]
    )


def sparse_initializer():
    model = model_of()
    model.graph.sparse_initializer.append(sparse())
    return model


def sparse_attribute():
    return model_of(
        helper.make_node("Constant", [], ["c"], sparse_value=sparse()),
        helper.make_node("Relu", ["x"], ["y"]),
    )


def graph_from_caller():
    model = with_function()
    model.functions[0].node[0].attribute.add(
        name="body", ref_attr_name="given", type=onnx.AttributeProto.GRAPH
    )
    return model


def map_type():
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, [1]))
    return model_of(inputs=[helper.make_value_info("m", kind)])


def outer_value_returned():
    return model_of(*branches(helper.make_graph([], "branch", [], [info("x", None)])))


def newer_ir_version():
    return model_of(ir_version=onnx.IR_VERSION + 1)


UNSUPPORTED = {
    training_info: "training_info",
    sparse_initializer: "sparse initializers",
    sparse_attribute: "sparse tensor",
    graph_from_caller: "'body' stands for a graph that calls of the function give",
    map_type: "map_type",
    outer_value_returned: "enclosing graph",
    newer_ir_version: "IR version",
}


@pytest.mark.parametrize(
    ("build", "message"), UNSUPPORTED.items(), ids=lambda x: x if isinstance(x, str) else x.__name__
)
def test_unsupported(build, message):
    with pytest.raises(UnsupportedModelError, match=message):
        as_ir(build())


def changed(change, model=None):
    model = model or model_of(initializer=[weight()])
    change(model)
    return model


BROKEN = {
    "no graph": lambda m: m.ClearField("graph"),
    "no opset": lambda m: m.ClearField("opset_import"),
    "no IR version": lambda m: m.ClearField("ir_version"),
    "no graph output": lambda m: m.graph.ClearField("output"),
    "versions 17 and 18": lambda m: m.opset_import.add(domain="ai.onnx", version=18),
    "output 'y' is given twice": lambda m: m.graph.output.append(info("y")),
    "input 'x' is given twice": lambda m: m.graph.input.append(info("x")),
    "initializer 'w' is given twice": lambda m: m.graph.initializer.append(weight()),
    "no name": lambda m: m.graph.initializer.append(weight("")),
    "'y' is defined a second time": lambda m: m.graph.node.add(op_type="Relu", output=["y"]),
    "'w' is defined a second time": lambda m: m.graph.node.add(op_type="Relu", output=["w"]),
    "reads 'nowhere'": lambda m: m.graph.node.add(op_type="Relu", input=["nowhere"]),
    "'nowhere' is not produced": lambda m: m.graph.output.append(info("nowhere")),
    "attribute 'a' is given twice": lambda m: m.graph.node[0].attribute.extend(
        [helper.make_attribute("a", 1)] * 2
    ),
    "'a' has no valid type": lambda m: m.graph.node[0].attribute.add(name="a"),
    "codec can't decode": lambda m: m.graph.node[0].attribute.append(
        helper.make_attribute("a", [b"\xff"])
    ),
    "unknown element type 99": lambda m: setattr(m.graph.initializer[0], "data_type", 99),
    "negative dimension": lambda m: m.graph.initializer[0].dims.append(-1),
    "no element type": lambda m: m.graph.output[0].type.tensor_type.ClearField("elem_type"),
    "has unknown element type 77": lambda m: setattr(
        m.graph.input[0].type.tensor_type, "elem_type", 77
    ),
    "cycle": lambda m: m.graph.node.extend(
        [helper.make_node("Relu", ["p"], ["q"]), helper.make_node("Relu", ["q"], ["p"])]
    ),
    "need IR version 11": lambda m: m.configuration.add(name="c"),
    "'d::F' imports domain '' in versions 17 and 18": lambda m: (
        m.functions.append(function()),
        m.functions[0].opset_import.add(version=18),
    ),
    "'d::F:' is given twice": lambda m: m.functions.extend([function(), function()]),
    "output 'b' is not produced": lambda m: m.functions.append(
        helper.make_function("d", "F", ["a"], ["b"], [], [])
    ),
}


@pytest.mark.parametrize(("message", "change"), BROKEN.items(), ids=BROKEN)
def test_broken(message, change):
    with pytest.raises(ModelError, match=message) as caught:
        as_ir(changed(change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["relu", "text", "w.bin", "thing"])
def test_text_that_is_not_utf8(text):
    proto = model_of(initializer=[external_tensor()])
    proto.metadata_props.add(key="k", value="thing")
    proto.graph.node[0].doc_string = "text"
    content = proto.SerializeToString()
    assert content.count(text.encode()) == 1
    broken = onnx.ModelProto.FromString(content.replace(text.encode(), b"\xff" * len(text)))
    with pytest.raises(ModelError, match="is not UTF-8"):
        as_ir(broken)


def text_paths(kind, above=()):
    """Yield the fields that lead to each text in a message, no kind of message twice on a way."""
    for field in kind.fields:
        inner = field.message_type
        if field.type == field.TYPE_STRING:
            yield (field,)
        elif inner is not None and inner not in (*above, kind):
            for path in text_paths(inner, (*above, kind)):
                yield (field, *path)


def test_each_text_of_a_model_is_checked():
    paths = list(text_paths(onnx.ModelProto.DESCRIPTOR))
    assert len(paths) > 500
    for path in paths:
        model = message = onnx.ModelProto()
        for field in path[:-1]:
            inner = getattr(message, field.name)
            message = inner if isinstance(inner, Message) else inner.add()
        last = path[-1]
        if isinstance(getattr(message, last.name), str):
            setattr(message, last.name, "text")
        else:
            getattr(message, last.name).append("text")
        check_text(model)
        broken = onnx.ModelProto.FromString(model.SerializeToString().replace(b"text", b"\xff" * 4))
        with pytest.raises(ModelError, match=f"{message.DESCRIPTOR.name}.{last.name} is not UTF-8"):
            check_text(broken)


def test_messages_stay_on_one_short_line():
    proto = model_of(helper.make_node("Relu\n", ["x" * 10_000 + "\n"], ["y"], name="\n" * 1000))
    with pytest.raises(ModelError) as caught:
        as_ir(proto)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_broken_inside_a_subgraph():
    branch = helper.make_graph([helper.make_node("Relu", ["nowhere"], ["t"])], "b", [], [info("t")])
    with pytest.raises(ModelError, match="reads 'nowhere'"):
        as_ir(model_of(*branches(branch)))


def test_tensor_with_too_few_bytes():
    proto = model_of(initializer=[weight()])
    proto.graph.initializer[0].raw_data = b"1234"
    tensor = as_ir(proto).graph.initializers["w"].const_value
    with pytest.raises(ModelError, match="tensor 'w' is broken"):
        tensor.numpy()


# --- what is normalised -------------------------------------------------------------------------


def test_nodes_are_sorted():
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in ("sy", "ts", "xt")]
    model = as_ir(model_of(*nodes))
    assert [node.outputs[0].name for node in model.graph] == ["t", "s", "y"]
    assert as_ir(model) is not model


def test_subgraph_that_reads_a_later_value_is_sorted():
    branch = helper.make_graph([helper.make_node("Relu", ["late"], ["t"])], "b", [], [info("t")])
    constant, conditional = branches(branch)
    late = helper.make_node("Relu", ["x"], ["late"], name="late")
    model = as_ir(model_of(constant, conditional, late))
    assert [node.op_type for node in model.graph][-1] == "If"


def test_functions_are_sorted():
    proto = with_function()
    proto.functions[0].node.reverse()
    (body,) = as_ir(proto).functions.values()
    assert [node.outputs[0].name for node in body] == ["c", "b"]


def test_default_domain_has_one_name():
    proto = model_of(helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx"))
    proto.opset_import[0].domain = "ai.onnx"
    model = as_ir(proto)
    assert list(model.graph.opset_imports.items()) == [("", 17), ("d", 1)]
    assert model.graph[0].domain == ""


def test_function_value_info_before_ir_10_moves_to_the_graph():
    proto = with_function(ir_version=9, value_info=[info("c")])
    after = like(proto, as_ir(proto))
    assert [entry.name for entry in after.graph.value_info] == ["d::F/c"]


# --- privacy ------------------------------------------------------------------------------------


def rich_model():
    branch = helper.make_graph(
        [helper.make_node("Add", ["x", "v"], ["s"], name="add")], "branch", [], [info("s", None)],
        initializer=[weight("v")],
    )  # fmt: skip
    model = model_of(
        *branches(branch), initializer=[weight("w"), helper.make_tensor("h", FLOAT, [1], [2])]
    )
    model.functions.append(function())
    return model


def vandalise(model):
    """Change everything that a pass could change."""
    graphs = [*model.graphs(), *(f.graph for f in model.functions.values())]
    for graph in graphs:
        for value in list(graph.initializers.values()):
            value.name += "_renamed"
        for value in graph.inputs:
            value.dtype = ir.DataType.DOUBLE
            value.name += "_renamed"
            value.metadata_props["k"] = "v"
        for node in graph:
            node.name = "renamed"
            node.attributes["extra"] = ir.AttrInt64("extra", 1)
            node.metadata_props["k"] = "v"
            for output in node.outputs:
                output.dtype = ir.DataType.DOUBLE
                output.shape = ir.Shape([7])
                output.name += "_renamed"
        graph.opset_imports["other"] = 3
        graph.metadata_props["k"] = "v"
        graph.meta.clear()
    model.metadata_props["k"] = "v"
    model.functions.clear()
    model.graph.initializers.clear()


def test_changes_of_the_copy_leave_a_proto_alone():
    proto = rich_model()
    before = proto.SerializeToString()
    vandalise(as_ir(proto))
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("convert", [from_proto, ir.from_proto])
def test_changes_of_the_copy_leave_an_ir_model_alone(convert):
    model = convert(rich_model())
    weights = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    names = [tensor.name for tensor in weights]
    before = to_proto(model).SerializeToString()
    vandalise(as_ir(model))
    assert [tensor.name for tensor in weights] == names
    assert to_proto(model).SerializeToString() == before


def test_weights_are_shared():
    proto = model_of(initializer=[weight()])
    model = as_ir(proto)
    tensor = model.graph.initializers["w"].const_value
    assert tensor.raw is proto.graph.initializer[0]
    assert as_ir(model).graph.initializers["w"].const_value.raw is tensor.raw


def test_copy_keeps_metadata_stores():
    model = from_proto(rich_model())
    model.meta["mine"] = 1
    model.graph.meta["mine"] = 2
    copy = as_ir(model)
    assert (copy.meta["mine"], copy.graph.meta["mine"]) == (1, 2)


def test_new_initializers_get_no_value_info_but_new_values_do():
    model = from_proto(model_of(value_info=[]))
    added = ir.Value(name="new", const_value=ir.tensor(np.ones(2, np.float32)))
    added.shape, added.dtype = ir.Shape([2]), ir.DataType.FLOAT
    model.graph.initializers.add(added)
    node = ir.node("Relu", [model.graph.inputs[0]])
    node.outputs[0].name, node.outputs[0].dtype = "t", ir.DataType.FLOAT
    model.graph.append(node)
    proto = to_proto(model)
    assert [entry.name for entry in proto.graph.value_info] == ["t"]
    assert [tensor.name for tensor in proto.graph.initializer] == ["new"]


@pytest.mark.parametrize("key", ["k", "other"])
def test_changed_metadata_with_keys_given_twice(key):
    model = from_proto(metadata_keys_given_twice())
    model.metadata_props[key] = "new"
    entries = [(entry.key, entry.value) for entry in to_proto(model).metadata_props]
    kept = [("k", "1"), ("a", "x"), ("k", "2"), ("a", "x")]
    if key == "k":
        kept = [entry for entry in kept if entry[0] != "k"]
    assert entries == [*kept, (key, "new")]
    del model.metadata_props[key]
    entries = [(entry.key, entry.value) for entry in to_proto(model).metadata_props]
    assert entries == kept


def test_forgotten_value_info_does_not_come_back_for_another_value():
    model = from_proto(value_info_of_unknown_names_inputs_outputs())
    node = ir.node("Relu", [model.graph.inputs[0]])
    node.outputs[0].name = "zz"
    model.graph.append(node)
    assert "zz" not in {entry.name for entry in to_proto(model).graph.value_info}


def test_unloaded_data_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("w.bin").write_bytes(bytes(12))  # the working folder is not the folder of the model
    model = as_ir(unloaded_external_data())
    tensors = (
        model.graph.initializers["w"].const_value,
        model.graph[0].attributes["a"].as_tensor(),
    )
    for tensor in tensors:
        for read in (tensor.numpy, tensor.tobytes, lambda t=tensor: np.asarray(t)):
            with pytest.raises(ModelError, match="was not loaded"):
                read()


def test_like_returns_the_kind_of_the_original():
    proto = model_of()
    model = as_ir(proto)
    assert isinstance(like(proto, model), onnx.ModelProto)
    assert like(model, model) is model


@pytest.mark.parametrize("wrong", ["model.onnx", None, b"", onnx.GraphProto()])
def test_wrong_kind(wrong):
    with pytest.raises(ArgumentTypeError, match=r"onnx_structdrop\.load"):
        as_ir(wrong)


def test_what_clean_returns_is_no_model():
    with pytest.raises(ArgumentTypeError, match="clean returns a model and its report"):
        as_ir((model_of(), None))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Concat "
            "node. Name:'/a b' Status Message: concatbase.h:135 Prepare sizes must match",
            "Concat node '/a b': sizes must match",
        ),
        (
            "Non-zero status code returned while running DropBlock node. Name:'d' Status Message: "
            "DropBlock node 'd': ratio is 2",
            "DropBlock node 'd': ratio is 2",
        ),
        ("another  message\nof two lines", "another message of two lines"),
    ],
)
def test_the_reason_comes_first(said, words):
    """A line is bounded, and what onnxruntime says before the reason filled it."""
    assert one_line(RuntimeError(said)) == words


def test_ir_model_that_cannot_be_copied():
    model = ir.from_proto(model_of())
    model.graph.outputs.append(ir.Value(name="nowhere"))
    with pytest.raises(ModelError, match="cannot be copied"):
        as_ir(model)


def test_initializer_without_data():
    model = from_proto(model_of(initializer=[weight()]))
    model.graph.initializers["w"].const_value = None
    with pytest.raises(ModelError, match="initializer 'w' has no data"):
        to_proto(model)


def test_outputs_that_a_function_leaves_out_are_not_reported(caplog):
    text = (
        '<ir_version: 9, opset_import: ["": 18, "loc": 1]>\n'
        "net (float[2, 4] x) => (float[2, 4] y) { y = loc.norm (x) }\n"
        '<domain: "loc", opset_import: ["": 18]>\n'
        "norm (v) => (w) { w, m, d = LayerNormalization (v, v) }"
    )
    model = onnx.parser.parse_model(text)
    del model.functions[0].node[0].output[1:]
    model.functions[0].node[0].output.extend(["", "d"])
    result = to_proto(from_proto(model))
    assert list(result.functions[0].node[0].output) == ["w", "", "d"]
    assert caplog.records == []
