"""Folding: the exact inverse of insertion, and a clean end for nodes written by hand."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nets import Net
from one_node import MODELS, one_node, run, session
from onnx import TensorProto, helper

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.functions import function_proto
from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.inspect import inspect
from onnx_structdrop.graph.mode import reseed, set_training_mode
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.schema import DOMAIN, DROPOUT_OPS, GRAD_OP, METADATA_KEY
from onnx_structdrop.specs import (
    DropBlock1D,
    DropBlock2D,
    DropBlock3D,
    Dropout,
    DropPath,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)

FILES = sorted(path.stem for path in MODELS.glob("*.onnx"))
SPATIAL = {3: SpatialDropout1D, 4: SpatialDropout2D, 5: SpatialDropout3D}
BLOCKS = {3: DropBlock1D, 4: DropBlock2D, 5: DropBlock3D}

# Without shrinking, which takes minutes on whole models.
PROPERTY = settings(deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])

each_op = pytest.mark.parametrize("op_type", DROPOUT_OPS)


@functools.cache
def original(name):
    return onnx.load(MODELS / f"{name}.onnx")


@functools.cache
def sites_of(name):
    return tuple(find_sites(original(name)))


@st.composite
def insertions(draw):
    """Return the name of a sample model, a specification, sites and options."""
    name = draw(st.sampled_from(FILES))
    sites = sites_of(name)
    rank = len(sites[0].shape)
    rate = draw(st.sampled_from([0.0, 0.1, 0.37, 1.0]))
    seed = draw(st.sampled_from([None, 0, 5, 2**63 - 1]))
    spec = draw(
        st.sampled_from(
            [
                SPATIAL[rank](rate, seed),
                BLOCKS[rank](rate, draw(st.integers(1, 7)), seed=seed),
                BLOCKS[rank](
                    rate,
                    3,
                    seed=seed,
                    shared_axes=draw(st.sampled_from([(), (0,), (1,), (0, 1)])),
                    seed_region="whole",
                    normalize=draw(st.sampled_from(["none", "sample"])),
                ),
                DropPath(rate, seed),
                Dropout(rate, seed=seed),
                Dropout(rate, (None, 1) + (None,) * (rank - 2), seed=seed),
            ]
        )
    )
    chosen = draw(st.lists(st.sampled_from(sites), min_size=1, unique_by=lambda site: site.value))
    named = [site if draw(st.booleans()) else site.value for site in chosen]
    free = any(not isinstance(size, int) for site in chosen for size in site.shape[1:])
    blocks = isinstance(spec, tuple(BLOCKS.values()))
    options = draw(
        st.sampled_from(
            [
                {},
                {"training_mode": False},
                {"ratio_input": "drop rate"},
                {"calibrate": not (blocks and (free or rate == 0.37))},
            ]
        )
    )
    return name, spec, named, options


def as_bytes(model):
    return model.SerializeToString(deterministic=True)


@settings(PROPERTY, max_examples=60)
@given(insertions(), st.sampled_from(["proto", "ir"]), st.sampled_from(["", "mode", "reseed"]))
def test_folding_undoes_insertion(case, kind, change):
    name, spec, sites, options = case
    model = original(name)
    argument = model if kind == "proto" else ir.from_proto(model)
    inserted = insert(argument, spec, sites, **options)
    if change == "mode":
        inserted = set_training_mode(inserted, bool(options.get("training_mode") is False))
    elif change == "reseed":
        inserted = reseed(inserted, 3)
    assert differences(model, inserted)
    folded = fold(inserted)
    assert type(folded) is type(argument)
    assert differences(model, folded) == []
    if kind == "proto":
        if name.endswith("_dynamo"):
            # The others list things in an order that onnx-ir does not keep.
            assert as_bytes(folded) == as_bytes(model)
        assert as_bytes(fold(folded)) == as_bytes(folded)


@settings(PROPERTY, max_examples=10)
@given(
    st.sampled_from(["resnet18_dynamo", "unet_dynamo", "resnet_keras_torch"]),
    st.lists(st.integers(0, 14), min_size=2, max_size=6, unique=True),
    st.data(),
)
def test_folding_undoes_several_insertions(name, places, data):
    model = original(name)
    inserted = model
    for place in places:
        site = sites_of(name)[place]
        spec = data.draw(
            st.sampled_from([SpatialDropout2D(0.1), DropBlock2D(0.1, 3), DropPath(0.5)])
        )
        options = data.draw(st.sampled_from([{}, {"ratio_input": "rate"}]))
        inserted = insert(inserted, spec, [site.value], **options)
    assert len(inspect(inserted).own) == len(places)
    assert differences(model, fold(inserted)) == []


@pytest.mark.parametrize("name", FILES)
def test_folding_a_clean_model_changes_nothing(name):
    model = original(name)
    before = as_bytes(model)
    assert differences(model, fold(model)) == []
    assert as_bytes(model) == before
    if name.endswith("_dynamo"):
        assert as_bytes(fold(model)) == before


def test_the_argument_is_left_alone():
    inserted = insert(original("resnet1d_dynamo"), DropBlock1D(0.1))
    before = as_bytes(inserted)
    fold(inserted)
    assert as_bytes(inserted) == before
    private = ir.from_proto(inserted)
    fold(private)
    assert differences(private, inserted) == []


def test_the_folded_model_computes_the_same():
    model = original("resnet1d_dynamo")
    folded = fold(insert(model, DropBlock1D(0.4)))
    data = {"x": np.ones((2, 2, 256), np.float32)}
    data = {model.graph.input[0].name: data["x"]}
    assert run(session(model), data)[0].tobytes() == run(session(folded), data)[0].tobytes()


# --- Where other tools have been in between ------------------------------------------------------


def test_without_the_metadata():
    """The nodes go all the same; what the record alone knows stays."""
    model = original("resnet18_torchscript")
    inserted = insert(model, SpatialDropout2D(0.1), ratio_input="rate")
    del inserted.metadata_props[:]
    folded = fold(inserted)
    assert not inspect(folded).nodes
    assert not folded.functions
    assert folded.ir_version == 8
    assert [value.name for value in folded.graph.input][1:] == ["rate"]
    folded.ir_version = model.ir_version
    folded.graph.input.pop()
    assert differences(model, folded) == []


def test_damaged_metadata():
    inserted = insert(original("resnet1d_dynamo"), DropBlock1D(0.1))
    entry = next(entry for entry in inserted.metadata_props if entry.key == METADATA_KEY)
    entry.value = "{"
    with pytest.raises(ModelError, match="damaged"):
        fold(inserted)


def test_other_metadata_stays():
    model = onnx.ModelProto()
    model.CopyFrom(original("resnet1d_dynamo"))
    model.metadata_props.append(onnx.StringStringEntryProto(key="zz", value="kept"))
    assert differences(model, fold(insert(model, DropBlock1D(0.1)))) == []


def test_renamed_nodes_and_values():
    """A tool that renames everything leaves the nodes recognisable."""
    model = original("resnet1d_dynamo")
    inserted = insert(model, DropBlock1D(0.1))
    for index, node in enumerate(inserted.graph.node):
        node.name = f"n{index}"
    folded = fold(inserted)
    assert not inspect(folded).nodes
    assert [n.op_type for n in folded.graph.node] == [n.op_type for n in model.graph.node]


def test_a_ratio_that_something_else_reads_stays():
    model = original("resnet1d_dynamo")
    for options in ({}, {"ratio_input": "rate"}):
        inserted = insert(model, DropBlock1D(0.25), **options)
        name = options.get("ratio_input", "structdrop_ratio")
        inserted.graph.node.append(helper.make_node("Identity", [name], ["echo"], name="echo"))
        inserted.graph.output.append(helper.make_tensor_value_info("echo", TensorProto.FLOAT, []))
        folded = fold(inserted)
        assert not inspect(folded).nodes
        onnx.checker.check_model(folded, full_check=True)
        kept = [t.name for t in (*folded.graph.initializer, *folded.graph.input)]
        assert name in kept


def test_a_gradient_that_is_called_is_plain_afterwards():
    model = one_node("SpatialDropout", ("N", "C", "H", "W"))
    model.functions.append(function_proto(GRAD_OP, 20, "float32"))
    model.graph.node.append(
        helper.make_node(GRAD_OP, ["data", "mask", "scale"], ["grad"], domain=DOMAIN, name="grad")
    )
    model.graph.output.append(helper.make_tensor_value_info("grad", TensorProto.FLOAT, [None] * 4))
    folded = fold(model)
    assert not folded.functions
    onnx.checker.check_model(folded, full_check=True)
    data = np.ones((2, 3, 4, 5), np.float32)
    results = run(session(folded), {"data": data, "ratio": np.array(0.4, np.float32)})
    np.testing.assert_array_equal(results[3], data)


# --- What the original has of ours ---------------------------------------------------------------


def small(ir_version=8, opset=18):
    net = Net(("N", 3, 16, 16), opset=opset)
    model = net.model(net.relu(net.conv(net.relu(net.conv("x", 4)), 6)))
    (output,) = model.graph.output
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, [None] * 4))
    model.ir_version = ir_version
    return model


def undone(model, *specs):
    """Insert and fold; return both models, as equal bytes if they are equal."""
    inserted = model
    for number, spec in enumerate(specs or [SpatialDropout2D(0.1)]):
        sites = [
            site.value for site in find_sites(model)[number : None if not specs else number + 1]
        ]
        inserted = insert(inserted, spec, sites)
    onnx.checker.check_model(inserted)
    folded = fold(inserted)
    assert differences(model, folded) == []
    return as_bytes(fold(model)), as_bytes(folded)


@pytest.mark.parametrize(
    "name",
    [
        "{site}_dropped",
        "{site}_kept",
        "{site}_output",
        "{site}_SpatialDropout",
        "structdrop_ratio",
        "SpatialDropout/mask",
    ],
)
@pytest.mark.parametrize("is_output", [True, False])
@pytest.mark.parametrize("field", ["value_info", "quantization_annotation"])
def test_descriptions_of_values_that_are_gone(field, is_output, name):
    """Names that insertion would take for its own values belong to what describes them."""
    model = small()
    first, last = find_sites(model)
    site = (last if is_output else first).value
    stale = name.format(site=site)
    if field == "value_info":
        info = helper.make_tensor_value_info(stale, TensorProto.INT64, [7, 7])
        model.graph.value_info.append(info)
    else:
        entry = model.graph.quantization_annotation.add(tensor_name=stale)
        entry.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    before, after = undone(model)
    assert before == after
    inserted = insert(model, SpatialDropout2D(0.1))
    assert getattr(inserted.graph, field)[0] == getattr(model.graph, field)[0]


def test_descriptions_in_functions_of_values_that_are_gone():
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["": 18, "local": 1]>
        g (float[2,3,8,8] x, float[4,3,1,1] w) => (float[2,4,8,8] y) { y = local.f (x, w) }
        <domain: "local", opset_import: ["": 18]>
        f (v, w) => (o) { c = Conv (v, w) r = Relu (c) o = Neg (r) }
        """
    )
    for name in ("r_dropped", "structdrop_ratio"):
        info = helper.make_tensor_value_info(name, TensorProto.INT64, [7])
        model.functions[0].value_info.append(info)
    before, after = undone(model)
    assert before == after


