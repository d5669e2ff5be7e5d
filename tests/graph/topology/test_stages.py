"""Blocks and resolution stages, counted on block outputs."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import Net

from onnx_structdrop.graph.sites import find_sites
from onnx_structdrop.graph.topology.dominators import ROOT, DominatorTree
from onnx_structdrop.graph.topology.stages import number_stages


def table(model):
    """Return (kind, stride, stage, block) of every site."""
    return [(s.kind, s.stride, s.stage, s.block) for s in find_sites(model)]


def stages(model):
    return [site.stage for site in find_sites(model)]


def test_residual_network_with_a_stem():
    net = Net()
    x = net.pool(net.cbr("x", 8, 7, 2))
    for out, stride in ((8, 1), (8, 1), (16, 2), (32, 2)):
        x = net.residual(x, out, stride)
    found = table(net.model(net.head(x)))
    assert found[0] == ("activation", 2, None, None)
    assert found[1:4] == [("activation", 4, 1, 1), ("linear", 4, 1, 1), ("join", 4, 1, 1)]
    assert found[6] == ("join", 4, 1, 2)
    assert found[7:11] == [
        ("activation", 8, 2, 1),
        ("linear", 8, 2, 1),
        ("shortcut", 8, 2, 1),
        ("join", 8, 2, 1),
    ]
    assert {row[2] for row in found[11:]} == {3}


def test_stem_at_the_resolution_of_the_first_stage():
    net = Net()
    x = net.residual(net.cbr("x", 8), 8)
    found = table(net.model(net.head(net.residual(x, 16, 2))))
    assert found[0] == ("activation", 1, 1, None)
    assert [row[2] for row in found if row[0] == "join"] == [1, 2]


def test_convolution_at_the_old_resolution_belongs_to_the_new_stage():
    net = Net()
    x = net.residual(net.cbr("x", 8, 3, 2), 8)
    y = net.cbr(net.cbr(x, 8, 1), 8, 3, 2)
    y = net.bn(net.conv(y, 16, 1))
    join = net.relu(net.op("Add", y, net.bn(net.conv(x, 16, 1, 2))))
    found = table(net.model(net.head(join)))
    assert found[4] == ("activation", 2, 2, 1)
    assert found[-1] == ("join", 4, 2, 1)


def test_inverted_residuals():
    net = Net()

    def block(x, out, stride, expand):
        y = net.cbr(x, net.channels[x] * expand, 1) if expand > 1 else x
        y = net.cbr(y, net.channels[y], 3, stride, group=net.channels[y])
        y = net.bn(net.conv(y, out, 1))
        return net.op("Add", x, y) if stride == 1 and net.channels[x] == out else y

    x = block(net.cbr("x", 16, 3, 2), 8, 1, 1)
    for out, stride in ((12, 2), (12, 1), (16, 2)):
        x = block(x, out, stride, 6)
    found = table(net.model(net.head(net.cbr(x, 64, 1))))
    assert found == [
        ("activation", 2, 1, None),  # the stem is at the resolution of stage 1, but in no block
        ("activation", 2, 1, 1),
        ("linear", 2, 1, 1),
        ("activation", 2, 2, 1),
        ("activation", 4, 2, 1),
        ("linear", 4, 2, 1),
        ("activation", 4, 2, 2),
        ("activation", 4, 2, 2),
        ("linear", 4, 2, 2),
        ("join", 4, 2, 2),
        ("activation", 4, 3, 1),
        ("activation", 8, 3, 1),
        ("linear", 8, 3, 1),
        ("activation", 8, 3, None),
    ]


def test_full_convolution_in_an_inverted_residual():
    net = Net()
    x = net.cbr("x", 8, 3, 2)
    x = net.squeeze_excite(net.cbr(x, 32, 3, 2))
    x = net.bn(net.conv(x, 12, 1))
    assert table(net.model(net.head(net.cbr(x, 64, 1))))[1:3] == [
        ("activation", 4, 1, 1),
        ("linear", 4, 1, 1),
    ]


def test_lateral_convolution_is_no_bottleneck():
    net = Net()
    x = "x"
    for out in (8, 16, 32):
        x = net.pool(net.relu(net.conv(x, out)))
    lateral = net.conv(x, 8, 1)
    assert stages(net.model(net.relu(net.conv(lateral, 8)), net.pool(lateral))) == [1, 2, 3, 4, 4]


def test_plain_networks_count_every_convolution():
    net = Net()
    x = net.pool(net.cbr(net.cbr("x", 8), 8))
    x = net.cbr(net.cbr(x, 16), 16)
    assert table(net.model(net.head(x))) == [
        ("activation", 1, 1, 1),
        ("activation", 1, 1, 2),
        ("activation", 2, 2, 1),
        ("activation", 2, 2, 2),
    ]


def test_sum_of_resolutions_stands_for_itself():
    # Parallel branches exchange their maps, and a head of a coarser resolution follows.
    net = Net()
    fine = net.residual(net.cbr("x", 8), 8)
    coarse = net.residual(fine, 16, 2)
    back = net.op("Resize", net.bn(net.conv(coarse, 8, 1)), "", net.const([1.0, 1.0, 2.0, 2.0]))
    fused = net.relu(net.op("Add", fine, back))
    down = net.bn(net.conv(net.cbr(fused, 8, 3, 2), 16, 3, 2))
    other = net.bn(net.conv(net.residual(coarse, 16), 16, 3, 2))
    end = net.relu(net.op("Add", down, other))
    found = {site.value: (site.stride, site.stage) for site in find_sites(net.model(net.head(end)))}
    assert (found[fused], found[end]) == ((1, 1), (4, 3))


@pytest.mark.parametrize("merging", ["Concat", "Add"])
def test_decoder_shares_the_stages_of_its_encoder(merging):
    net = Net()
    x, skips = "x", []
    for out in (8, 16, 32):
        x = net.cbr(net.cbr(x, out), out)
        skips.append(x)
        x = net.pool(x)
    x = net.cbr(x, 64)
    for skip in reversed(skips):
        up = net.up(x, net.channels[skip])
        merged = net.op(merging, skip, up, **({"axis": 1} if merging == "Concat" else {}))
        x = net.cbr(merged, net.channels[skip])
    found = find_sites(net.model(net.conv(x, 2, 1)))
    assert {(site.stride, site.stage) for site in found} == {(1, 1), (2, 2), (4, 3), (8, 4)}


def test_feature_pyramid_leaves_the_backbone_alone():
    net = Net()
    x, levels = net.pool(net.cbr("x", 8, 7, 2)), []
    for out, stride in ((8, 1), (16, 2), (32, 2)):
        x = net.residual(x, out, stride)
        levels.append(x)
    backbone = table(net.model(x))
    laterals = [net.conv(level, 8, 1) for level in levels]
    top, outputs = laterals[-1], []
    for lateral in laterals[-2::-1]:
        top = net.op("Add", lateral, net.op("Resize", top, "", net.const([1, 1, 2, 2])))
        outputs.append(net.conv(top, 8))
    found = table(net.model(*outputs))
    assert found[: len(backbone)] == backbone
    assert {(row[1], row[2]) for row in found[len(backbone) :]} == {(4, 1), (8, 2), (16, 3)}
    assert all(row[3] is None for row in found[len(backbone) :])


def test_path_aggregation_is_no_block():
    net = Net()
    x = net.cbr("x", 8, 3, 2)
    low = net.residual(x, 8)
    high = net.residual(low, 16, 2)
    fused = net.cbr(
        net.op("Concat", low, net.op("Resize", high, "", net.const([1, 1, 2, 2])), axis=1), 8
    )
    down = net.cbr(fused, 8, 3, 2)
    end = net.cbr(net.op("Concat", down, high, axis=1), 8)
    found = {s.value: s for s in find_sites(net.model(net.conv(fused, 4, 1), end))}
    assert (found[fused].stage, found[fused].block) == (1, None)
    assert (found[high].stage, found[high].block) == (2, 1)


def test_shuffle_units_end_in_their_concatenation():
    net = Net()
    x = net.pool(net.cbr("x", 8, 3, 2))
    for _ in range(2):
        left = net.cbr(net.bn(net.conv(x, 8, 3, 2, group=8)), 8, 1)
        right = net.cbr(net.bn(net.conv(net.cbr(x, 8, 1), 8, 3, 2, group=8)), 8, 1)
        x = net.op("Concat", left, right, axis=1)
        x = net.cbr(x, 8, 1)
    found = table(net.model(net.head(x)))
    assert found[0] == ("activation", 2, None, None)
    assert [row[2] for row in found] == [None, *[1] * 6, *[2] * 6]
    assert found[3] == ("activation", 4, 1, 1)  # at the old resolution, in the new stage


def test_concatenation_inside_a_residual_block_ends_no_block():
    net = Net()
    x = net.cbr("x", 8, 3, 2)
    for _ in range(2):
        both = net.op("Concat", net.cbr(x, 4, 1), net.cbr(net.cbr(x, 4, 1), 4), axis=1)
        x = net.relu(net.op("Add", x, net.conv(both, 8, 1)))
    assert [row[3] for row in table(net.model(net.head(x)))] == [None, *[1] * 5, *[2] * 5]


def test_dense_blocks_and_their_transitions():
    net = Net()
    x = net.pool(net.cbr("x", 8, 3, 2))
    for _ in range(2):
        for _ in range(2):
            layer = net.conv(net.cbr(net.relu(net.bn(x)), 8, 1), 4)
            x = net.op("Concat", x, layer, axis=1)
        x = net.pool(net.conv(net.relu(net.bn(x)), 8, 1), "AveragePool")
    found = table(net.model(net.head(net.relu(net.bn(x)))))
    assert found[1:6] == [
        ("activation", 4, 1, 1),
        ("concat", 4, 1, 1),
        ("activation", 4, 1, 2),
        ("concat", 4, 1, 2),
        ("linear", 4, 1, None),
    ]
    assert {row[2] for row in found[6:]} == {2}


def test_pre_activation_network():
    net = Net()
    x = net.pool(net.conv("x", 8, 7, 2))
    for out, stride in ((8, 1), (16, 2)):
        opening = net.relu(net.bn(x))
        main = net.conv(net.cbr(opening, out, 3, stride), out)
        x = net.op("Add", main, net.conv(opening, out, 1, stride))
    found = table(net.model(net.head(net.relu(net.bn(x)))))
    assert found[0] == ("linear", 2, None, None)
    assert found[1:5] == [
        ("activation", 4, 1, 1),
        ("linear", 4, 1, 1),
        ("shortcut", 4, 1, 1),
        ("join", 4, 1, 1),
    ]
    assert found[-1] == ("join", 8, 2, 1)


def test_order_of_nodes_does_not_matter():
    net = Net()
    x = net.pool(net.cbr("x", 8, 7, 2))
    for out, stride in ((8, 1), (16, 2), (32, 2)):
        x = net.residual(x, out, stride)
    model = net.model(net.head(x))
    expected = {site.value: site for site in find_sites(model)}
    generator = np.random.default_rng(0)
    for _ in range(5):
        ready, order, made = (
            list(model.graph.node),
            [],
            {"x", *(t.name for t in model.graph.initializer)},
        )
        while ready:
            possible = [node for node in ready if made.issuperset(filter(None, node.input))]
            node = possible[generator.integers(len(possible))]
            ready.remove(node)
            order.append(node)
            made.update(node.output)
        shuffled = type(model).FromString(model.SerializeToString())
        del shuffled.graph.node[:]
        shuffled.graph.node.extend(order)
        assert {site.value: site for site in find_sites(shuffled)} == expected


def test_side_output_inside_a_block():
    net = Net()
    x = net.residual(net.cbr("x", 8, 3, 2), 8)
    inner = net.cbr(x, 16, 3, 2)
    join = net.relu(net.op("Add", net.conv(inner, 16), net.conv(x, 16, 1, 2)))
    found = {site.value: site for site in find_sites(net.model(net.head(join), inner))}
    assert (found[inner].stage, found[inner].block) == (2, None)
    assert (found[join].stage, found[join].block) == (2, 1)


def test_without_strides_there_are_no_stages():
    net = Net(("N", 3, "H", "W"))
    x = net.op("Resize", "x", "", "", net.op("Identity", "sizes"))
    net.inputs.append(type(net.inputs[0])(name="sizes"))
    net.inputs[-1].type.tensor_type.elem_type = 7
    net.inputs[-1].type.tensor_type.shape.dim.add(dim_value=4)
    net.channels[x] = 3
    x = net.residual(net.relu(net.conv(x, 8)), 8)
    assert {(site.stage, site.stride) for site in find_sites(net.model(net.head(x)))} == {
        (None, None)
    }


def test_numbering():
    two, four, eight = Fraction(2), Fraction(4), Fraction(8)
    assert number_stages([two, four, eight, None], [four, None]) == {four: 1, eight: 2}
    assert number_stages([two, four], []) == {two: 1, four: 2}
    assert number_stages([None], []) == {}


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 14))
    return [
        draw(st.lists(st.integers(ROOT, node - 1), max_size=3, unique=True))
        for node in range(count)
    ]


@given(graphs())
def test_dominators_are_those_of_the_definition(predecessors):
    tree = DominatorTree(predecessors)
    sets: list[set[int]] = []
    for node, sources in enumerate(predecessors):
        before = [sets[source] if source != ROOT else {ROOT} for source in sources] or [{ROOT}]
        sets.append({node} | set.intersection(*before))
    for node, dominating in enumerate(sets):
        strict = dominating - {node}
        closest = max(strict, key=lambda other: len(sets[other]) if other != ROOT else 0)
        assert tree.parent(node) == closest
        for other in range(len(sets)):
            assert tree.dominates(other, node) == (other in dominating)
        assert tree.dominates(ROOT, node)


def _chain(net, conv, x, count):
    for _ in range(count):
        x = net.op("Add", net.relu(conv(x)), x)
    return x


def _one_fork(net, conv, x, count):
    start = x
    for _ in range(count):
        x = net.op("Add", net.relu(conv(x)), start)
    return x


def _deep_decoder(net, conv, x, count):
    skips = [x]
    for _ in range(count // 2):
        skips.append(net.relu(conv(skips[-1])))
    x = skips[-1]
    for skip in reversed(skips):
        x = net.op("Add", net.relu(conv(x)), skip)
    return x


@pytest.mark.parametrize("build", [_chain, _one_fork, _deep_decoder])
def test_time_grows_with_the_size_of_the_model(build):
    def seconds(count):
        net = Net(("N", 4, 8, 8))
        weight = net.const(np.zeros((4, 4, 3, 3)))

        def conv(x):
            return net.op("Conv", x, weight, pads=[1, 1, 1, 1])

        model = net.model(build(net, conv, net.relu("x"), count))
        start = time.process_time()
        assert len(find_sites(model)) >= count
        return time.process_time() - start

    seconds(10)
    assert seconds(2400) < 16 * seconds(300) + 1
