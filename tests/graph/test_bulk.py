"""Nodes, initializers and descriptions in bulk: all as onnx-ir reads and writes them one by one."""

from __future__ import annotations

import struct

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from samples import MODELS

from onnx_structdrop.errors import ModelError, StructDropError
from onnx_structdrop.graph.convert import as_ir, from_proto, to_proto
from onnx_structdrop.graph.files import bulk
from onnx_structdrop.graph.files.descriptions import Descriptions
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.io import load
from onnx_structdrop.specs import DropBlock2D

SAMPLES = sorted(MODELS.rglob("*.onnx"))


@pytest.fixture
def one_by_one(monkeypatch):
    """Leave everything to onnx-ir while `active` is set."""

    class Switch:
        active = True

    write, is_plain, read = bulk.PlainNodes._write, bulk._is_plain_tensor, Descriptions.__init__

    def read_nothing(self, graph):
        read(self, graph)
        if Switch.active:
            self.rest, self._kinds = graph.value_info, {}

    monkeypatch.setattr(Descriptions, "__init__", read_nothing)
    monkeypatch.setattr(
        bulk.PlainNodes, "_write", lambda self, node: not Switch.active and write(self, node)
    )
    monkeypatch.setattr(
        bulk, "_is_plain_tensor", lambda *args: not Switch.active and is_plain(*args)
    )
    return Switch


def written(model, one_by_one):
    """Return the bytes of a model, or what makes one, written in bulk and one by one."""
    found = []
    for one_by_one.active in (False, True):
        proto = to_proto(model() if callable(model) else model)
        found.append(proto.SerializeToString(deterministic=True))
    return found


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_sample_is_read_and_written_the_same(path, one_by_one):
    proto = onnx.load(path)
    in_bulk, single = written(lambda: from_proto(proto), one_by_one)
    assert in_bulk == single


def test_corpus_is_read_and_written_the_same(one_by_one, corpus):
    different, seen = [], 0
    for path in sorted(corpus.rglob("*.onnx")):
        try:
            proto = onnx.load(path)
            in_bulk, single = written(lambda proto=proto: from_proto(proto), one_by_one)
        except (StructDropError, OSError, ValueError, onnx.checker.ValidationError):
            continue  # Broken on purpose, or too large for one proto.
        seen += 1
        if in_bulk != single:
            different.append(path.name)
    assert seen > 100
    assert not different


def described(name, elem_type=TensorProto.FLOAT, shape=("N", 3, None), **fields):
    return helper.make_tensor_value_info(name, elem_type, shape, **fields)