@pytest.mark.parametrize("version", [1, 3])
def test_an_import_of_our_domain_that_was_there(version):
    model = small()
    model.opset_import.append(helper.make_opsetid(DOMAIN, version))
    before, after = undone(model)
    assert before == after
    assert version in {
        entry.version for entry in fold(model).opset_import if entry.domain == DOMAIN
    }


def test_an_import_of_our_domain_in_a_function():
    model = small()
    function = onnx.parser.parse_function(
        f'<domain: "local", opset_import: ["": 18, "{DOMAIN}": 1]> '
        "unused (a) => (b) { b = Neg (a) }"
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    before, after = undone(model)
    assert before == after


@pytest.mark.parametrize("imported", [True, False])
@pytest.mark.parametrize(
    "functions",
    [
        [function_proto("SpatialDropout", 18, "float16")],
        [function_proto("SpatialDropout", 18, "float32"), function_proto(GRAD_OP, 18, "float32")],
        [function_proto(GRAD_OP, 18, None), function_proto("DropBlock", 18, "float64")],
        [onnx.parser.parse_function(
            f'<domain: "{DOMAIN}", opset_import: ["": 18]> DropBlock (a) => (b) {{ b = Neg (a) }}'
        )],
    ],
    ids=["another type", "with gradient", "other types", "foreign"],
)  # fmt: skip
def test_functions_of_our_domain_that_nothing_called(functions, imported):
    """As in a model that waits for its gradient to be built."""
    model = small()
    model.functions.extend(functions)
    if imported:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    for specs in ((), (SpatialDropout2D(0.1), DropBlock2D(0.1, 3))):
        before, after = undone(model, *specs)
        assert before == after


@pytest.mark.parametrize(("first", "raised", "last"), [(7, 8, 7), (7, 10, 10), (8, 11, 11)])
def test_an_ir_version_that_was_raised_later_stays(first, raised, last):
    model = small(ir_version=first, opset=13)
    inserted = insert(model, SpatialDropout2D(0.1))
    assert inserted.ir_version == 8
    inserted.ir_version = raised
    folded = fold(inserted)
    assert folded.ir_version == last
    model.ir_version = last
    assert differences(model, folded) == []


def test_metadata_keys_given_twice():
    model = small()
    for place in (model, model.graph, model.graph.node[0]):
        for value in "12":
            place.metadata_props.add(key="k", value=value)
    assert [entry.value for entry in fold(model).metadata_props] == ["1", "2"]
    assert as_bytes(fold(insert(model, SpatialDropout2D(0.1)))) == as_bytes(fold(model))


def test_nothing_of_ours_is_left_as_it_is():
    """Without a node or a record, what is ours was put there by somebody for a purpose."""
    model = small()
    model.functions.append(function_proto(GRAD_OP, 18, "float32"))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    assert differences(model, fold(model)) == []


# --- Outputs that are read inside ----------------------------------------------------------------


@pytest.mark.parametrize("change", ["", "stripped", "read", "dropped too", "mask"])
def test_a_copy_that_makes_an_output(change):
    net = Net(("N", 3, 16, 16))
    inner = net.relu(net.conv("x", 4))
    model = net.model(inner, net.relu(net.conv(inner, 6)))
    for value in model.graph.output:
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [None] * 4))
    inserted = insert(model, SpatialDropout2D(0.1), [inner])
    (copy,) = (node for node in inserted.graph.node if node.op_type == "Identity")
    ours = next(node for node in inserted.graph.node if node.domain == DOMAIN)
    more = {"read": inner, "dropped too": f"{inner}_dropped", "mask": "mask"}.get(change)
    if change == "stripped":
        del copy.metadata_props[:]
    if change == "mask":
        ours.output[1] = "mask"
    if change == "read":
        for base in (model, inserted):
            base.graph.node.append(helper.make_node("Neg", [inner], ["more"], name="more"))
            base.graph.output.append(
                helper.make_tensor_value_info("more", TensorProto.FLOAT, [None] * 4)
            )
    elif more:
        kind = TensorProto.BOOL if change == "mask" else TensorProto.FLOAT
        inserted.graph.output.append(helper.make_tensor_value_info(more, kind, [None] * 4))
    folded = fold(inserted)
    onnx.checker.check_model(folded, full_check=True)
    assert not inspect(folded).nodes
    assert not any(METADATA_KEY in str(node.metadata_props) for node in folded.graph.node)
    outputs = [value.name for value in folded.graph.output]
    assert outputs[:2] == [value.name for value in model.graph.output][:2]
    data = np.ones((2, 3, 16, 16), np.float32)
    for one, other in zip(
        run(session(model), {"x": data}), run(session(folded), {"x": data}), strict=False
    ):
        np.testing.assert_array_equal(one, other)
    if change in ("", "read"):
        assert differences(model, folded) == []
    if change == "stripped":
        assert [n.op_type for n in folded.graph.node].count("Identity") == 1


