"""What all tests of the kernels share."""

from __future__ import annotations

import os

import pytest

from onnx_structdrop.errors import NativeLibraryError
from onnx_structdrop.native import simd_level


@pytest.fixture(autouse=True, scope="session")
def library():
    """Skip with the reason where the library cannot be used, or fail where it has to be there."""
    try:
        simd_level()
    except NativeLibraryError as error:
        if os.environ.get("STRUCTDROP_REQUIRE_NATIVE") == "1":
            pytest.fail(f"STRUCTDROP_REQUIRE_NATIVE is 1, but there are no kernels: {error}")
        pytest.skip(f"needs the native library: {error}")


@pytest.fixture(autouse=True)
def silent_onnxruntime(capfd):
    """Fail on anything that onnxruntime prints while it loads or runs a model."""
    yield
    captured = capfd.readouterr()
    assert ":onnxruntime" not in captured.err
    assert ":onnxruntime" not in captured.out
