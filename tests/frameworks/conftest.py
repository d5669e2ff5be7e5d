"""Comparisons with other frameworks; each file needs an environment of its own.

They are collected only when asked for: name the file on the command line, or set
STRUCTDROP_FRAMEWORKS to "torch" (torch, keras, torchvision, timm) or "keras_cv" (TensorFlow,
keras-cv). A missing framework is then an error, not a skip.
"""

from __future__ import annotations

import os

import pytest

_FILES = {"torch": "test_torch_family.py", "keras_cv": "test_keras_cv.py"}

_asked = os.environ.get("STRUCTDROP_FRAMEWORKS", "")
if _asked and _asked not in _FILES:
    raise pytest.UsageError(
        f"STRUCTDROP_FRAMEWORKS is {_asked!r}; allowed is one of {', '.join(_FILES)}"
    )

collect_ignore = [name for key, name in _FILES.items() if key != _asked]
