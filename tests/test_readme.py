"""The README's examples are run as they stand; links of all pages lead to what exists."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

import onnx
import pytest

import onnx_structdrop as sd

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """Return the code blocks of one language that are marked to be run."""
    return re.findall(rf"<!-- run -->\n```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Return a folder with the sample models, as the README's reader has it."""
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("*.py"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def test_commands(workplace):
    (script,) = blocks("bash")
    for line in script.strip().splitlines():
        program, *arguments = line.split()
        assert program == "structdrop"
        subprocess.run(
            [sys.executable, "-m", "onnx_structdrop", *arguments],
            check=True,
            env=environment(),
            capture_output=True,
        )
    original = onnx.load("models/resnet18_dynamo.onnx")
    assert sd.differences(original, onnx.load("clean.onnx")) == []
    assert len(sd.inspect(onnx.load("live.onnx")).own) == 8
    assert not any(node.active for node in sd.inspect(onnx.load("eval.onnx")).nodes)
    assert sd.inspect(onnx.load("inference.onnx")).nodes == ()
    assert (workplace / "sites.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("script", blocks("python"))
def test_python(workplace, script):
    subprocess.run([sys.executable, "-c", script], check=True, env=environment())


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")]


def anchors(page):
    """Return what links can name of a page: its headings, as GitHub spells them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links(page):
    links = re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8"))
    for file, anchor in links:
        target = page.parent / file if file else page
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), (file, anchor)


def test_entry_commands_are_those_of_the_project():
    assert "pip install . && structdrop demo" in TEXT
    assert "pip install nox && nox" in TEXT
    assert "pip install --quiet nox && nox" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
