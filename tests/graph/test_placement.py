"""Placements: the sites that training recipes take, on every family of sample models."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from nets import Net

from onnx_structdrop.commands import values
from onnx_structdrop.errors import ArgumentError, ArgumentTypeError, SiteError
from onnx_structdrop.graph.placement import PLACEMENTS, placement
from onnx_structdrop.graph.selection import choose_sites
from onnx_structdrop.graph.sites import find_sites

MODELS = Path(__file__).parent.parent.parent / "models"

FAMILIES = {
    "convnext_dynamo": "droppath",
    "densenet_dynamo": "dense",
    "mobilenetv2_dynamo": "droppath",
    "resnet18_dynamo": "dropblock",
    "resnet18_torchscript": "dropblock",
    "resnet1d_dynamo": "dropblock",
    "resnet3d_dynamo": "dropblock",
    "resnet_keras_tensorflow": "dropblock",
    "resnet_keras_torch": "dropblock",
    "unet_dynamo": "dropblock",
    "unet_torchscript": "dropblock",
}


def sites_of(name):
    return find_sites(onnx.load(MODELS / f"{name}.onnx", load_external_data=False))


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.onnx")))
def test_paper_takes_what_fits_the_family(name):
    sites = sites_of(name)
    assert placement(sites) == placement(sites, "paper") == placement(sites, FAMILIES[name])


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_resnet_has_dropblock_in_groups_three_and_four(exporter):
    sites = sites_of(f"resnet18_{exporter}")
    chosen = placement(sites, "paper")
    assert {(site.stage, site.kind) for site in chosen} == {
        (stage, kind) for stage in (3, 4) for kind in ("activation", "linear", "shortcut")
    }
    left = [site for site in sites if site not in chosen]
    assert all(site.stage in (None, 1, 2) or site.kind == "join" for site in left)


def test_densenet_has_dropout_before_every_concatenation():
    chosen = placement(sites_of("densenet_dynamo"), "paper")
    assert [site.kind for site in chosen] == ["concat"] * 8


@pytest.mark.parametrize("name", ["convnext_dynamo", "mobilenetv2_dynamo", "resnet18_dynamo"])
def test_droppath_is_the_last_value_of_the_branch_that_enters_each_join(name):
    model = onnx.load(MODELS / f"{name}.onnx", load_external_data=False)
    sites = find_sites(model)
    chosen = placement(sites, "droppath")
    assert len(chosen) == sum(site.kind == "join" for site in sites)
    makers = {output: node for node in model.graph.node for output in node.output}
    users = {}
    for node in model.graph.node:
        for value in node.input:
            users.setdefault(value, []).append(node)
    for site in chosen:
        node = users[site.value][0]
        while node.op_type == "Transpose":
            node = users[node.output[0]][0]
        assert (site.kind, node.op_type, len(users[site.value])) == ("linear", "Add", 1)
        assert makers[site.value].name == site.producer


def test_droppath_where_the_branch_ends_in_an_activation():
    net = Net()
    x = net.cbr("x", 8)
    end = net.cbr(net.cbr(x, 4, 1), 8)
    sites = find_sites(net.model(net.head(net.op("Add", x, end))))
    assert [site.value for site in placement(sites, "droppath")] == [end]


@pytest.mark.parametrize("first", ["shortcut", "branch"])
def test_droppath_leaves_shortcuts_alone(first):
    net = Net()
    x = net.cbr("x", 8)
    if first == "shortcut":
        short = net.bn(net.conv(x, 16, 1, 2))
    branch = net.bn(net.conv(net.cbr(x, 16, 3, 2), 16))
    if first == "branch":
        short = net.bn(net.conv(x, 16, 1, 2))
    model = net.model(net.head(net.relu(net.op("Add", short, branch))))
    assert [site.value for site in placement(find_sites(model), "droppath")] == [branch]


@pytest.mark.parametrize(("inside", "family"), [(12, "dropblock"), (16, "droppath")])
def test_inverted_residuals_are_at_least_twice_as_wide_inside(inside, family):
    net = Net()
    x = net.cbr("x", 8)
    for _ in range(2):
        x = net.op("Add", x, net.bn(net.conv(net.cbr(x, inside, 1), 8, 1)))
    sites = find_sites(net.model(net.head(x)))
    assert placement(sites, "paper") == placement(sites, family)


def test_default_is_what_insertion_takes():
    model = ir.load(MODELS / "resnet18_dynamo.onnx")
    assert placement(find_sites(model), "default") == list(choose_sites(model, None))


def test_all_is_every_site_in_order():
    sites = sites_of("mobilenetv2_dynamo")
    assert placement(iter(sites), "all") == sites


@pytest.mark.parametrize("name", PLACEMENTS)
def test_sites_stay_in_order_and_are_taken_once(name):
    for model in ("resnet18_dynamo", "densenet_dynamo", "convnext_dynamo"):
        sites = sites_of(model)
        try:
            chosen = placement(sites, name)
        except SiteError:
            continue
        assert chosen == [site for site in sites if site in chosen]


def test_a_model_with_one_stage():
    net = Net()
    end = net.cbr(net.cbr("x", 8), 8)
    assert len(placement(find_sites(net.model(end)))) == 2


def test_no_such_site():
    with pytest.raises(SiteError, match=r"'dense' finds no site .* activation, linear"):
        placement(sites_of("resnet18_dynamo"), "dense")
    with pytest.raises(SiteError, match="none at all"):
        placement([], "paper")


def test_wrong_arguments():
    sites = sites_of("resnet18_dynamo")
    with pytest.raises(ArgumentError, match="did you mean 'dropblock'"):
        placement(sites, "drop_block")
    with pytest.raises(ArgumentTypeError, match="name is 3"):
        placement(sites, 3)
    with pytest.raises(ArgumentTypeError, match="pass what find_sites returns"):
        placement(["relu"], "paper")
    with pytest.raises(ArgumentTypeError, match="pass what find_sites returns"):
        placement(onnx.ModelProto(), "paper")


def test_the_command_line_offers_the_same():
    assert values.PLACEMENTS == PLACEMENTS
