"""Broken models, as ``benchmarks/mutated_files.py`` found them: refused, or worked on in time."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import onnx_structdrop as sd
from onnx_structdrop.graph.files import calls
from onnx_structdrop.graph.files.tensors import ProtoTensor
from onnx_structdrop.graph.names import Names
from onnx_structdrop.graph.scopes import scopes
from onnx_structdrop.schema import DOMAIN, METADATA_KEY

SPEC = sd.DropBlock2D(0.1, 3, seed=1)

OPERATIONS = {
    "inspect": sd.inspect,
    "find_sites": sd.find_sites,
    "insert": lambda model: sd.insert(model, SPEC),
    "fold": sd.fold,
    "inline": sd.inline,
    "clean": sd.clean,
    "set_training_mode": lambda model: sd.set_training_mode(model, False),
}


def conv_net(*nodes, functions=(), **fields):
    """Return conv, relu, and what is given, from "r" to "y"."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            *nodes,
        ],
        "net",
        [value("x", TensorProto.FLOAT, [2, 3, 8, 8])],
        [value("y", TensorProto.FLOAT, [2, 4, 8, 8])],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], [0.1] * 108)],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    fields = {"ir_version": 9, "opset_imports": imports, **fields}
    return helper.make_model(graph, functions=list(functions), **fields)


def function(name, *called):
    """Return a function of one input and output that calls others in turn."""
    names = ["a", *(f"v{index}" for index in range(len(called) - 1)), "b"]
    nodes = [
        helper.make_node(each, [start], [stop], domain="" if each == "Dropout" else "local")
        for each, start, stop in zip(called, names, names[1:], strict=False)
    ]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, imports)


def call(name, start="r", stop="y"):
    return helper.make_node(name, [start], [stop], name="call", domain="local")


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("length", [1, 2, 5])
def test_functions_that_call_each_other_in_a_ring_are_refused(length, operation):
    functions = [function(f"f{i}", f"f{(i + 1) % length}", "Dropout") for i in range(length)]
    model = conv_net(call("f0"), functions=functions)
    with pytest.raises(sd.ModelError, match="'local::f0' calls itself"):
        operation(model)
    with pytest.raises(sd.ModelError, match="'local::f0' calls itself"):
        operation(ir.from_proto(model))


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_calls_that_double_forty_times_are_refused(operation):
    # The shape inference of onnx would follow each of them, for weeks.
    functions = [function(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(40)]
    model = conv_net(call("f0"), functions=[*functions, function("f40", "Dropout")])
    with pytest.raises(sd.UnsupportedModelError, match="stand for more than 200000 nodes"):
        operation(model)


@pytest.mark.parametrize("backwards", [False, True])
def test_calls_that_nest_too_deeply_are_refused(backwards):
    functions = [function(f"f{i}", f"f{i + 1}") for i in range(3000)]
    functions.append(function("f3000", "Dropout"))
    model = conv_net(call("f0"), functions=functions[::-1] if backwards else functions)
    with pytest.raises(sd.UnsupportedModelError, match="more than 200 deep"):
        sd.inspect(model)


def test_calls_in_the_branches_of_an_if_count():
    inner = helper.make_graph(
        [helper.make_node("f0", ["a"], ["t"], domain="local")],
        "branch",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Constant", [], ["go"], value=helper.make_tensor("", 9, [], [True])),
        helper.make_node("If", ["go"], ["b"], then_branch=inner, else_branch=inner),
    ]
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    made = helper.make_function("local", "f0", ["a"], ["b"], nodes, imports)
    model = conv_net(call("f0"), functions=[made])
    for each in (model, ir.from_proto(model)):
        with pytest.raises(sd.ModelError, match="calls itself"):
            sd.inspect(each)


def test_many_calls_that_come_to_an_end_are_accepted():
    functions = [function(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(8)]
    model = conv_net(call("f0"), functions=[*functions, function("f8", "Dropout")])
    (node,) = sd.inspect(model).nodes
    assert node.reaches == ("y",)


def test_a_tensor_without_values_is_not_read_as_zeros():
    # onnx-ir would allocate four billion of them.
    tensor = ProtoTensor(onnx.TensorProto(name="w", data_type=TensorProto.BOOL, dims=[2, 2**31]))
    for read in (tensor.numpy, tensor.tobytes):
        with pytest.raises(
            sd.ModelError, match="'w' holds no values, but its shape asks for 42949"
        ):
            read()


def test_a_tensor_of_no_elements_needs_no_values():
    tensor = ProtoTensor(onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 0]))
    assert tensor.numpy().shape == (2, 0)


