"""The public names, their signatures and their docstrings are pinned."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import onnx_structdrop as sd

SIGNATURES = {
    "SpatialDropout1D": "(rate, seed=None, data_format='channels_first')",
    "SpatialDropout2D": "(rate, seed=None, data_format='channels_first')",
    "SpatialDropout3D": "(rate, seed=None, data_format='channels_first')",
    "DropBlock1D": "(rate, block_size=7, *, seed=None, data_format='channels_first', "
    "shared_axes=(), seed_region='valid', normalize='batch')",
    "DropBlock2D": "(rate, block_size=7, *, seed=None, data_format='channels_first', "
    "shared_axes=(), seed_region='valid', normalize='batch')",
    "DropBlock3D": "(rate, block_size=7, *, seed=None, data_format='channels_first', "
    "shared_axes=(), seed_region='valid', normalize='batch')",
    "Dropout": "(rate, noise_shape=None, seed=None)",
    "DropPath": "(rate, seed=None, scale_by_keep=True)",
    "find_sites": "(model)",
    "placement": "(sites, name='paper')",
    "insert": "(model, spec, sites=None, *, training_mode=True, ratio_input=None, calibrate=False)",
    "set_training_mode": "(model, enabled)",
    "reseed": "(model, seed)",
    "fold": "(model)",
    "clean": "(model, *, unscaled_dropout=False)",
    "verify": "(original, rewritten, *, samples=3, seed=0, tolerance=None, inference=False, "
    "max_weights=1073741824, timeout=120.0)",
    "inline": "(model, random_source='dropout')",
    "inspect": "(model)",
    "differences": "(first, second)",
    "register": "(session_options)",
    "load": "(path)",
    "save": "(model, path, *, external_data=None, overwrite=True)",
}

NAMES = {
    *SIGNATURES,
    *("ArgumentError", "ArgumentTypeError", "CheckFailedError", "ModelError", "NativeLibraryError"),
    *("DependencyError", "OutputError", "SiteError", "StructDropError", "UnsupportedModelError"),
    "TrainingError",
    *("get_library_path", "native_available"),
    *("CleanReport", "VerifyReport"),
    *("InspectReport", "Site", "StochasticNode", "__version__", "mc", "reference", "training"),
}


def test_names():
    assert set(sd.__all__) == NAMES
    assert set(dir(sd)) >= NAMES
    assert all(getattr(sd, name) is not None for name in NAMES)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'DropBlok2D'"):
        _ = sd.DropBlok2D


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    signature = inspect.signature(getattr(sd, name))
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    plain = signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    assert str(plain) == SIGNATURES[name]


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__", "reference"}))
def test_docstring(name):
    public = getattr(sd, name)
    text = inspect.getdoc(public)
    assert text
    if name in SIGNATURES:
        assert "Parameters\n----------" in text, f"{name} does not describe its arguments"


@pytest.mark.parametrize("name", [n for n in SIGNATURES if n[0].islower() and n != "differences"])
def test_functions_name_their_errors(name):
    needs_none = {"find_sites", "inspect"}
    assert name in needs_none or "Raises\n------" in inspect.getdoc(getattr(sd, name))


@pytest.mark.parametrize(
    "name", [n for n in sorted(NAMES) if n.endswith("Error") and n != "StructDropError"]
)
def test_errors_share_one_base(name):
    assert issubclass(getattr(sd, name), sd.StructDropError)


def test_argument_errors_are_the_usual_ones():
    assert issubclass(sd.ArgumentError, ValueError)
    assert issubclass(sd.ArgumentTypeError, TypeError)


def test_version_is_that_of_the_distribution():
    script = "import importlib.metadata as m; print(m.version('onnx-structdrop'))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if found.returncode == 0:
        assert found.stdout.strip() == sd.__version__