def odd_model():
    """Return a model with every oddity of a node, an initializer or a description."""
    nodes = [
        helper.make_node("Relu", ["x"], ["plain"], name="first"),
        helper.make_node("Relu", ["plain"], ["documented"], doc_string="said"),
        helper.make_node("Relu", ["documented"], ["noted"]),
        helper.make_node("F", ["noted", "", "w"], ["many", "", "last"], domain="d", overload="o"),
        helper.make_node("LeakyRelu", ["many"], ["zero"], alpha=0.0),
        helper.make_node("LeakyRelu", ["zero"], ["negative"], alpha=-0.0),
        helper.make_node("LeakyRelu", ["negative"], ["nan"], alpha=float("nan")),
        helper.make_node("A", ["nan"], ["a"], domain="d", s="text", ints=[1, 2], i=1, b=b"\xff"),
        helper.make_node(
            "A",
            ["a"],
            ["b"],
            "name",
            "said of a node",
            "d",
            "overload",
            ints=[1, 2],
            i=1,
            floats=[0.5, -0.0],
        ),
        helper.make_node("A", ["b"], ["c"], domain="d", ints=[1], strings=["p", "q"]),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(3))),
        helper.make_node("Relu", ["c"], ["typed"], domain="ai.onnx"),
        helper.make_node("Relu", ["typed"], ["y"]),
        helper.make_node("Sequence", ["y"], ["sequence"], domain="d"),
        helper.make_node("Relu", ["y"], ["shapeless"]),
        helper.make_node("Relu", ["y"], ["scalar"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("F", ["y"], ["tail", ""], domain="d"),
    ]
    nodes[2].metadata_props.add(key="of", value="node")
    denoted = described("a")
    denoted.type.denotation = "IMAGE"
    axis = described("b", shape=(1, 2))
    axis.type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    info = [
        described("plain"),
        described("documented", doc_string="said"),
        described("noted"),
        described("many", TensorProto.FLOAT16),
        described("last", shape=(1, 2)),
        denoted,
        axis,
        described("c", shape=(1, 2)),
        helper.make_tensor_sequence_value_info("sequence", TensorProto.FLOAT, ["N"]),
        described("shapeless", shape=None),
        described("scalar", shape=()),
        described("described"),
        described("x"),
        described("nowhere"),
        onnx.ValueInfoProto(name="k"),
        described("y", shape=(1,)),
        described("zero"),
        described("zero", shape=(7,)),
        described("nan"),
        described("nan", shape=(9,), doc_string="the last one counts"),
        described("negative", doc_string="the last one has none"),
        described("negative", shape=(1, 2)),
    ]
    info[2].metadata_props.add(key="of", value="value")
    weights = [
        numpy_helper.from_array(np.arange(3, dtype=np.float32), name)
        for name in ("w", "described", "given", "noted_weight", "quantized")
    ]
    weights[3].metadata_props.add(key="of", value="tensor")
    weights.append(helper.make_tensor("text", TensorProto.STRING, [1], [b"t"]))
    weights.append(helper.make_tensor("floats", TensorProto.FLOAT, [2], [0.5, -0.0]))
    graph = helper.make_graph(
        nodes,
        "odd",
        [described("x"), described("given", shape=(3,))],
        [described("y", shape=(2,)), described("z", doc_string="result")],
        weights,
        value_info=info,
    )
    for name in ("plain", "quantized", "y", "unknown", "unknown"):
        entry = graph.quantization_annotation.add(tensor_name=name)
        count = str(len(graph.quantization_annotation))
        entry.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=count)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def test_odd_model_is_read_and_written_the_same(one_by_one):
    proto = odd_model()
    in_bulk, single = written(lambda: from_proto(proto), one_by_one)
    assert in_bulk == single
    alphas = [a.f for n in to_proto(from_proto(proto)).graph.node for a in n.attribute if a.f == 0]
    assert [struct.pack("f", alpha) for alpha in alphas[:2]] == [
        struct.pack("f", 0.0), struct.pack("f", -0.0)
    ]  # fmt: skip


def test_values_are_described_as_onnx_ir_does(one_by_one):
    proto = odd_model()
    models = []
    for one_by_one.active in (False, True):
        models.append(from_proto(proto))
    for ours, theirs in zip(*(model.graph for model in models), strict=True):
        for one, other in zip(ours.outputs, theirs.outputs, strict=True):
            assert (one.name, one.type, one.shape) == (other.name, other.type, other.shape)
            assert getattr(one.type, "denotation", None) == getattr(other.type, "denotation", None)
            assert (one.doc_string or "") == (other.doc_string or "")
            assert one.metadata_props == other.metadata_props
            if one.shape is not None:
                axes = range(len(one.shape))
                assert [one.shape.get_denotation(axis) for axis in axes] == [
                    other.shape.get_denotation(axis) for axis in axes
                ]


def test_most_of_a_model_is_plain():
    model = from_proto(odd_model())
    proto = onnx.GraphProto()
    nodes = bulk.PlainNodes(model.graph, proto)
    rest = [node.outputs[0].name for node in nodes]
    assert [node.outputs[0].name for _, node in nodes.rest] == rest
    assert rest == ["plain", "documented", "noted", "nan", "c", "k", "sequence"]
    assert len(proto.node) == len(model.graph) - len(rest)


def change_type(value):
    value.type.dtype = ir.DataType.DOUBLE


def change_shape(value):
    value.shape = ir.Shape([4, "M"])


def change_denotation(value):
    value.shape = value.shape.copy()
    value.shape.set_denotation(0, "DATA_BATCH")


def remove_description(value):
    value.type = value.shape = None


def remove_type(value):
    value.type = None


def rename(value):
    value.name = "renamed"


@pytest.mark.parametrize(
    "change",
    [change_type, change_shape, change_denotation, remove_description, remove_type, rename],
)
def test_change_of_a_value_is_its_own(change, one_by_one):
    model = from_proto(odd_model())
    values = {value.name: value for node in model.graph for value in node.outputs}
    others = {value: (value.type, value.shape) for value in values.values()}
    change(values["zero"])
    in_bulk, single = written(model, one_by_one)
    assert in_bulk == single
    del others[values["zero"]]
    assert all((value.type, value.shape) == before for value, before in others.items())


