"""The metadata entry that lets folding undo what the nodes do not show."""

from __future__ import annotations

import json

import onnx_ir as ir
import pytest

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.graph.record import Record, check_not_inlined, mark_inlined
from onnx_structdrop.schema import METADATA_KEY


def model(**metadata):
    empty = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 18}), ir_version=9)
    empty.metadata_props.update(metadata)
    return empty


def test_no_record():
    assert Record.of(model(other="kept")) is None


@pytest.mark.parametrize(
    "record", [Record(7, []), Record(10, ["ratio"]), Record(8, ["a", 'with "quotes"', "ü"])]
)
def test_round_trip(record):
    carrier = model(other="kept")
    record.attach(carrier)
    assert Record.of(carrier) == record
    Record.detach(carrier)
    assert dict(carrier.metadata_props) == {"other": "kept"}
    Record.detach(carrier)


def test_the_entry_is_plain_json():
    carrier = model()
    Record(7, ["ratio"]).attach(carrier)
    entry = json.loads(carrier.metadata_props["pkg.onnx_structdrop.inserted"])
    assert entry == {"ir_version": 7, "ratio_inputs": ["ratio"]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        "{}",
        '{"ir_version": 8}',
        '{"ratio_inputs": []}',
        '{"ir_version": "x", "ratio_inputs": []}',
        '{"ir_version": null, "ratio_inputs": []}',
        '{"ir_version": 8, "ratio_inputs": 3}',
    ],
)
def test_damaged(text):
    with pytest.raises(ModelError, match=rf"'{METADATA_KEY}' is damaged") as error:
        Record.of(model(**{METADATA_KEY: text}))
    assert "\n" not in str(error.value)


def test_inlined_models_are_marked():
    carrier = model()
    check_not_inlined(carrier)
    mark_inlined(carrier, 3)
    with pytest.raises(UnsupportedModelError, match="3 inlined dropout nodes"):
        check_not_inlined(carrier)


@pytest.mark.parametrize("version", ["0", "-5", "99", "1e400"])
def test_versions_that_cannot_have_been(version):
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 17}), ir_version=8)
    model.metadata_props[METADATA_KEY] = f'{{"ir_version": {version}, "ratio_inputs": []}}'
    with pytest.raises(ModelError, match="damaged"):
        Record.of(model)
