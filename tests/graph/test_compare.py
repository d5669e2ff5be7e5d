"""Equality of models: every kind of change is found, and nothing else."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from one_node import MODELS
from onnx import TensorProto, helper, numpy_helper

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.io import load, save

TEXT = """
<ir_version: 10, opset_import: ["": 20, "local": 1], producer_name: "p", producer_version: "1",
 domain: "d", model_version: 3, doc_string: "model", metadata_props: ["a": "1", "b": "2"]>
main (bool c, float[N,4] x) => (float[N,4] y, float[N,4] z)
  <float[4] w = {1.0, 2.0, 3.0, 4.0}, float[N,4] h>
{
  [first] h = Mul (x, w)
  [second] k = local.f <alpha = 0.5> (h)
  [third] y = If (c) <
    then_branch = t () => (float[N,4] a) { [plus] a = Add (k, w) },
    else_branch = e () => (float[N,4] b) <float[1] v = {7.0}> { [minus] b = Sub (k, v) }
  >
  [fourth] z = LeakyRelu <alpha = 0.25> (k)
  [fifth] dead = Constant <value = float[2] {1.0, 2.0}> ()
}
<domain: "local", opset_import: ["": 20], doc_string: "function">
f <alpha> (p) => (q) { [elu] q = Elu <alpha: float = @alpha> (p) }
"""


@pytest.fixture
def model():
    return onnx.parser.parse_model(TEXT)


def branch(model, place):
    return next(node for node in model.graph.node if node.op_type == "If").attribute[place].g


def retype(value, element):
    value.type.tensor_type.elem_type = element


def metadata(holder, key, value):
    holder.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))


def annotate(model, name, scale):
    entry = onnx.StringStringEntryProto(key="SCALE_TENSOR", value=scale)
    model.graph.quantization_annotation.add(tensor_name=name, quant_parameter_tensor_names=[entry])


def swap(nodes, first, second):
    kept = copy.deepcopy(nodes[first])
    nodes[first].CopyFrom(nodes[second])
    nodes[second].CopyFrom(kept)


def change_byte(tensor):
    content = bytearray(numpy_helper.to_array(tensor).tobytes())
    content[0] ^= 1
    array = np.frombuffer(bytes(content), np.float32).reshape(tensor.dims)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def rename_value(model, old, new):
    graphs = [model.graph, branch(model, 0), branch(model, 1)]
    for graph in graphs:
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            if value.name == old:
                value.name = new


CHANGES = {
    "ir version": lambda m: setattr(m, "ir_version", 9),
    "producer name": lambda m: setattr(m, "producer_name", "q"),
    "producer version": lambda m: setattr(m, "producer_version", "2"),
    "domain": lambda m: setattr(m, "domain", "e"),
    "model version": lambda m: setattr(m, "model_version", 4),
    "doc string": lambda m: setattr(m, "doc_string", "other"),
    "no doc string": lambda m: m.ClearField("doc_string"),
    "opset": lambda m: setattr(m.opset_import[0], "version", 19),
    "opset added": lambda m: m.opset_import.append(helper.make_opsetid("x", 1)),
    "metadata value": lambda m: setattr(m.metadata_props[0], "value", "9"),
    "metadata added": lambda m: metadata(m, "c", "3"),
    "metadata removed": lambda m: m.metadata_props.pop(),
    "graph name": lambda m: setattr(m.graph, "name", "other"),
    "graph doc string": lambda m: setattr(m.graph, "doc_string", "new"),
    "graph metadata": lambda m: metadata(m.graph, "g", "1"),
    "node name": lambda m: setattr(m.graph.node[0], "name", "other"),
    "node without name": lambda m: m.graph.node[0].ClearField("name"),
    "node doc string": lambda m: setattr(m.graph.node[0], "doc_string", "new"),
    "node metadata": lambda m: metadata(m.graph.node[0], "n", "1"),
    "operator": lambda m: setattr(m.graph.node[0], "op_type", "Add"),
    "operator domain": lambda m: setattr(m.graph.node[3], "domain", "local"),
    "overload": lambda m: setattr(m.graph.node[3], "overload", "o"),
    "input": lambda m: m.graph.node[3].input.__setitem__(0, "h"),
    "inputs swapped": lambda m: m.graph.node[0].input.reverse(),
    "input added": lambda m: m.graph.node[4].input.append(""),
    "output added": lambda m: m.graph.node[0].output.append("more"),
    "node order": lambda m: swap(m.graph.node, 3, 4),
    "node removed": lambda m: m.graph.node.pop(),
    "node added": lambda m: m.graph.node.append(helper.make_node("Neg", ["k"], ["n"])),
    "float attribute": lambda m: setattr(m.graph.node[3].attribute[0], "f", 0.26),
    "attribute removed": lambda m: m.graph.node[3].attribute.pop(),
    "attribute added": lambda m: m.graph.node[0].attribute.append(
        helper.make_attribute("axis", 1)
    ),
    "attribute type": lambda m: m.graph.node[3].attribute[0].CopyFrom(
        helper.make_attribute("alpha", 1)
    ),
    "tensor attribute": lambda m: change_byte(m.graph.node[4].attribute[0].t),
    "weight byte": lambda m: change_byte(m.graph.initializer[0]),
    "weight type": lambda m: m.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.arange(1, 5, dtype=np.int32), "w")
    ),
    "weight shape": lambda m: m.graph.initializer[0].dims.__setitem__(slice(None), [2, 2]),
    "weight doc string": lambda m: setattr(m.graph.initializer[0], "doc_string", "new"),
    "weight metadata": lambda m: metadata(m.graph.initializer[0], "w", "1"),
    "weight added": lambda m: m.graph.initializer.append(
        numpy_helper.from_array(np.zeros(1, np.float32), "unused")
    ),
    "value name": lambda m: rename_value(m, "k", "kk"),
    "input name": lambda m: rename_value(m, "x", "xx"),
    "output name": lambda m: rename_value(m, "z", "zz"),
    "input type": lambda m: retype(m.graph.input[1], TensorProto.DOUBLE),
    "input shape": lambda m: setattr(
        m.graph.input[1].type.tensor_type.shape.dim[0], "dim_param", "M"
    ),
    "input without shape": lambda m: m.graph.input[1].type.tensor_type.ClearField("shape"),
    "input doc string": lambda m: setattr(m.graph.input[0], "doc_string", "new"),
    "graph input added": lambda m: m.graph.input.append(
        helper.make_tensor_value_info("more", TensorProto.FLOAT, [])
    ),
    "input order": lambda m: swap(m.graph.input, 0, 1),
    "output shape": lambda m: setattr(
        m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 5
    ),
    "output order": lambda m: swap(m.graph.output, 0, 1),
    "output metadata": lambda m: metadata(m.graph.output[0], "o", "1"),
    "output removed": lambda m: m.graph.output.pop(),
    "value info type": lambda m: retype(m.graph.value_info[0], TensorProto.FLOAT16),
    "value info shape": lambda m: setattr(
        m.graph.value_info[0].type.tensor_type.shape.dim[0], "dim_value", 1
    ),
    "value info doc string": lambda m: setattr(m.graph.value_info[0], "doc_string", "new"),
    "value info metadata": lambda m: metadata(m.graph.value_info[0], "v", "1"),
    "value info removed": lambda m: m.graph.value_info.pop(),
    "value info added": lambda m: m.graph.value_info.append(
        helper.make_tensor_value_info("k", TensorProto.FLOAT, [None, 4])
    ),
    "subgraph node": lambda m: setattr(branch(m, 0).node[0], "op_type", "Mul"),
    "other subgraph's node": lambda m: setattr(branch(m, 1).node[0], "name", "other"),
    "subgraph name": lambda m: setattr(branch(m, 0), "name", "other"),
    "subgraph weight": lambda m: change_byte(branch(m, 1).initializer[0]),
    "subgraph output": lambda m: retype(branch(m, 0).output[0], TensorProto.DOUBLE),
    "branches swapped": lambda m: swap(m.graph.node[2].attribute, 0, 1)
    or [
        setattr(a, "name", n)
        for a, n in zip(
            m.graph.node[2].attribute, ("then_branch", "else_branch"), strict=True
        )
    ],
    "function node": lambda m: setattr(m.functions[0].node[0], "op_type", "Celu"),
    "function node's name": lambda m: setattr(m.functions[0].node[0], "name", "other"),
    "function doc string": lambda m: setattr(m.functions[0], "doc_string", "other"),
    "function opset": lambda m: setattr(m.functions[0].opset_import[0], "version", 19),
    "function attribute": lambda m: m.functions[0].attribute.append("beta"),
    "function attribute's name": lambda m: (
        m.functions[0].attribute.__setitem__(0, "beta"),
        setattr(m.functions[0].node[0].attribute[0], "ref_attr_name", "beta"),
    ),
    "function default": lambda m: m.functions[0].attribute_proto.append(
        helper.make_attribute("gamma", 1.0)
    ),
    "function metadata": lambda m: metadata(m.functions[0], "f", "1"),
    "function input": lambda m: (
        m.functions[0].input.__setitem__(0, "pp"),
        m.functions[0].node[0].input.__setitem__(0, "pp"),
    ),
    "function name": lambda m: (
        setattr(m.functions[0], "name", "g"),
        setattr(m.graph.node[1], "op_type", "g"),
    ),
    "function added": lambda m: m.functions.append(
        onnx.parser.parse_function(
            '<domain: "local", opset_import: ["": 20]> g (p) => (q) { q = Neg (p) }'
        )
    ),
    "size that is called like a number": lambda m: setattr(
        m.graph.input[1].type.tensor_type.shape.dim[1], "dim_param", "4"
    ),
    "size denotation": lambda m: setattr(
        m.graph.input[1].type.tensor_type.shape.dim[0], "denotation", "DATA_BATCH"
    ),
    "type denotation": lambda m: setattr(m.graph.input[1].type, "denotation", "IMAGE"),
    "output denotation": lambda m: setattr(m.graph.output[0].type, "denotation", "TENSOR"),
    "quantization annotation": lambda m: annotate(m, "h", "w"),
    "quantization annotation of an unknown name": lambda m: annotate(m, "nothing", "w"),
    "description of an unknown name": lambda m: m.graph.value_info.append(
        helper.make_tensor_value_info("nothing", TensorProto.FLOAT, [1])
    ),
    "second description of an output": lambda m: m.graph.value_info.append(
        helper.make_tensor_value_info("z", TensorProto.FLOAT, [None, None])
    ),
    "second description of an input": lambda m: m.graph.value_info.append(
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])
    ),
    "description of an unknown name in a subgraph": lambda m: branch(m, 0).value_info.append(
        helper.make_tensor_value_info("nothing", TensorProto.FLOAT, [1])
    ),
    "metadata key twice": lambda m: metadata(m.graph.node[0], "n", "1")
    or metadata(m.graph.node[0], "n", "2"),
    "attribute doc string": lambda m: setattr(
        m.graph.node[3].attribute[0], "doc_string", "new"
    ),
    "reference doc string": lambda m: setattr(
        m.functions[0].node[0].attribute[0], "doc_string", "new"
    ),
    "tensor attribute's name": lambda m: setattr(
        m.graph.node[4].attribute[0].t, "name", "other"
    ),
    "tensor attribute's doc string": lambda m: setattr(
        m.graph.node[4].attribute[0].t, "doc_string", "new"
    ),
    "tensor attribute's metadata": lambda m: metadata(m.graph.node[4].attribute[0].t, "t", "1"),
    "tensor attribute's shape": lambda m: m.graph.node[4].attribute[0].t.dims.append(1),
    "function removed": lambda m: (
        m.functions.pop(),
        setattr(m.graph.node[1], "op_type", "Elu"),
        setattr(m.graph.node[1], "domain", ""),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_found_both_ways(model, change):
    changed = copy.deepcopy(model)
    CHANGES[change](changed)
    assert changed.SerializeToString() != model.SerializeToString()
    found = differences(model, changed)
    assert found
    assert differences(changed, model)
    assert all(isinstance(line, str) and line and "\n" not in line for line in found)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("ir version", "ir_version"),
        ("weight byte", "'w'"),
        ("subgraph node", "third/then_branch"),
        ("function node", "function:local::f"),
        ("opset", "opset"),
    ],
)
def test_a_difference_says_where(model, change, where):
    changed = copy.deepcopy(model)
    CHANGES[change](changed)
    assert any(where in line for line in differences(model, changed))


def test_a_model_equals_itself(model):
    assert differences(model, model) == []
    assert differences(model, copy.deepcopy(model)) == []
    assert differences(ir.from_proto(model), model) == []
    assert differences(model, ir.from_proto(model)) == []


def test_arguments_are_left_alone(model):
    before = model.SerializeToString(deterministic=True)
    differences(model, copy.deepcopy(model))
    assert model.SerializeToString(deterministic=True) == before


def test_order_of_what_has_none_does_not_count(model):
    changed = copy.deepcopy(model)
    swap(changed.metadata_props, 0, 1)
    assert differences(model, changed) == []
    for holder in (model, changed):
        holder.graph.value_info.append(
            helper.make_tensor_value_info("k", TensorProto.FLOAT, [None, 4])
        )
    swap(changed.graph.value_info, 0, 1)
    assert differences(model, changed) == []


def test_how_a_weight_is_stored_does_not_count(model):
    changed = copy.deepcopy(model)
    weight = changed.graph.initializer[0]
    array = numpy_helper.to_array(weight)
    if weight.raw_data:
        weight.ClearField("raw_data")
        weight.float_data.extend(array.tolist())
    else:
        weight.ClearField("float_data")
        weight.raw_data = array.tobytes()
    assert differences(model, changed) == []


@pytest.mark.parametrize("number", [np.nan, np.inf, -0.0])
def test_special_numbers_equal_themselves(model, number):
    for holder in (model, changed := copy.deepcopy(model)):
        holder.graph.node[3].attribute[0].f = number
        array = np.array([number, 1, 2, 3], np.float32)
        holder.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    assert differences(model, changed) == []
    changed.graph.node[3].attribute[0].f = 0.0
    assert differences(model, changed)


def test_minus_zero_in_a_weight_is_a_change(model):
    changed = copy.deepcopy(model)
    for holder, zero in ((model, 0.0), (changed, -0.0)):
        array = np.array([zero, 1, 2, 3], np.float32)
        holder.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    assert differences(model, changed)


@pytest.mark.parametrize("dtype", [TensorProto.STRING, TensorProto.BFLOAT16, TensorProto.INT4])
def test_unusual_weights(model, dtype):
    values = {"s": [b"a", b"b"], "n": [1, 2]}["s" if dtype == TensorProto.STRING else "n"]
    other = [*values[:-1], b"c" if dtype == TensorProto.STRING else 3]
    changed = copy.deepcopy(model)
    model.graph.initializer.append(helper.make_tensor("odd", dtype, [2], values))
    changed.graph.initializer.append(helper.make_tensor("odd", dtype, [2], values))
    assert differences(model, changed) == []
    changed.graph.initializer[-1].CopyFrom(helper.make_tensor("odd", dtype, [2], other))
    assert differences(model, changed)


def test_external_weights(tmp_path):
    """Weights outside the file are compared by content."""
    original = onnx.load(MODELS / "resnet1d_dynamo.onnx")
    save(original, tmp_path / "a.onnx", external_data="a.data")
    save(original, tmp_path / "b.onnx", external_data="b.data")
    first, second = (load(tmp_path / f"{name}.onnx") for name in "ab")
    assert any(
        isinstance(value.const_value, ir.ExternalTensor)
        for value in first.graph.initializers.values()
    )
    assert differences(first, second) == []
    assert differences(original, first) == []
    data = bytearray((tmp_path / "b.data").read_bytes())
    data[-1] ^= 1
    (tmp_path / "b.data").write_bytes(bytes(data))
    assert len(differences(first, load(tmp_path / "b.onnx"))) == 1


def test_unnamed_subgraphs_are_told_apart():
    """Two nodes without names may hold different subgraphs."""
    text = """
    <ir_version: 8, opset_import: ["": 18]>
    main (bool c, float[N] x) => (float[N] y, float[N] z) {
      y = If (c) <then_branch = a () => (p) { p = Relu (x) },
                  else_branch = b () => (p) { p = Neg (x) }>
      z = If (c) <then_branch = d () => (p) { p = Abs (x) },
                  else_branch = e () => (p) { p = Exp (x) }>
    }
    """
    model = onnx.parser.parse_model(text)
    for node in range(2):
        for place in range(2):
            changed = copy.deepcopy(model)
            changed.graph.node[node].attribute[place].g.node[0].op_type = "Sin"
            assert len(differences(model, changed)) == 1


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_sample_models(path):
    model = onnx.load(path)
    assert differences(model, load(path)) == []
    changed = copy.deepcopy(model)
    largest = max(changed.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    content = bytearray(largest.raw_data)
    content[len(content) // 2] ^= 1
    largest.raw_data = bytes(content)
    assert differences(model, changed) == [
        f"main graph initializer {largest.name!r}: the contents differ"
    ]


def test_string_constants_are_compared():
    def model(text):
        constant = onnx.numpy_helper.from_array(np.array([text], dtype=object), "s")
        node = onnx.helper.make_node("Constant", [], ["y"], value=constant)
        output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, [1])
        graph = onnx.helper.make_graph([node], "strings", [], [output])
        imports = [onnx.helper.make_opsetid("", 17)]
        return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)

    assert differences(model("a"), model("a")) == []
    assert differences(model("a"), model("b"))


def device_model():
    text = """
    <ir_version: 11, opset_import: ["": 20]>
    main (float[N,4] x) => (float[N,4] y) { y = Relu (x) }
    """
    model = onnx.parser.parse_model(text)
    configuration = model.configuration.add(name="two", num_devices=2)
    configuration.device.extend(["a", "b"])
    node = model.graph.node[0].device_configurations.add(configuration_id="two")
    spec = node.sharding_spec.add(tensor_name="x")
    spec.device.extend([0, 1])
    return model


def test_devices_are_compared():
    model = device_model()
    assert differences(model, device_model()) == []
    for change in (
        lambda m: m.graph.node[0].ClearField("device_configurations"),
        lambda m: setattr(m.graph.node[0].device_configurations[0], "pipeline_stage", 1),
        lambda m: m.graph.node[0].device_configurations[0].sharding_spec[0].device.pop(),
        lambda m: m.configuration[0].device.__setitem__(0, "c"),
        lambda m: m.configuration.add(name="one", num_devices=1),
    ):
        changed = device_model()
        change(changed)
        assert differences(model, changed)
        assert differences(changed, model)


def test_a_size_without_a_name_is_not_one_called_none(model):
    changed = copy.deepcopy(model)
    for holder in (model, changed):
        holder.graph.input[1].type.tensor_type.shape.dim[0].Clear()
    changed.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "None"
    assert differences(model, changed)
    assert differences(model, copy.deepcopy(model)) == []


def test_types_in_attributes_are_compared():
    def model(size):
        kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [size])
        node = helper.make_node("Optional", [], ["y"], type=kind)
        output = helper.make_value_info("y", helper.make_optional_type_proto(kind))
        graph = helper.make_graph([node], "kinds", [], [output])
        imports = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    assert differences(model("n"), model("n")) == []
    assert any("node 0" in line for line in differences(model("3"), model(3)))


LARGE = 1 << 22


def constant_model(content):
    tensor = numpy_helper.from_array(np.frombuffer(bytes(content), np.uint8), "t")
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    output = helper.make_tensor_value_info("y", TensorProto.UINT8, [len(content)])
    graph = helper.make_graph([node], "g", [], [output])
    imports = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("place", [0, LARGE // 2, LARGE - 1])
def test_lines_stay_short(place):
    content = bytearray(LARGE)
    first = constant_model(content)
    content[place] = 255
    (line,) = differences(first, constant_model(content))
    assert len(line) < 400
    assert "main graph node 0" in line
    assert "xff" in line


def test_lines_about_long_texts_and_lists_stay_short(model):
    changed = copy.deepcopy(model)
    model.doc_string = "a" * 100_000
    changed.doc_string = "a" * 50_000 + "b" * 50_000
    many = [f"name_{number}" for number in range(50_000)]
    for holder, names in ((model, many), (changed, [*many[:-1], "other"])):
        holder.graph.node.append(helper.make_node("Sum", ["k"], ["s"], names=names))
    lines = differences(model, changed)
    assert len(lines) == 2
    assert all(len(line) < 400 for line in lines)
    assert "b" * 20 in lines[0]
    assert "other" in lines[1]
    changed.graph.node[-1].attribute[0].strings.append(b"more")
    assert "50001 entries" in differences(model, changed)[1]


def test_a_weight_with_too_few_bytes_is_a_broken_model(model):
    changed = copy.deepcopy(model)
    for holder in (model, changed):
        weight = holder.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(np.arange(4, dtype=np.float32), "w"))
    changed.graph.initializer[0].raw_data = b"\0" * 7
    for pair in ((model, changed), (changed, model), (ir.from_proto(changed), model)):
        with pytest.raises(ModelError, match="'w'"):
            differences(*pair)
    broken = constant_model(bytes(8))
    broken.graph.node[0].attribute[0].t.raw_data = b"\0"
    with pytest.raises(ModelError, match=r"'t'|node 0"):
        differences(broken, constant_model(bytes(8)))


def test_a_missing_data_file_is_a_broken_model(tmp_path):
    original = onnx.load(MODELS / "resnet1d_dynamo.onnx")
    save(original, tmp_path / "a.onnx", external_data="a.data")
    loaded = load(tmp_path / "a.onnx")
    (tmp_path / "a.data").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        differences(original, loaded)
