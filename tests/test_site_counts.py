"""The table of docs/sites.md: every number of it, counted twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("census", "site_counts"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import site_counts

    return site_counts


def test_sample_models(benchmark, capsys):
    assert benchmark.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = (ROOT / "docs" / "sites.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + len(list((ROOT / "models").glob("*.onnx")))
    assert set(lines) <= set(table), "docs/sites.md is behind: run benchmarks/site_counts.py"


def test_corpus(benchmark, capsys, corpus):
    assert benchmark.main([str(corpus)]) == 0
    printed = capsys.readouterr().out
    assert printed in (ROOT / "docs" / "sites.md").read_text(encoding="utf-8")


def test_a_wrong_number_is_told(benchmark, capsys, monkeypatch):
    known = {**benchmark.KNOWN, "resnet18_dynamo": ("ResNet-18", "4:2 8:2 16:2")}
    monkeypatch.setattr(benchmark, "KNOWN", known)
    assert benchmark.main([]) == 1
    assert capsys.readouterr().out.count("**NO**") == 1