def test_comparing_models_with_a_huge_constant_without_values():
    huge = onnx.TensorProto(data_type=TensorProto.BOOL, dims=[2, 2**31])
    one, other = (
        conv_net(
            helper.make_node("Constant", [], ["k"], value=huge),
            helper.make_node("Identity", ["r"], ["y"]),
        )
        for _ in range(2)
    )
    with pytest.raises(sd.ModelError, match="holds no values"):
        sd.differences(one, other)


@pytest.mark.parametrize("op_type", ["Nothing", "ReduceSum"])
def test_insertion_refuses_operators_of_our_domain_that_it_does_not_know(op_type):
    model = conv_net(helper.make_node(op_type, ["r"], ["y"], name="odd", domain=DOMAIN))
    with pytest.raises(sd.ModelError, match=f"'odd' calls {DOMAIN}::{op_type}, which is no op"):
        sd.insert(model, SPEC)


def test_folding_takes_the_import_along_that_served_a_node_written_by_hand():
    node = helper.make_node(
        "SpatialDropout", ["r", "p"], ["d", "", ""], domain=DOMAIN, name="by hand",
        training_mode=1, seed=3, channel_axis=1,
    )  # fmt: skip
    conv = helper.make_node("Conv", ["d", "v"], ["e"], pads=[1, 1, 1, 1])
    model = conv_net(node, conv, helper.make_node("Relu", ["e"], ["y"]))
    model.graph.initializer.append(helper.make_tensor("p", TensorProto.FLOAT, [], [0.5]))
    weights = helper.make_tensor("v", TensorProto.FLOAT, [4, 4, 3, 3], [0.1] * 144)
    model.graph.initializer.append(weights)
    model.opset_import.add(domain=DOMAIN, version=1)
    inserted = sd.insert(model, SPEC, "y")
    assert sd.differences(sd.fold(inserted), sd.fold(model)) == []


def test_a_record_of_a_later_ir_version_than_the_model_has_is_put_right():
    model = sd.insert(conv_net(helper.make_node("Identity", ["r"], ["y"])), SPEC)
    plain = sd.fold(model)
    plain.ir_version = 6
    plain.metadata_props.add(key=METADATA_KEY, value='{"ir_version": 9, "ratio_inputs": []}')
    inserted = sd.insert(plain, SPEC)
    assert (inserted.ir_version, sd.fold(inserted).ir_version) == (8, 6)


def test_a_record_of_an_import_that_is_not_there_is_put_right():
    model = conv_net(helper.make_node("Identity", ["r"], ["y"]))
    record = '{"ir_version": 9, "ratio_inputs": [], "imports": ["", "function:a::b"]}'
    model.metadata_props.add(key=METADATA_KEY, value=record)
    assert sd.differences(sd.fold(model), sd.fold(sd.insert(model, SPEC))) == []


def test_an_axis_that_the_data_do_not_have_is_refused_when_inlining():
    model = sd.insert(conv_net(helper.make_node("Identity", ["r"], ["y"])), SPEC)
    (node,) = (node for node in model.graph.node if node.domain == DOMAIN)
    for attribute in node.attribute:
        if attribute.name in ("channel_axis", "shared_axes"):
            attribute.CopyFrom(helper.make_attribute(attribute.name, 9 if attribute.i else [9]))
    with pytest.raises(sd.ModelError, match=r"cannot be computed: .*mend the attributes"):
        sd.inline(model)


def test_a_tensor_whose_values_are_in_a_field_of_another_type_is_not_read_as_zeros():
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.INT8, dims=[2**31, 1])
    tensor.string_data.append(b"7")
    with pytest.raises(sd.ModelError, match="'w' holds no values"):
        ProtoTensor(tensor).numpy()


def test_descriptions_without_a_name_are_kept():
    model = conv_net(helper.make_node("Identity", ["r"], ["y"]))
    model.graph.value_info.append(helper.make_tensor_value_info("", TensorProto.FLOAT, [2]))
    model.graph.quantization_annotation.add()
    back = sd.fold(sd.insert(model, SPEC))
    assert sd.differences(model, back) == []
    assert len(back.graph.value_info) == len(back.graph.quantization_annotation) == 1


def test_names_are_found_in_time_however_many_begin_alike():
    names = Names(ir.from_proto(conv_net(helper.make_node("Identity", ["r"], ["y"]))))
    assert [names.take("y") for _ in range(20_000)][-1] == "y_20000"  # minutes when searched anew
    assert names.take("y_1") == "y_1_1"


