"""Tests in this folder train in onnxruntime-training, which has an environment of its own."""

from __future__ import annotations

import pathlib

import pytest

from onnx_structdrop.training import training_available

HERE = pathlib.Path(__file__).parent


def pytest_ignore_collect(collection_path):
    """Leave the folder out where onnxruntime is the one for inference."""
    if HERE in collection_path.parents and not training_available():
        return True
    return None


@pytest.fixture(autouse=True, scope="session")
def _gradients():
    from onnx_structdrop.training import register_gradients

    register_gradients()
