"""The examples of docs/monte-carlo.md run as they stand, and say what they say."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "monte-carlo.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- run -->\n```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_an_export_to_uncertainties(workplace, capsys):
    names: dict = {}
    exec(BLOCKS[0], names)
    assert str(names["found"].kind) in capsys.readouterr().out
    assert names["found"].mutual_information.shape == (4,)
    assert (names["found"].mutual_information > 0).all()
    with np.load(workplace / "uncertainty.npz") as file:
        assert "output/mutual_information" in file


def test_judging(workplace, capsys):
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    names: dict = {}
    exec(BLOCKS[1], names)
    assert 1.5 < names["temperature"] < 2.6
    assert names["curve"].at(0.5) < names["curve"].risk[-1]


def test_every_example_is_run():
    assert len(BLOCKS) == TEXT.count("```python") == 2