# --- Nodes written by hand -----------------------------------------------------------------------


@pytest.mark.parametrize("only_output", [True, False])
@pytest.mark.parametrize("training_mode", [0, 1])
@pytest.mark.parametrize("opset", [13, 20, 26])
@each_op
def test_a_node_between_graph_input_and_output(op_type, opset, training_mode, only_output):
    """Names of inputs and outputs stay, so an Identity remains; mask and scale become values."""
    model = one_node(
        op_type,
        ("N", "C", "H", "W"),
        opset=opset,
        training_mode=training_mode,
        only_output=only_output,
    )
    folded = fold(model)
    onnx.checker.check_model(folded, full_check=True)
    assert not folded.functions
    assert not inspect(folded).nodes
    assert [value.name for value in folded.graph.input] == ["data", "ratio"]
    names = [value.name for value in folded.graph.output]
    assert names == (["output"] if only_output else ["output", "mask", "scale"])
    assert not any(node.op_type == "If" for node in folded.graph.node)
    if only_output:
        assert [node.op_type for node in folded.graph.node] == ["Identity"]
    data = np.random.default_rng(0).standard_normal((2, 3, 6, 7)).astype(np.float32)
    results = run(session(folded), {"data": data, "ratio": np.array(0.4, np.float32)})
    assert results[0].tobytes() == data.tobytes()
    if not only_output:
        assert results[1].dtype == np.bool_
        assert results[1].all()
        assert results[2] == 1
    assert differences(folded, fold(folded)) == []


