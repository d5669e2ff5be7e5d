"""The metadata entry that lets folding undo what the nodes do not show."""

from __future__ import annotations

import base64
import json

import onnx_ir as ir
import pytest

from onnx_structdrop.errors import ModelError, UnsupportedModelError
from onnx_structdrop.functions import function_proto
from onnx_structdrop.graph.record import Record, check_not_inlined, mark_inlined
from onnx_structdrop.schema import DOMAIN, METADATA_KEY


def model(**metadata):
    empty = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 18}), ir_version=9)
    empty.metadata_props.update(metadata)
    return empty


def test_no_record():
    assert Record.of(model(other="kept")) is None


FUNCTION = base64.b64encode(function_proto("DropBlock", 18, "float32").SerializeToString()).decode()


@pytest.mark.parametrize(
    "record",
    [
        Record(7, []),
        Record(10, ["ratio"]),
        Record(8, ["a", 'with "quotes"', "ü"]),
        Record(8, [], ["", "function:local::f"], [FUNCTION]),
    ],
)
def test_round_trip(record):
    carrier = model(other="kept")
    record.attach(carrier)
    assert Record.of(carrier) == record
    Record.detach(carrier)
    assert dict(carrier.metadata_props) == {"other": "kept"}
    Record.detach(carrier)


def test_kept_functions():
    (identifier, function), *more = Record(8, [], [], [FUNCTION]).kept_functions().items()
    assert not more
    assert identifier == function.identifier() == (DOMAIN, "DropBlock", "")


def test_what_is_there_before():
    empty = model()
    assert Record.before(empty) == Record(9, [])
    empty.opset_imports[DOMAIN] = 1
    function = ir.from_proto(function_proto("DropBlock", 18, "float32"))
    empty.functions[function.identifier()] = function
    record = Record.before(empty)
    assert (record.imports, len(record.functions)) == ([""], 1)


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
        '{"ir_version": 8, "ratio_inputs": [], "imports": 3}',
        '{"ir_version": 8, "ratio_inputs": [], "functions": 3}',
        '{"ir_version": 8, "ratio_inputs": [], "functions": ["?"]}',
        '{"ir_version": 8, "ratio_inputs": [], "functions": ["AAAA"]}',
        '{"ir_version": 8, "ratio_inputs": [], "functions": ["/////w=="]}',
        '{"ir_version": 8, "ratio_inputs": [], "functions": [""]}',
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
