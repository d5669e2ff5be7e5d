"""The promises of insertion, folding, inlining and switching, on generated models."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from one_node import LEVELS, session
from onnx import TensorProto, helper, numpy_helper

from onnx_structdrop.errors import ModelError
from onnx_structdrop.graph.compare import differences
from onnx_structdrop.graph.fold import fold
from onnx_structdrop.graph.inline import inline
from onnx_structdrop.graph.insert import insert
from onnx_structdrop.graph.inspect import inspect
from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.schema import DOMAIN
from onnx_structdrop.specs import DropBlock2D, DropPath, SpatialDropout2D

SETTINGS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
SHAPE = (2, 4, 6, 6)
# Names that insertion or a body of ours would like to use, too.
NAMES = ("a", "a_dropped", "a_kept", "a_output", "a_1", "dims", "axes", "output", "mask", "seeds",
         "structdrop_ratio", "a_SpatialDropout", "a_SpatialDropout/dims", "n0")  # fmt: skip
SPECS = (
    SpatialDropout2D(0.4, seed=1),
    DropBlock2D(0.3, 3, seed=2),
    DropPath(0.5, seed=3),
    DropBlock2D(0.02, 2, seed=4, seed_region="whole", normalize="sample"),
)


class Builder:
    """Draws a model: a chain with branches, subgraphs and functions, each value of one shape."""

    def __init__(self, draw):
        self.draw = draw
        self.opset = draw(st.sampled_from([13, 14, 15, 17, 18, 20, 21]))
        self.element = draw(st.sampled_from([TensorProto.FLOAT, TensorProto.FLOAT16]))
        self.taken = {"x", "c", "w"}
        self.functions = []

    def name(self):
        free = [name for name in NAMES if name not in self.taken]
        if not free or self.draw(st.booleans()):
            free = [f"v{len(self.taken)}"]
        name = self.draw(st.sampled_from(free))
        self.taken.add(name)
        return name

    def node(self, op_type, inputs, **attributes):
        name = self.draw(st.sampled_from(["", f"node_{len(self.taken)}"]))
        return helper.make_node(op_type, inputs, [self.name()], name=name, **attributes)

    def nodes(self, visible, depth, count):
        """Return nodes and the values they define, reading what is visible."""
        made, values = [], list(visible)
        for _ in range(count):
            kinds = ["conv", "conv", "relu", "relu", "add", "add", "sigmoid", "identity"]
            kinds += ["if", "call"] if depth < 2 else []
            kind = self.draw(st.sampled_from(kinds))
            last = values[-1]
            any_value = self.draw(st.sampled_from(values))
            if kind == "conv":
                node = self.node("Conv", [any_value, "w"], pads=[1] * 4)
            elif kind == "add":
                node = self.node("Add", [last, any_value])
            elif kind == "if":
                branches = {
                    f"{label}_branch": self.graph(label, values, depth + 1)
                    for label in ("then", "else")
                }
                node = self.node("If", ["c"], **branches)
            elif kind == "call" and depth == 0:
                node = self.node(self.function(), [last, "w"], domain="local")
            else:
                node = self.node(
                    {"relu": "Relu", "sigmoid": "Sigmoid"}.get(kind, "Identity"), [last]
                )
            made.append(node)
            values.append(node.output[0])
        return made, values[len(visible) :]

    def graph(self, label, visible, depth):
        nodes, values = self.nodes(visible, depth, self.draw(st.integers(1, 3)))
        result = helper.make_tensor_value_info(values[-1], self.element, SHAPE)
        return helper.make_graph(nodes, label, [], [result])

    def function(self):
        if self.functions and self.draw(st.booleans()):
            return self.draw(st.sampled_from(self.functions)).name
        outside, self.taken = self.taken, {"x", "c", "w"}
        nodes, values = self.nodes(["x"], 2, self.draw(st.integers(1, 4)))
        self.taken = outside
        name = f"f{len(self.functions)}"
        imports = [helper.make_opsetid("", self.opset)]
        self.functions.append(
            helper.make_function("local", name, ["x", "w"], values[-1:], nodes, imports)
        )
        return name

    def model(self):
        nodes, values = self.nodes(["x"], 0, self.draw(st.integers(2, 7)))
        outputs = self.draw(st.lists(st.sampled_from(values), min_size=1, unique=True))
        dtype = helper.tensor_dtype_to_np_dtype(self.element)
        weight = np.random.default_rng(0).standard_normal((4, 4, 3, 3)) * 0.2
        graph = helper.make_graph(
            nodes,
            "generated",
            [
                helper.make_tensor_value_info("c", TensorProto.BOOL, []),
                helper.make_tensor_value_info("x", self.element, SHAPE),
            ],
            [helper.make_tensor_value_info(name, self.element, SHAPE) for name in outputs],
            [numpy_helper.from_array(weight.astype(dtype), "w")],
        )
        imports = [helper.make_opsetid("", self.opset)]
        if self.functions:
            imports.append(helper.make_opsetid("local", 1))
        lowest = 8 if self.functions else 7
        model = helper.make_model(
            graph,
            functions=self.functions,
            opset_imports=imports,
            ir_version=self.draw(st.integers(lowest, 10)),
        )
        self.decorate(model)
        return model

    def decorate(self, model):
        """Add what has no bearing on the results."""
        described = {value.name for value in (*model.graph.output, *model.graph.input)}
        for name in self.draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4)):
            if name not in described:
                info = helper.make_tensor_value_info(name, self.element, SHAPE)
                model.graph.value_info.append(info)
        for name in self.draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=2)):
            entry = model.graph.quantization_annotation.add(tensor_name=name)
            entry.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
        for node in model.graph.node:
            if self.draw(st.integers(0, 4)) == 0:
                node.metadata_props.add(key="k", value="1")
                node.doc_string = "kept"


@dataclasses.dataclass
class Case:
    """A model, and the sites of each of its insertions."""

    model: onnx.ModelProto
    steps: list
    training_mode: bool
    ratio_input: str | None


@st.composite
def cases(draw):
    model = Builder(draw).model()
    sites = find_sites(model)
    steps = []
    while sites and len(steps) < 3:
        count = draw(st.integers(1, len(sites)))
        places = draw(st.permutations(range(len(sites))))[:count]
        steps.append((draw(st.sampled_from(SPECS)), [sites[place] for place in places]))
        sites = [site for place, site in enumerate(sites) if place not in places]
    in_function = any(site.scope.startswith("function") for _, step in steps for site in step)
    ratio_input = None if in_function else draw(st.sampled_from([None, "rate"]))
    return Case(model, steps, draw(st.booleans()), ratio_input)


def inserted(case, training_mode=None):
    """Return the model with all insertions, or with those that its opset allows."""
    mode = case.training_mode if training_mode is None else training_mode
    result = case.model
    for spec, step in case.steps:
        there = {(site.scope, site.value): site for site in find_sites(result)}
        sites = [there[key] for site in step if (key := place_of(site)) in there]
        untyped = any(site.dtype is None for site in sites) or result.functions
        if not sites or (case.model.opset_import[0].version < 15 and untyped):
            continue
        result = insert(result, spec, sites, training_mode=mode, ratio_input=case.ratio_input)
    return result


def place_of(site):
    return site.scope, site.value


def as_bytes(model):
    return model.SerializeToString(deterministic=True)


def feeds_of(model, chosen):
    element = helper.tensor_dtype_to_np_dtype(model.graph.input[1].type.tensor_type.elem_type)
    feeds = {
        "c": np.array(chosen),
        "x": np.random.default_rng(1).standard_normal(SHAPE).astype(element),
        "rate": np.array(0.4, np.float32),
    }
    known = {value.name for value in model.graph.input}
    return {name: value for name, value in feeds.items() if name in known}


@settings(SETTINGS, max_examples=80)
@given(cases())
def test_folding_undoes_insertion(case):
    onnx.checker.check_model(case.model)
    full = inserted(case)
    onnx.checker.check_model(full, full_check=True)
    folded = fold(full)
    assert differences(case.model, folded) == []
    assert as_bytes(folded) == as_bytes(fold(folded)) == as_bytes(fold(case.model))


@settings(SETTINGS, max_examples=40)
@given(cases(), st.sampled_from(LEVELS[1:]))
def test_inference_mode_is_the_original(case, level):
    full = inserted(case, training_mode=False)
    for chosen in (True, False):
        expected, found = (
            session(model, level).run(None, feeds_of(model, chosen)) for model in (case.model, full)
        )
        for one, other in zip(expected, found, strict=True):
            assert one.tobytes() == other.tobytes()


@settings(SETTINGS, max_examples=40)
@given(cases(), st.sampled_from(["dropout", "uniform"]))
def test_inlining_gives_a_sound_model(case, source):
    full = inserted(case)
    inlined = inline(full, source)
    onnx.checker.check_model(inlined, full_check=True)
    assert DOMAIN not in as_bytes(inlined).decode("latin-1").replace(f"{DOMAIN}.inlined", "")
    assert list(inlined.graph.output) == list(case.model.graph.output)
    runner = session(inlined)
    for chosen in (True, False):
        runner.run(None, feeds_of(inlined, chosen))


@settings(SETTINGS, max_examples=40)
@given(cases(), st.data())
def test_folding_with_masks_in_use(case, data):
    """Masks that are graph outputs become all True; everything else is the original."""
    full = inserted(case)
    ours = [node for node in full.graph.node if node.domain == DOMAIN]
    used = data.draw(st.lists(st.sampled_from(range(len(ours))), unique=True)) if ours else []
    for place in used:
        ours[place].output[1] = f"mask of {place}"
        info = helper.make_tensor_value_info(f"mask of {place}", TensorProto.BOOL, [None] * 4)
        full.graph.output.append(info)
    folded = fold(full)
    onnx.checker.check_model(folded, full_check=True)
    assert not inspect(folded).nodes
    if not used:
        return
    results = session(folded).run(None, feeds_of(folded, True))
    assert all(mask.all() for mask in results[len(case.model.graph.output) :])


@settings(SETTINGS, max_examples=40)
@given(cases(), st.data())
def test_damage_is_an_error_or_none(case, data):
    """Whatever is wrong with a node: an error that names it, or a sound result."""
    full = inserted(case)
    ours = [node for node in full.graph.node if node.domain == DOMAIN]
    if not ours:
        return
    node = data.draw(st.sampled_from(ours))
    kind = data.draw(st.sampled_from(["outputs", "inputs", "attribute", "type", "more", "op"]))
    if kind == "outputs":
        del node.output[data.draw(st.integers(1, 2)) :]
    elif kind == "inputs":
        del node.input[:]
    elif kind == "op":
        node.op_type = "Unknown"
    else:
        attribute = data.draw(st.sampled_from(list(node.attribute)))
        changed = helper.make_attribute(
            "more" if kind == "more" else attribute.name,
            data.draw(st.sampled_from(["text", 1.5, [0.5], case.model.graph])),
        )
        if kind != "more":
            node.attribute.remove(attribute)
        if kind != "attribute":
            node.attribute.append(changed)
    with pytest.raises(ModelError) as caught:
        inline(full)
    assert "\n" not in str(caught.value)
    if kind == "inputs":
        with pytest.raises(ModelError, match=r"has no data input|needs 2 inputs"):
            fold(full)
    else:
        assert kind == "op" or not inspect(fold(full)).nodes
