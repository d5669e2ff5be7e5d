"""What was changed by hand, damaged or exchanged is noticed."""

from __future__ import annotations

import json

import pytest

from onnx_structdrop import ModelError
from onnx_structdrop.training.sealing import check_sealed, write_sealed

CONTENT = {"classes": 10, "rate": 0.1, "names": ["ÿ", "w"], "schedule": {"factors": {"2": 0.5}}}


@pytest.fixture
def path(tmp_path):
    (tmp_path / "array").write_bytes(b"1234")
    path = tmp_path / "content.json"
    write_sealed(path, CONTENT, ["array"])
    return path


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_what_was_written_is_whole(path):
    content = read(path)
    check_sealed(path, content, ["array"])
    assert {name: content[name] for name in CONTENT} == CONTENT


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 11},
        {"names": ["w", "ÿ"]},
        {"schedule": None},
        {"more": 1},
        {"seal": None},
        {"sha256": {}},
        {"sha256": 5},
    ],
    ids=str,
)
def test_a_change_by_hand(path, change):
    with pytest.raises(ModelError, match="changed by hand"):
        check_sealed(path, read(path) | change, ["array"])


def test_another_file(path):
    (path.parent / "array").write_bytes(b"1235")
    with pytest.raises(ModelError, match="array is not the file that was written"):
        check_sealed(path, read(path), ["array"])


def test_a_file_that_is_gone_or_was_none(path):
    with pytest.raises(ModelError, match="lacks other"):
        check_sealed(path, read(path), ["other"])
    (path.parent / "other").write_bytes(b"")
    with pytest.raises(ModelError, match="other is not the file that was written"):
        check_sealed(path, read(path), ["other"])
    (path.parent / "array").unlink()
    with pytest.raises(ModelError, match="lacks array"):
        check_sealed(path, read(path), ["array"])