@pytest.mark.parametrize("changes", [{"normalize": 2}, {"shared_axes": [0, 1]}, {"normalize": 0}])
def test_mask_and_scale_keep_their_shapes(changes):
    model = one_node("DropBlock", ("N", "C", "H", "W"), **changes)
    feeds = {"data": np.ones((2, 3, 6, 7), np.float32), "ratio": np.array(0.4, np.float32)}
    before, after = (run(session(m), feeds) for m in (model, fold(model)))
    assert [a.shape for a in before] == [a.shape for a in after]


def by_hand(middle, outputs):
    text = f"""
    <ir_version: 8, opset_import: ["": 18, "{DOMAIN}": 1]>
    g (float[N,3,8,8] x) => ({outputs}) <float r = {{0.5}}, float q = {{0.25}}> {{ {middle} }}
    """
    model = onnx.parser.parse_model(text)
    model.functions.append(function_proto("SpatialDropout", 18, "float32"))
    onnx.checker.check_model(model, full_check=True)
    return model


CALL = f"{DOMAIN}.SpatialDropout <training_mode = 1, seed = 3, channel_axis = 1>"


def test_a_mask_that_is_used():
    model = by_hand(
        f'a = Relu (x) d, m, "" = {CALL} (a, r) f = Cast <to = 1> (m) y = Add (d, f)',
        "float[N,3,8,8] y",
    )
    folded = fold(model)
    assert not inspect(folded).nodes
    assert not folded.functions
    assert [t.name for t in folded.graph.initializer] == ["q"]
    data = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(session(folded), {"x": data})[0], np.maximum(data, 0) + 1)


