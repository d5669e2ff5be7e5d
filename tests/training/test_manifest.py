"""The manifest comes back as it was written, and damage is noticed."""

from __future__ import annotations

import dataclasses
import json

import pytest
from manifests import FILES, MANIFEST, folder_of

from onnx_structdrop import ModelError
from onnx_structdrop.training import Artifacts, Manifest
from onnx_structdrop.training import manifest as files


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": None},
        {"classes": None, "ratios": (), "statistics": ()},
        {"classes": "classes", "extra_outputs": ()},
    ],
    ids=str,
)
def test_what_is_written_is_read(tmp_path, changes):
    manifest = dataclasses.replace(MANIFEST, **changes)
    folder = folder_of(tmp_path / "artifacts", manifest)
    assert Manifest.read(folder) == manifest
    loaded = Artifacts.load(folder)
    assert loaded.manifest == manifest
    own = (
        loaded.training_model,
        loaded.eval_model,
        loaded.optimizer_model,
        loaded.checkpoint,
        loaded.parameters,
    )
    assert [path.read_text() for path in own] == list(FILES)


@pytest.mark.parametrize("name", FILES)
def test_missing_files_are_named(tmp_path, name):
    folder = folder_of(tmp_path / "artifacts")
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"lacks {name}"):
        Manifest.read(folder)


@pytest.mark.parametrize("name", FILES)
def test_other_content_is_noticed(tmp_path, name):
    folder = folder_of(tmp_path / "artifacts")
    (folder / name).write_text("x" * len(name))
    with pytest.raises(ModelError, match=f"{name} is not the file that was written"):
        Manifest.read(folder)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Manifest)])
def test_missing_fields_are_damage(tmp_path, field):
    folder = folder_of(tmp_path / "artifacts")
    content = json.loads((folder / files.MANIFEST).read_text(encoding="utf-8"))
    del content[field]
    (folder / files.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=rf"is damaged \(KeyError: '{field}'\)"):
        Manifest.read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "has format None"),
        ('{"format": 99}', "has format 99, this version of onnx_structdrop reads 2"),
    ],
)
def test_other_files_in_its_place(tmp_path, text, message):
    folder = folder_of(tmp_path / "artifacts")
    (folder / files.MANIFEST).write_text(text)
    with pytest.raises(ModelError, match=message):
        Manifest.read(folder)


@pytest.mark.parametrize(
    "change",
    [{"classes": 50}, {"classes": "ten"}, {"outputs": "abc"}, {"ratios": []}, {"trainable": ["b"]}],
    ids=str,
)
def test_changes_by_hand_are_noticed(tmp_path, change):
    folder = folder_of(tmp_path / "artifacts")
    content = json.loads((folder / files.MANIFEST).read_text(encoding="utf-8")) | change
    (folder / files.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ModelError, match="was changed by hand"):
        Manifest.read(folder)


def test_no_folder_and_no_manifest(tmp_path):
    with pytest.raises(ModelError, match="is no folder"):
        Manifest.read(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"holds no structdrop\.json"):
        Manifest.read(tmp_path)
