"""Folders appear whole or not at all, and nothing of somebody else is replaced."""

from __future__ import annotations

import errno

import pytest

from onnx_structdrop import ArgumentError, ArgumentTypeError, OutputError
from onnx_structdrop.training import folders
from onnx_structdrop.training.folders import absolute, check_target, new_folder
from onnx_structdrop.training.manifest import MANIFEST


def content(path):
    return {each.name: each.read_text() for each in path.iterdir()}


def write(target, text, *, overwrite=False):
    with new_folder(target, overwrite=overwrite) as folder:
        (folder / MANIFEST).write_text(text)
        assert folder.parent == target.parent  # so that it can change places


def test_a_folder_is_there_when_the_block_ends(tmp_path):
    target = tmp_path / "made"
    with new_folder(target, overwrite=False) as folder:
        (folder / MANIFEST).write_text("one")
        assert not target.exists()
    assert content(target) == {MANIFEST: "one"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("before", [None, "one"])
def test_after_an_exception_all_is_as_before(tmp_path, before):
    target = tmp_path / "made"
    if before:
        write(target, before)

    def fail():
        with new_folder(target, overwrite=True) as folder:
            (folder / MANIFEST).write_text("two")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == ([target] if before else [])
    assert not before or content(target) == {MANIFEST: before}


@pytest.mark.parametrize("exchanges", [True, False])
def test_replacing(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(folders, "_exchanged", lambda *_: False)
    target = tmp_path / "made"
    write(target, "one")
    write(target, "two", overwrite=True)
    assert content(target) == {MANIFEST: "two"}
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(OutputError, match="it exists; pass overwrite=True"):
        write(target, "three")
    assert content(target) == {MANIFEST: "two"}


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "made"
    write(target, "one")

    def full(_path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folders, "_flush", full)
    with pytest.raises(OutputError, match=f"cannot write {target}: No space left on device"):
        write(target, "two", overwrite=True)
    assert content(target) == {MANIFEST: "one"}
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_somebody_elses_stays(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "one")  # takes nothing from anybody
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "empty")
    for target, message in (
        (other, "holds other things"),
        (file, "is no folder"),
        (link, "is no folder"),
        (tmp_path / "nowhere" / "made", "there is no folder"),
    ):
        with pytest.raises(OutputError, match=message):
            check_target(target, overwrite=True)
        with pytest.raises(OutputError, match=message):
            write(target, "two", overwrite=True)
    assert content(other) == {"thesis.txt": "mine"}
    assert file.read_text() == "mine"


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("made", "directory") == tmp_path / "made"
    assert absolute(tmp_path / "made", "directory") == tmp_path / "made"
    for wrong in (3, None, b"made"):
        with pytest.raises(ArgumentTypeError, match="directory must be a path, not"):
            absolute(wrong, "directory")
    for wrong in ("", "a\0b"):
        with pytest.raises(ArgumentError, match="directory must name a folder"):
            absolute(wrong, "directory")
