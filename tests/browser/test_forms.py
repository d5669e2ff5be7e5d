"""Which forms of a model draw random numbers in onnxruntime-web."""

from __future__ import annotations

import pytest
from page_forms import forms

pytestmark = pytest.mark.browser

NAMES = list(forms())


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("standard")])
def test_our_operators_stay_random(seen, name):
    result = seen["forms"][name]
    assert result.get("error") is None
    assert result["finite"]
    assert result["difference"] > 1


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("standard")])
def test_standard_dropout_is_deleted_there_too(seen, name):
    """Should this fail, the runtime has mended it, and docs/browser.md is to say so."""
    assert seen["forms"][name] == {"finite": True, "difference": 0}
