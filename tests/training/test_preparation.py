"""What preparation finds, does, says and refuses."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from prepared_nets import around, data, ops, run

import onnx_structdrop as sd
from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, UnsupportedModelError
from onnx_structdrop.training import Change, prepare

SPEC = sd.SpatialDropout2D(0.25, seed=1)


def net(opset=17, *, ir_version=8, ratio_input=None, spec=SPEC, sites=None):
    """Return a small network with dropout behind its activations."""
    rng = np.random.default_rng(0)

    def tensor(name, *shape):
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    weights = [tensor("w1", 4, 3, 3, 3), tensor("b1", 4), tensor("w2", 4, 4, 3, 3)]
    weights += [tensor("w3", 5, 4), tensor("b3", 5)]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    return model if spec is None else sd.insert(model, spec, sites, ratio_input=ratio_input)


def dropouts(model):
    return [node for node in model.graph.node if node.op_type == "SpatialDropout"]


def test_names_what_the_gradient_reads_and_brings_it_along():
    model = sd.set_training_mode(net(), False)
    before = model.SerializeToString(deterministic=True)
    prepared = prepare(model)
    assert model.SerializeToString(deterministic=True) == before
    for node in dropouts(prepared.model):
        assert all(node.output)
        assert {a.name: a.i for a in node.attribute}["training_mode"] == 1
    assert {f.name for f in prepared.model.functions} == {"SpatialDropout", "StructuredDropoutGrad"}
    assert [change.what for change in prepared.changes] == ["switched on"] * 2
    onnx.checker.check_model(prepared.model, full_check=True)
    assert prepared.trainable == ("w1", "b1", "w2", "w3", "b3")
    assert prepared.ratios == prepared.frozen == ("structdrop_ratio",)
    assert prepared.statistics == ()


def test_either_kind_comes_back_as_it_was():
    assert isinstance(prepare(net()).model, onnx.ModelProto)
    assert isinstance(prepare(ir.from_proto(net())).model, ir.Model)


def test_same_numbers_without_dropout():
    model = net()
    x = data((2, 3, 8, 8))
    off = sd.set_training_mode(prepare(model).model, False)
    np.testing.assert_array_equal(run(off, x=x), run(sd.set_training_mode(model, False), x=x))
    np.testing.assert_array_equal(run(sd.fold(off), x=x), run(sd.fold(model), x=x))


def test_several_ratios_and_a_ratio_that_is_an_input():
    first = net(sites="r1")
    both = sd.insert(first, sd.SpatialDropout2D(0.5, seed=2), "r2")
    assert len(prepare(both).ratios) == 2
    driven = prepare(net(ratio_input="ratio"))
    assert driven.ratios == driven.frozen == ()


def test_a_ratio_that_something_else_reads_is_copied():
    model = net()
    model.graph.node.append(helper.make_node("Identity", ["structdrop_ratio"], ["told"]))
    model.graph.output.append(helper.make_tensor_value_info("told", TensorProto.FLOAT, []))
    prepared = prepare(model)
    assert prepared.ratios == ("structdrop_ratio_1",)


@pytest.mark.parametrize(("opset", "after"), [(13, 13), (21, 21), (22, 21), (23, 21)])
def test_versions(opset, after):
    model = net(opset, ir_version=11 if opset > 21 else 10)
    prepared = prepare(model).model
    assert prepared.ir_version <= 10
    assert {o.domain: o.version for o in prepared.opset_import}[""] == after
    for function in prepared.functions:
        assert {o.domain: o.version for o in function.opset_import}[""] == after


def test_old_opsets_are_refused_with_the_line_that_mends():
    model = around("Relu", (2, 3, 4, 4), opset=11)
    with pytest.raises(UnsupportedModelError, match=r"convert_version\(model, 13\)"):
        prepare(model)


def test_a_new_operator_is_refused():
    model = around("RMSNormalization", (2, 3, 4, 4), inputs=(data((4,)),), opset=23, axis=-1)
    with pytest.raises(UnsupportedModelError, match="opset 21 has no such operator"):
        prepare(model)


def test_ties_through_identity_and_merged_vectors():
    model = net(spec=None)
    zeros = numpy_helper.from_array(np.zeros(4, np.float32), "zeros")
    model.graph.initializer.append(zeros)
    model.graph.node.insert(0, helper.make_node("Identity", ["zeros"], ["b2"]))
    model.graph.node[1].input[2] = "zeros"
    model.graph.node[3].input.append("b2")
    prepared = prepare(model)
    assert {"zeros", "b2"} <= set(prepared.trainable)
    merged = net(spec=None)
    merged.graph.node[2].input.append("b1")
    found = prepare(merged).trainable
    assert "b1_untied" in found
    np.testing.assert_allclose(
        run(prepare(merged).model, x=data((1, 3, 8, 8))), run(merged, x=data((1, 3, 8, 8)))
    )


def test_a_module_used_twice_stays_shared():
    model = net(spec=None)
    model.graph.node.insert(3, helper.make_node("Conv", ["c2", "w2"], ["c3"], pads=[1] * 4))
    model.graph.node[4].input[0] = "c3"
    assert prepare(model).trainable == ("w1", "b1", "w2", "w3", "b3")


def test_what_to_train():
    model = net()
    assert prepare(model, frozen=["w1", "b*"]).trainable == ("w2", "w3")
    assert set(prepare(model, frozen=["w1", "b*"]).frozen) == {"w1", "b1", "b3", "structdrop_ratio"}
    head = prepare(model, requires_grad=["w3", "b3"])
    assert head.trainable == ("w3", "b3")
    assert {"w1", "b1", "w2"} <= set(head.frozen)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"requires_grad": ["nothing"]}, ArgumentError, "matches no parameter"),
        ({"frozen": ["nothing"]}, ArgumentError, "matches no parameter"),
        ({"requires_grad": ["w1"], "frozen": ["w1"]}, ArgumentError, "choose one"),
        ({"requires_grad": "w1"}, ArgumentTypeError, "list of names"),
        ({"batch_norm": "both"}, ArgumentError, "one of frozen, train"),
        ({"sizes": {"M": 3}}, ArgumentError, "no input has a dimension 'M'; there are N"),
        ({"sizes": {"N": 0}}, ArgumentError, "positive"),
        ({"frozen": ["*"]}, UnsupportedModelError, "no parameter to train"),
        ({"requires_grad": ["structdrop_ratio"]}, UnsupportedModelError, "has no gradient"),
    ],
)
def test_wrong_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        prepare(net(), **arguments)


def test_sizes_of_free_dimensions():
    model = around("MaxPool", (2, 3, 8, 8), free=("N", None, "H", "W"), kernel_shape=[2, 2])
    with pytest.raises(UnsupportedModelError, match=r'zero.*sizes=\{"H": 64, "W": 64\}'):
        prepare(model)
    prepared = prepare(model, sizes={"H": 8, "W": 8})
    dims = prepared.model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 3, 8, 8]


def test_shapes_reach_through_dropout():
    # The runtime infers none there, and the gradient of MaxPool is zero without.
    model = around("Relu", (2, 3, 8, 8), free=("N", None, "H", "W"))
    model.graph.node[-1].output[0] = "r"
    model.graph.node.append(helper.make_node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2]))
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, "A", "B"])
    )
    dropped = sd.insert(model, SPEC, "r")
    prepared = prepare(dropped, sizes={"H": 8, "W": 8}).model
    (node,) = dropouts(prepared)
    infos = {info.name: info.type.tensor_type for info in prepared.graph.value_info}
    dims = infos[node.output[0]].shape.dim
    assert [dim.dim_value for dim in dims[1:]] == [3, 8, 8]


@pytest.mark.parametrize(
    ("op_type", "options", "text"),
    [
        ("Round", {}, "no gradient"),
        ("Cast", {"to": TensorProto.FLOAT16}, "type without gradients"),
        ("Pad", {"inputs": (np.int64([0, 0, 1, 1, 0, 0, 1, 1]),), "mode": "reflect"}, "constant"),
        ("RandomUniformLike", {}, "clean"),
        ("QuantizeLinear", {"inputs": (np.float32(0.1), np.uint8(0))}, "quantized"),
    ],
)
def test_refusals_name_the_node(op_type, options, text):
    model = around(op_type, (2, 4, 5, 5), **options)
    if op_type == "RandomUniformLike":
        text = "randomness"
    with pytest.raises(UnsupportedModelError, match=text) as caught:
        prepare(model)
    assert "\n" not in str(caught.value)


def test_split_with_an_unused_output_is_refused():
    model = around("Split", (2, 4, 5, 5), inputs=(np.int64([2, 2]),), outputs=2, axis=1)
    with pytest.raises(UnsupportedModelError, match=r"'node'.*leads nowhere"):
        prepare(model)


def test_broadcasting_where_is_refused():
    model = around("Relu", (2, 4, 5, 5), free=())
    mask = numpy_helper.from_array(np.array([[[[True]], [[False]], [[True]], [[False]]]]), "mask")
    zero = numpy_helper.from_array(np.float32(0), "zero")
    model.graph.initializer.extend([mask, zero])
    model.graph.node[-1].output[0] = "r"
    model.graph.node.append(helper.make_node("Where", ["mask", "r", "zero"], ["y"], name="where"))
    with pytest.raises(UnsupportedModelError, match=r"'where'.*broadcast"):
        prepare(model)


def test_half_precision_and_parameterless_models_are_refused():
    model = around("Relu", (2, 4, 5, 5))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    half = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float16)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(half, "conv.weight"))
    with pytest.raises(UnsupportedModelError, match="float16"):
        prepare(model)
    empty = around("Relu", (2, 4, 5, 5))
    del empty.graph.node[0], empty.graph.initializer[:]
    empty.graph.node[0].input[0] = "x"
    with pytest.raises(UnsupportedModelError, match="no parameter to train"):
        prepare(empty)


def test_what_is_off_the_path_needs_no_gradient():
    model = net()
    model.graph.node.append(helper.make_node("ArgMax", ["y"], ["label"], axis=1))
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, None))
    assert prepare(model).trainable


def test_standard_dropout():
    off = prepare(around("Dropout", (2, 4, 5, 5)))
    assert ops(off.model) == ["Conv", "Identity"]
    on = around("Dropout", (2, 4, 5, 5), inputs=(np.float32(0.5), np.array(True)))
    assert all(prepare(on).model.graph.node[1].output)
    assert len(prepare(on).model.graph.node[1].output) == 2


def test_batch_norm_that_trains():
    ones = np.ones(4, np.float32)
    model = around("BatchNormalization", (2, 4, 5, 5), inputs=(ones, ones, ones, ones), opset=13)
    prepared = prepare(model, batch_norm="train")
    node = prepared.model.graph.node[1]
    assert len(node.output) == 3
    assert prepared.statistics == (("node.2", node.output[1]), ("node.3", node.output[2]))
    assert prepared.frozen == ("node.2", "node.3")
    assert prepared.trainable == ("conv.weight", "node.0", "node.1")
    assert {o.domain: o.version for o in prepared.model.opset_import}[""] == 14
    onnx.checker.check_model(prepared.model, full_check=True)


def test_functions_of_others_are_written_out():
    model = around("Twice", (2, 4, 5, 5), domain="mine")
    body = helper.make_function(
        "mine", "Twice", ["a"], ["b"],
        [helper.make_node("Constant", [], ["two"], value_float=2.0),
         helper.make_node("Mul", ["a", "two"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    model.functions.append(body)
    prepared = prepare(model)
    assert ops(prepared.model) == ["Conv", "Constant", "Mul"]
    assert not prepared.model.functions
    x = data((2, 4, 5, 5))
    np.testing.assert_array_equal(run(prepared.model, x=x), run(model, x=x))


def test_seed():
    seeds = [
        [a.i for node in dropouts(prepare(net(), seed=seed).model) for a in node.attribute
         if a.name == "seed"]
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert seeds[0] == seeds[1] != seeds[2]


def test_changes_read_as_text():
    assert str(Change("conv", "done", "needed")) == "conv: done (needed)"
    assert str(Change("", "done", "needed")) == "done (needed)"