def test_one_shape_of_several_types(one_by_one):
    model = from_proto(odd_model())
    values = {value.name: value for node in model.graph for value in node.outputs}
    shape = ir.Shape([5, 6])
    for name, kind in {
        "zero": ir.TensorType(ir.DataType.FLOAT),
        "negative": ir.TensorType(ir.DataType.DOUBLE),
        "a": ir.TensorType(ir.DataType.FLOAT, denotation="IMAGE"),
        "b": ir.TensorType(ir.DataType.FLOAT, denotation="LANGUAGE"),
    }.items():
        values[name].type, values[name].shape = kind, shape
    in_bulk, single = written(model, one_by_one)
    assert in_bulk == single


def test_renamed_and_replaced_initializers(one_by_one):
    model = from_proto(odd_model())
    initializers = model.graph.initializers
    initializers["w"].name = "renamed"
    initializers["floats"].const_value = ir.tensor(np.zeros(4, np.float32))
    initializers["given"].const_value.metadata_props["of"] = "tensor"
    initializers["noted_weight"].const_value = (
        from_proto(odd_model()).graph.initializers["w"].const_value
    )
    in_bulk, single = written(model, one_by_one)
    assert in_bulk == single
    assert {"renamed", "floats"} <= {
        tensor.name for tensor in onnx.ModelProto.FromString(in_bulk).graph.initializer
    }


def test_broken_float6_is_refused_by_both(one_by_one):
    proto = odd_model()
    broken = proto.graph.initializer.add(name="six", data_type=TensorProto.FLOAT6E2M3, dims=[4])
    broken.raw_data = b"\xff"
    for one_by_one.active in (False, True):
        with pytest.raises(ModelError, match="cannot be converted"):
            to_proto(from_proto(proto))


def test_inserted_model_is_written_the_same(one_by_one):
    proto = onnx.load(SAMPLES[0])
    found = []
    for one_by_one.active in (False, True):
        made = insert(proto, DropBlock2D(0.1, 3, seed=1))
        found.append(made.SerializeToString(deterministic=True))
    assert found[0] == found[1]


def test_of_two_annotations_of_an_unknown_name_the_last_is_kept():
    annotations = to_proto(from_proto(odd_model())).graph.quantization_annotation
    (kept,) = [entry for entry in annotations if entry.tensor_name == "unknown"]
    assert kept.quant_parameter_tensor_names[0].value == "5"


def test_shapes_of_a_loaded_model_are_the_values_own(tmp_path):
    onnx.save(odd_model(), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    shapes = [value.shape for node in model.graph for value in node.outputs if value.shape]
    assert len({id(shape) for shape in shapes}) == len(shapes)


class Computed(ir.Value):
    """A value with another shape each time."""

    count = 0

    @property
    def shape(self):
        Computed.count += 1
        return ir.Shape([Computed.count])


def test_shapes_that_do_not_stay():
    node = ir.Node("", "Split", [None], outputs=[Computed(name=f"v{i}") for i in range(50)])
    for value in node.outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([], [], nodes=[node], name="g", opset_imports={"": 17})
    proto = to_proto(ir.Model(graph, ir_version=10))
    sizes = [info.type.tensor_type.shape.dim[0].dim_value for info in proto.graph.value_info]
    assert sizes == sorted(set(sizes))


def test_nodes_without_operator_are_refused():
    model = from_proto(odd_model())
    next(iter(model.graph)).op_type = None
    for work in (to_proto, as_ir):
        with pytest.raises(ModelError):
            work(model)


def test_weights_left_out_are_refused_without_a_log(caplog):
    model = from_proto(odd_model())
    model.graph.initializers["w"].const_value = None
    with pytest.raises(ModelError, match="initializer 'w' has no data"):
        to_proto(model)
    assert "constant value" not in caplog.text


def test_weights_left_out_of_a_function_are_refused():
    value = ir.Value(name="x")
    node = ir.node("Relu", [value])
    weight = ir.Value(name="w", const_value=ir.tensor([1.0]))
    body = ir.Graph([value], node.outputs, nodes=[node], initializers=[weight], name="F",
                    opset_imports={"": 17})  # fmt: skip
    weight.const_value = None
    model = from_proto(odd_model())
    model.functions["d", "F", ""] = ir.Function("d", "F", graph=body, attributes=[])
    with pytest.raises(ModelError, match="initializer 'w' has no data"):
        to_proto(model)