def test_scopes_of_many_nodes_without_a_name():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["r"], ["t"])],
        "branch",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    count = 3000
    ifs = [
        helper.make_node("If", ["go"], [f"v{index}"], then_branch=branch, else_branch=branch)
        for index in range(count)
    ]
    yes = helper.make_node("Constant", [], ["go"], value=helper.make_tensor("", 9, [], [True]))
    model = conv_net(yes, *ifs, helper.make_node("Identity", ["v0"], ["y"]))
    names = [name for name, _ in scopes(ir.from_proto(model))]
    assert len(set(names)) == 2 * count + 1
    assert f"If#{count}/then_branch" in names


@pytest.mark.parametrize(("domain", "refused"), [(DOMAIN, False), ("local", True)])
def test_calls_of_our_own_functions_count_as_one_node(domain, refused, monkeypatch):
    # A DropBlock is some eighty nodes, and a large model may hold thousands.
    monkeypatch.setattr(calls, "_LARGEST", 100)
    body = [helper.make_node("Identity", ["a"], [f"v{index}"]) for index in range(60)]
    imports = [helper.make_opsetid("", 18)]
    made = helper.make_function(domain, "DropBlock", ["a"], ["v0"], body, imports)
    nodes = [helper.make_node("DropBlock", ["r"], [f"y{i or ''}"], domain=domain) for i in (0, 1)]
    model = conv_net(*nodes, functions=[made])
    if refused:
        with pytest.raises(sd.UnsupportedModelError, match="stand for more than 100 nodes"):
            calls.check_calls(model)
    else:
        calls.check_calls(model)


def test_a_tensor_without_an_element_type_is_refused_in_a_model_of_onnx_ir():
    constant = helper.make_node("Constant", [], ["k"], value=onnx.TensorProto(dims=[1]))
    model = conv_net(constant, helper.make_node("Dropout", ["r", "k"], ["y"]))
    with pytest.raises(sd.ModelError, match="has no element type"):
        sd.inspect(ir.from_proto(model))


@pytest.mark.parametrize("field", ["raw_data", "int32_data"])
@pytest.mark.parametrize("element", [TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1])
def test_packed_values_that_are_too_few_are_not_filled_up(element, field):
    tensor = onnx.TensorProto(name="w", data_type=element, dims=[2**31, 2**31])
    if field == "raw_data":
        tensor.raw_data = b"1234"
    else:
        tensor.int32_data.extend([1, 2, 3, 4])
    with pytest.raises(sd.ModelError, match="'w' holds 4 bytes, too few for 4611"):
        ProtoTensor(tensor).numpy()
    tensor.dims[:] = [7]
    assert ProtoTensor(tensor).numpy().shape == (7,)


def statistics(name, **attributes):
    """Return a net with a BatchNormalization in training mode."""
    node = helper.make_node(
        "BatchNormalization", ["r", "b", "b", "b", "b"], ["y"], name=name, training_mode=1,
        **attributes,
    )  # fmt: skip
    model = conv_net(node)
    model.graph.initializer.append(helper.make_tensor("b", TensorProto.FLOAT, [4], [1.0] * 4))
    return model


@pytest.mark.parametrize("momentum", ["high", [1, 2], [0.5], 1])
def test_a_momentum_that_is_no_float_is_refused(momentum):
    model = statistics("norm", momentum=momentum)
    for each in (model, ir.from_proto(model)):
        with pytest.raises(sd.ModelError, match=r"'norm' .*'momentum' is a \w+, not a FLOAT"):
            sd.clean(each)


def test_a_normalisation_of_what_an_if_returns_is_cleaned():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["r"], ["t"])],
        "branch",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    model = statistics("norm")
    model.graph.node[-1].input[0] = "chosen"
    chosen = helper.make_node("If", ["go"], ["chosen"], then_branch=branch, else_branch=branch)
    model.graph.node.insert(2, chosen)
    model.graph.input.append(helper.make_tensor_value_info("go", TensorProto.BOOL, []))
    cleaned, report = sd.clean(model)
    assert not report.residual
    assert not cleaned.graph.node[-1].attribute


def vector(name, *numbers):
    content = helper.make_tensor("", TensorProto.INT64, [len(numbers)], numbers)
    return helper.make_node("Constant", [], [name], value=content)


def one_after_the_other(count, make):
    return [make(f"v{index}", f"v{index + 1}") for index in range(count)]


def twice(start, stop):
    return helper.make_node("Concat", [start, start], [stop], axis=0)


