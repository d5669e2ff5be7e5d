"""Each dropout node has the stage of its site, and each stage a ratio of its own."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import onnx_structdrop as sd
from onnx_structdrop import ArgumentError
from onnx_structdrop.graph.convert import as_ir
from onnx_structdrop.graph.nodes import dropout_nodes
from onnx_structdrop.training import Schedule
from onnx_structdrop.training.manifest import Ratio
from onnx_structdrop.training.stages import check_stages, node_stages, ratios_of, split_by_stage

MODEL = pathlib.Path(__file__).parents[2] / "models" / "trainable" / "digits_resnet.onnx"


@pytest.fixture(scope="module")
def sites():
    return [site for site in sd.find_sites(sd.load(MODEL)) if site.kind in ("activation", "join")]


@pytest.fixture
def live(sites):
    return as_ir(sd.insert(sd.load(MODEL), sd.DropBlock2D(0.2, 3, seed=1), sites))


def ratio_of(node):
    return node.inputs[1].name


def test_nodes_have_the_stage_of_their_site(live, sites):
    stages = node_stages(live)
    found = {node.inputs[0].name: stages[node.outputs[0].name] for _, node in dropout_nodes(live)}
    assert found == {site.value: site.stage for site in sites}
    assert len(set(found.values())) > 1


def test_splitting_gives_each_stage_one_ratio(live):
    stages = node_stages(live)
    (before,) = {ratio_of(node) for _, node in dropout_nodes(live)}
    split_by_stage(live, stages)
    of_stage = {}
    for _, node in dropout_nodes(live):
        of_stage.setdefault(stages[node.outputs[0].name], set()).add(ratio_of(node))
        assert node.inputs[1].const_value.numpy() == np.float32(0.2)
    names = [name for each in of_stage.values() for name in each]
    assert len(names) == len(set(names)) == len(of_stage)
    assert before not in live.graph.initializers  # nothing reads it any more
    assert set(names) <= set(live.graph.initializers)


def test_splitting_twice_changes_nothing(live):
    stages = node_stages(live)
    split_by_stage(live, stages)
    names = [ratio_of(node) for _, node in dropout_nodes(live)]
    split_by_stage(live, stages)
    assert [ratio_of(node) for _, node in dropout_nodes(live)] == names


def test_what_ratios_drive(live):
    stages = node_stages(live)
    (name,) = {ratio_of(node) for _, node in dropout_nodes(live)}
    (shared,) = ratios_of(live, [name], stages)
    assert (shared.name, shared.rate) == (name, 0.2)  # not the float32 next to it
    assert set(shared.stages) == set(stages.values())
    assert len(shared.nodes) == len(stages)
    assert ratios_of(live, [], stages) == ()
    split_by_stage(live, stages)
    split = ratios_of(live, {ratio_of(node) for _, node in dropout_nodes(live)}, stages)
    assert sorted(one for each in split for one in each.stages) == sorted(shared.stages)
    assert sorted(one for each in split for one in each.nodes) == sorted(shared.nodes)


def test_schedules_have_to_fit():
    shared = Ratio("r", 0.2, (1, 2), ("a", "b"))
    check_stages(Schedule.linear(5), [shared])
    check_stages(Schedule.linear(5, factors={1: 0.5, 2: 0.5}), [shared])
    with pytest.raises(ArgumentError, match="stage 3 holds no dropout; stages that do: 1, 2"):
        check_stages(Schedule.linear(5, factors={3: 0.5}), [shared])
    with pytest.raises(ArgumentError, match="'r' drives stages 1, 2, which have different fac"):
        check_stages(Schedule.linear(5, factors={1: 0.5}), [shared])
    apart = [Ratio("r", 0.2, (1,), ("a",)), Ratio("s", 0.2, (2,), ("b",))]
    check_stages(Schedule.linear(5, factors={1: 0.5}), apart)
