"""The demonstration: it passes, it finds what is wrong, and it says what is missing."""

from __future__ import annotations

import contextlib
import io
import re

import onnx
import pytest

import onnx_structdrop as sd
from onnx_structdrop import demo
from onnx_structdrop.cli import main

FILES = {
    "masks.png",
    "resnet18_dropblock.onnx",
    "resnet18_dropblock_eval.onnx",
    "resnet18_folded.onnx",
    "sites.png",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Run the demonstration once; return its folder, exit code and output."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["demo", "-o", str(folder)])
    return folder, code, out.getvalue()


def test_all_checks_pass(shown):
    _, code, out = shown
    assert code == 0
    assert out.count("✓") == 13 + 1
    assert "✗" not in out
    assert "all 13 checks passed" in out


def test_it_says_what_it_did(shown):
    folder, _, out = shown
    assert "28 sites" in out
    assert "DropBlock2D(0.1, 7) goes into stages 3 and 4" in out
    assert "bit for bit" in out
    rates = re.findall(r"_DropBlock +32,\S+ +10.0% +(\S+)% +(\S+)% +(\S+)%", out)
    assert len(rates) == 8
    for expected, measured, error in rates:
        assert 9 < float(expected) <= 10
        assert abs(float(expected) - float(measured)) < 5 * float(error)
    (header,) = (line for line in out.splitlines() if "standard error" in line)
    assert header.split()[-5:] == ["ratio", "expected", "measured", "standard", "error"]
    assert "nominal" not in out
    for name in FILES:
        assert str(folder / name) in out


def test_it_leaves_valid_files(shown):
    folder = shown[0]
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.glob("*.onnx"):
        onnx.checker.check_model(path, full_check=True)
    original = sd.load(demo.model_path())
    assert sd.differences(original, sd.load(folder / "resnet18_folded.onnx")) == []
    sites = [node.data for node in sd.inspect(sd.load(folder / "resnet18_dropblock.onnx")).own]
    assert sites == [f"relu_{number}" for number in range(9, 17)]


def test_a_check_that_fails_is_exit_code_3(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "differences", lambda *_: ["node 3 became node 4"])
    # The other steps pass, as tested above; leave out the slow ones.
    monkeypatch.setattr(demo.Demo, "train", lambda _: ([], []))
    monkeypatch.setattr(demo.Demo, "accelerate", lambda _: ([], [1, 1, 1]))
    monkeypatch.setattr(demo.Demo, "draw", lambda _: [])
    assert main(["demo", "-o", str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert "✗ the folded file equals" in out
    assert "8  Pictures" in out
    assert err.startswith("structdrop: error: 1 of 5 checks failed")
    assert "node 3 became node 4" in err
    assert err.count("\n") == 1


def test_the_missing_model_is_named_with_the_way_out(capsys, tmp_path, monkeypatch):
    module = tmp_path / "site" / "onnx_structdrop" / "demo.py"
    monkeypatch.setattr(demo, "__file__", str(module))
    assert main(["demo", "-o", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "resnet18_dynamo.onnx" in err
    assert "pip" in err
    assert list(tmp_path.iterdir()) == []


def test_the_model_of_the_package_comes_first(tmp_path, monkeypatch):
    package = tmp_path / "onnx_structdrop"
    for folder in (tmp_path, package):
        (folder / "models").mkdir(parents=True)
        (folder / "models" / demo.MODEL_NAME).touch()
    monkeypatch.setattr(demo, "__file__", str(package / "demo.py"))
    assert demo.model_path() == package / "models" / demo.MODEL_NAME


def test_a_folder_that_cannot_be_made(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main(["demo", "-o", str(tmp_path / "file")]) == 1
    assert "cannot make the folder" in capsys.readouterr().err


def test_it_does_without_kernels(capsys, tmp_path, monkeypatch):
    def missing(_):
        raise sd.NativeLibraryError("no library here")

    monkeypatch.setattr(demo.Demo, "train", lambda _: ([], []))
    monkeypatch.setattr(demo.Demo, "accelerate", missing)
    monkeypatch.setattr(demo.Demo, "draw", lambda _: [])
    assert main(["demo", "-o", str(tmp_path)]) == 0
    assert "not usable here: no library here" in capsys.readouterr().out