def test_a_mask_used_in_a_subgraph():
    model = by_hand(
        f'd, m, "" = {CALL} (x, r) c = Less (r, q) y = If (c) <'
        "then_branch = t () => (p) { p = Identity (d) },"
        "else_branch = e () => (p) { f = Cast <to = 1> (m) p = Mul (d, f) }>",
        "float[N,3,8,8] y",
    )
    folded = fold(model)
    onnx.checker.check_model(folded, full_check=True)
    assert not inspect(folded).nodes
    data = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(session(folded), {"x": data})[0], data)


def test_a_mask_that_is_named_but_not_used():
    model = by_hand(f"a = Relu (x) d, m, s = {CALL} (a, r) y = Neg (d)", "float[N,3,8,8] y")
    folded = fold(model)
    assert [node.op_type for node in folded.graph.node] == ["Relu", "Neg"]
    assert [t.name for t in folded.graph.initializer] == ["q"]


def test_data_that_is_a_graph_input():
    model = by_hand(f'd, "", "" = {CALL} (x, r) y = Neg (d)', "float[N,3,8,8] y")
    folded = fold(model)
    assert [(node.op_type, list(node.input)) for node in folded.graph.node] == [("Neg", ["x"])]


def test_two_outputs_of_one_value():
    """Data and what is dropped of it are both outputs: each keeps its name."""
    model = by_hand(f'a = Relu (x) y, "", "" = {CALL} (a, r)', "float[N,3,8,8] a, float[N,3,8,8] y")
    folded = fold(model)
    assert [node.op_type for node in folded.graph.node] == ["Relu", "Identity"]
    assert [value.name for value in folded.graph.output] == ["a", "y"]
    assert list(folded.graph.output) == list(model.graph.output)