LONG_VECTORS = {
    "doubled": [vector("v0", 1, 2), *one_after_the_other(40, twice)],
    "doubled as a matrix": [
        vector("u", 1, 2), vector("zero", 0),
        helper.make_node("Unsqueeze", ["u", "zero"], ["v0"]), *one_after_the_other(40, twice),
    ],
    "doubled, of a shape": [helper.make_node("Shape", ["r"], ["v0"]),
                            *one_after_the_other(40, twice)],
    "filled": [vector("s", 2**40), helper.make_node("ConstantOfShape", ["s"], ["v"]),
               helper.make_node("Squeeze", ["v"], ["e"])],
    "filled, of a product": [
        helper.make_node("Shape", ["r"], ["s0"], start=3), vector("k", 2**20),
        helper.make_node("Mul", ["s0", "k"], ["s1"]), helper.make_node("Mul", ["s1", "k"], ["s2"]),
        helper.make_node("ConstantOfShape", ["s2"], ["v"]),
        helper.make_node("Add", ["v", "v"], ["e"]),
    ],
    "expanded": [
        vector("s", 2**40), vector("one", 1), helper.make_node("Expand", ["one", "s"], ["v"]),
        helper.make_node("Cast", ["v"], ["e"], to=1),
    ],
    "tiled": [vector("s", 2**40), vector("one", 1), helper.make_node("Tile", ["one", "s"], ["v"]),
              helper.make_node("Mul", ["v", "v"], ["e"])],
    "chained in functions": [helper.make_node("Shape", ["r"], ["v0"]),
                             helper.make_node("g0", ["v0"], ["e"], domain="local")],
}  # fmt: skip


def functions_that_double(count):
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    for index in range(count):
        last = helper.make_node(f"g{index + 1}", ["c"], ["b"], domain="local")
        if index == count - 1:
            last = helper.make_node("Identity", ["c"], ["b"])
        nodes = [helper.make_node("Concat", ["a", "a"], ["c"], axis=0), last]
        yield helper.make_function("local", f"g{index}", ["a"], ["b"], nodes, imports)


@pytest.mark.parametrize("nodes", LONG_VECTORS.values(), ids=LONG_VECTORS)
def test_vectors_of_a_trillion_elements_are_not_written_out(nodes):
    functions = list(functions_that_double(40)) if "g0" in {n.op_type for n in nodes} else ()
    model = conv_net(*nodes, helper.make_node("Identity", ["r"], ["y"]), functions=functions)
    for each in (model, ir.from_proto(model)):
        (site,) = sd.find_sites(each)  # takes all memory otherwise
        assert (site.value, site.shape) == ("r", (2, 4, 8, 8))


@pytest.mark.parametrize("number", [float("inf"), float("nan"), 0.5])
def test_axes_and_sizes_that_are_no_whole_numbers(number):
    """The checker lets floats pass where integers belong; what they do to a shape is unknown."""
    for op_type, constant in (("ReduceMean", [number]), ("Reshape", [number] * 4)):
        value = helper.make_tensor("k", TensorProto.FLOAT, [len(constant)], constant)
        node = helper.make_node(op_type, ["r", "k"], ["m"])
        model = conv_net(node, helper.make_node("Add", ["r", "m"], ["y"]))
        model.graph.initializer.append(value)
        assert [site.value for site in sd.find_sites(model)]


@pytest.mark.parametrize("name", ["function:a::b", "function:", f"function:{DOMAIN}::DropBlock"])
def test_nodes_named_like_the_body_of_a_function(name):
    then = helper.make_graph(
        [
            helper.make_node("Conv", ["r", "v"], ["d"], name="inner", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["d"], ["e"], name="inner relu"),
        ],
        "then",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, [2, 4, 8, 8])],
        [helper.make_tensor("v", TensorProto.FLOAT, [4, 4, 3, 3], [0.1] * 144)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["r"], ["f"])],
        "other",
        [],
        [helper.make_tensor_value_info("f", TensorProto.FLOAT, [2, 4, 8, 8])],
    )
    choice = helper.make_node("If", ["p"], ["y"], name=name, then_branch=then, else_branch=other)
    model = conv_net(choice)
    model.graph.input.append(helper.make_tensor_value_info("p", TensorProto.BOOL, []))
    sites = [site for site in sd.find_sites(model) if site.scope]
    assert [site.scope for site in sites] == ["If/then_branch"]
    inserted = sd.insert(model, SPEC, sites)
    assert not list(sd.differences(sd.fold(inserted), model))
    onnx.checker.check_model(inserted, full_check=True)


def test_device_configurations_without_a_name():
    """onnx-ir reads them and cannot write them."""
    model = conv_net(helper.make_node("Relu", ["r"], ["y"]), ir_version=11)
    model.graph.node[0].device_configurations.add()
    for operation in OPERATIONS.values():
        with pytest.raises(sd.ModelError, match=r"node 'conv' \(Conv\): a device configuration"):
            operation(model)


def test_stray_fields_of_an_attribute_of_numbers_are_refused():
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    node.attribute[0].tensors.add(data_type=999)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xw"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    with pytest.raises(sd.ModelError, match="unknown element type 999"):
        sd.find_sites(helper.make_model(graph))