def test_two_nodes_on_one_value():
    other = CALL.replace("seed = 3", "seed = 4")
    model = by_hand(
        f'a = Relu (x) y, "", "" = {CALL} (a, r) z, "", "" = {other} (a, q)',
        "float[N,3,8,8] y, float[N,3,8,8] z",
    )
    folded = fold(model)
    onnx.checker.check_model(folded, full_check=True)
    assert not inspect(folded).nodes
    assert not folded.graph.initializer
    data = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    for result in run(session(folded), {"x": data}):
        np.testing.assert_array_equal(result, np.maximum(data, 0))
    assert [value.name for value in folded.graph.output] == ["y", "z"]


def test_nodes_in_a_row():
    other = CALL.replace("seed = 3", "seed = 4")
    model = by_hand(
        f'a = Relu (x) d, "", "" = {CALL} (a, r) y, "", "" = {other} (d, r)', "float[N,3,8,8] y"
    )
    folded = fold(model)
    assert [(node.op_type, list(node.output)) for node in folded.graph.node] == [("Relu", ["y"])]


def test_an_outer_value_dropped_in_a_subgraph():
    """The subgraph's output cannot become the outer value itself."""
    model = by_hand(
        f'c = Less (r, q) y = If (c) <then_branch = t () => (p) {{ p, "", "" = {CALL} (x, r) }},'
        f'else_branch = e () => (p) {{ b = Relu (x) p, "", "" = {CALL} (b, r) }}>',
        "float[N,3,8,8] y",
    )
    folded = fold(model)
    onnx.checker.check_model(folded, full_check=True)
    assert not inspect(folded).nodes
    (branching,) = (node for node in folded.graph.node if node.op_type == "If")
    ops = {a.name: [node.op_type for node in a.g.node] for a in branching.attribute}
    assert ops == {"then_branch": ["Identity"], "else_branch": ["Relu"]}
    data = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(session(folded), {"x": data})[0], np.maximum(data, 0))


def test_a_computed_ratio_stays_unless_constant():
    """Only what is plainly there for our nodes is removed."""
    model = by_hand(f'h = Mul (r, q) d, "", "" = {CALL} (x, h) y = Neg (d)', "float[N,3,8,8] y")
    folded = fold(model)
    assert [node.op_type for node in folded.graph.node] == ["Mul", "Neg"]
    onnx.checker.check_model(folded, full_check=True)


def test_a_ratio_from_a_constant_node_goes():
    model = by_hand(
        f'h = Constant <value_float = 0.5> () d, "", "" = {CALL} (x, h) y = Neg (d)',
        "float[N,3,8,8] y",
    )
    assert [node.op_type for node in fold(model).graph.node] == ["Neg"]


def test_an_initializer_that_is_an_input_as_well():
    model = by_hand(f'd, "", "" = {CALL} (x, r) y = Neg (d)', "float[N,3,8,8] y")
    model.graph.input.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, []))
    folded = fold(model)
    assert [value.name for value in folded.graph.input] == ["x", "r"]
    onnx.checker.check_model(folded, full_check=True)


def test_a_node_without_data():
    model = by_hand(f'd, "", "" = {CALL} (x, r) y = Neg (x)', "float[N,3,8,8] y")
    model.graph.node[0].input[0] = ""
    with pytest.raises(ModelError, match="has no data input"):
        fold(model)


@pytest.mark.parametrize("outputs", [0, 1, 2, 4])
def test_a_node_with_another_number_of_outputs(outputs):
    names = ["d", "m", "s", "t"][:outputs]
    model = by_hand(f'd, "", "" = {CALL} (x, r) y = Neg (x)', "float[N,3,8,8] y")
    del model.graph.node[0].output[:]
    model.graph.node[0].output.extend(names)
    if not outputs:
        with pytest.raises(ModelError, match=r"SpatialDropout\) has no data output"):
            fold(model)
        return
    # Where nothing reads them, any number will do.
    assert [node.op_type for node in fold(model).graph.node] == ["Neg"]
    if outputs > 1:
        model.graph.node.append(helper.make_node("Not", [names[-1]], ["n"], name="not"))
        match = rf"lists {outputs} outputs, it has 3; list them all, those without use as"
        with pytest.raises(ModelError, match=match):
            fold(model)


@pytest.mark.parametrize("damage", ["missing", "foreign", "body", "attributes"])
def test_a_mask_that_is_used_without_a_sound_function(damage):
    """What a node means is known without the function that the model holds."""
    model = by_hand(
        f'a = Relu (x) d, m, "" = {CALL} (a, r) f = Cast <to = 1> (m) y = Add (d, f)',
        "float[N,3,8,8] y",
    )
    function = model.functions[0]
    if damage == "missing":
        del model.functions[:]
    elif damage == "foreign":
        function.CopyFrom(
            onnx.parser.parse_function(
                f'<domain: "{DOMAIN}", opset_import: ["": 18]> '
                "SpatialDropout (a, b) => (c, d, e) { c = Neg (a) d = Neg (b) e = Neg (b) }"
            )
        )
    elif damage == "body":
        del function.node[:]
        function.node.add(op_type="Nonsense", input=["data"], output=function.output)
    else:
        del function.attribute[:]
    folded = fold(model)
    onnx.checker.check_model(folded, full_check=True)
    assert not inspect(folded).nodes
    assert not folded.functions
    data = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(session(folded), {"x": data})[0], np.maximum(data, 0) + 1)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("seed = 3, ", "", "lacks the attribute 'seed'"),
        ("channel_axis = 1", 'channel_axis = "1"', "'channel_axis'.*type STRING.*must be INT"),
    ],
)
def test_a_mask_that_is_used_of_a_node_that_is_no_call(old, new, match):
    call = CALL.replace(old, new)
    text = f"""
    <ir_version: 8, opset_import: ["": 18, "{DOMAIN}": 1]>
    g (float[N,3,8,8] x) => (float[N,3,8,8] y) <float r = {{0.5}}> {{
      d, m, "" = {call} (x, r) f = Cast <to = 1> (m) y = Add (d, f)
    }}
    """
    with pytest.raises(ModelError, match=match):
        fold(onnx.parser.parse_model(text))


def test_a_mask_that_is_used_at_an_opset_without_bodies():
    model = by_hand(
        f'd, m, "" = {CALL} (x, r) f = Cast <to = 1> (m) y = Add (d, f)', "float[N,3,8,8] y"
    )
    for entry in model.opset_import:
        entry.version = 12 if not entry.domain else 1
    with pytest.raises(UnsupportedModelError, match="opset 12"):
        fold(model)


def test_names_in_subgraphs_are_left_alone_where_a_mask_is_used():
    model = by_hand(
        f'd, m, "" = {CALL} (x, r) c = Less (r, q) y = If (c) <'
        "then_branch = t () => (p) { dims = Identity (d) axes = Neg (dims) p = Neg (axes) },"
        "else_branch = e () => (p) { mask_dims = Cast <to = 1> (m) one = Mul (d, mask_dims) "
        "p = Mul (one, one) }>",
        "float[N,3,8,8] y",
    )
    folded = fold(model)
    onnx.checker.check_model(folded, full_check=True)
    data = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(session(folded), {"x": data})[0], data * data)


def test_functions_of_the_model_stay():
    net = Net()
    model = net.model(net.relu(net.conv("x", 4)))
    function = onnx.parser.parse_function(
        '<domain: "local", opset_import: ["": 18]> unused (a) => (b) { b = Neg (a) }'
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    assert differences(model, fold(insert(model, SpatialDropout2D(0.1)))) == []
