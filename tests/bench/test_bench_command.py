"""``structdrop bench``: what it prints and writes, and what it does with bad options."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import onnx_structdrop as sd
from onnx_structdrop import bench
from onnx_structdrop.bench import frameworks, suites
from onnx_structdrop.bench.checks import Expected
from onnx_structdrop.cli import main
from onnx_structdrop.commands import bench as command
from onnx_structdrop.commands.parser import build_parser
from onnx_structdrop.errors import NativeLibraryError
from onnx_structdrop.plot import plot_ratios, plot_sweep

TINY = ("--shape", "2,4,8,8", "--rounds", "2", "--without-frameworks")
SPREAD = {"median", "lower", "upper", "of_minima"}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Warm up once: nothing here depends on the times."""
    monkeypatch.setattr("onnx_structdrop.bench.timing._SAMPLE", 1e-6)
    monkeypatch.setattr("onnx_structdrop.bench.timing._WARM", 0.0)
    monkeypatch.setattr(suites, "_SIZES", ((1, 1, 4, 4), (1, 2, 8, 8), (4, 64, 64, 64)))


def call(capsys, *argv):
    capsys.readouterr()
    code = main(["bench", *argv])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out, err


def document(capsys, *argv):
    out, _ = call(capsys, *argv, "--json")
    return json.loads(out)


def refused(capsys, code, *argv):
    capsys.readouterr()
    assert main(["bench", *argv]) == code
    out, err = capsys.readouterr()
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("structdrop: error: ")]
    assert len(errors) == 1
    assert "bug" not in errors[0]
    return errors[0]


def check(found, *, suite, threads, rounds=2):
    """Check the form of a document."""
    assert found["format"] == 1
    assert found["suite"] == suite
    assert found["settings"] == {
        "threads": threads, "rounds": rounds, "rate": 0.1, "block_size": 7
    }  # fmt: skip
    assert {"platform", "processors", "load", "onnxruntime", "simd"} <= set(found["environment"])
    for group in found["groups"]:
        assert group["bytes"] == 4 * math.prod(group["shape"])
        keys = {case["key"] for case in group["cases"]}
        assert len(keys) == len(group["cases"])
        for case in group["cases"]:
            assert case["unit"] in keys
            assert case["rounds"] == rounds
            assert set(case["seconds"]) == set(case["ratio"]) == set(case["overhead"]) == SPREAD
            assert case["seconds"]["of_minima"] > 0
            if case["key"] == case["unit"]:
                assert set(case["ratio"].values()) == {1.0}
                assert set(case["overhead"].values()) == {0.0}
    for goal in found["goals"]:
        assert set(goal["measured"]) == SPREAD
        assert goal["met"] in (True, False, None)
        assert goal["kind"] in ("ratio", "overhead")


def test_standard_suite(capsys):
    found = document(capsys, *TINY, "--threads", "2")
    check(found, suite="standard", threads=2)
    assert [group["shape"] for group in found["groups"]] == [[2, 4, 8, 8], [1, 1, 4, 4]]
    assert found["frameworks"] == found["left_out"] == {}
    large = [goal for goal in found["goals"] if goal["kind"] == "ratio"]
    assert len(large) == 10  # torchvision's needs torchvision
    assert {goal["met"] for goal in large} == {None}
    assert len(found["goals"]) == 13


def test_tables(capsys):
    out, err = call(capsys, *TINY, "--shape", "3,2,9", "--threads", "2")
    assert "2,4,8,8, float32 2.0 kB, 2 threads" in out
    assert "3,2,9, float32 216 B, 2 threads" in out
    for text in ("onnxruntime Mul", "DropBlock + mask", "DropBlock, float16", "not judged"):
        assert text in out
    assert "of 3 goals met by the median" in out
    assert "\x1b" not in out + err


def test_one_thread(capsys):
    found = document(capsys, *TINY, "--threads", "1")
    check(found, suite="standard", threads=1)
    assert "drop_block_alone" not in {case["key"] for case in found["groups"][0]["cases"]}
    assert {goal["met"] for goal in found["goals"]} == {None}


@pytest.mark.parametrize("name", suites.SWEEPS)
def test_sweeps(capsys, tmp_path, name):
    picture = tmp_path / "sweep.png"
    argv = ("--sweep", name, "--rounds", "2", "--threads", "2", "--plot", str(picture))
    shape = () if name == "size" else ("--shape", "2,4,8,8")
    found = document(capsys, *argv, *shape)
    check(found, suite=name, threads=2)
    assert found["goals"] == []
    parameters = {case["parameter"] for group in found["groups"] for case in group["cases"]}
    assert len(parameters - {None}) > 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [picture]
    with pytest.raises(sd.ArgumentError, match="plot_sweep"):
        plot_ratios(found)
    out, _ = call(capsys, *argv, *shape)
    assert "DropBlock @ " in out


def test_an_onnxruntime_that_binds_no_bfloat16(capsys, monkeypatch):
    for module in ("run", "suites"):
        monkeypatch.setattr(f"onnx_structdrop.bench.{module}.binds_bfloat16", lambda: False)
    out, err = call(capsys, "--sweep", "dtype", *TINY)
    assert "left out bfloat16" in err
    assert "DropBlock @ float16" in out
    assert "bfloat16" not in out


def test_the_parser_knows_the_sweeps():
    for name in bench.SWEEPS:
        assert build_parser().parse_args(["bench", "--sweep", name]).sweep == name
    with pytest.raises(Exception, match="weather"):
        build_parser().parse_args(["bench", "--sweep", "weather"])


def test_pictures(capsys, tmp_path):
    for ending in ("png", "svg"):
        picture = tmp_path / f"bench.{ending}"
        _, err = call(capsys, *TINY, "--plot", str(picture))
        assert f"wrote {picture}" in err
        assert picture.stat().st_size > 1000
    found = document(capsys, *TINY)
    labels = [
        text.get_text() for axes in plot_ratios(found).axes for text in axes.get_yticklabels()
    ]
    assert "DropBlock + mask" in labels
    assert not any("between two Mul" in label for label in labels)
    with pytest.raises(sd.ArgumentError, match="plot_ratios"):
        plot_sweep(found)


def test_goals_are_marked_where_they_are_judged(capsys):
    found = document(capsys, *TINY, "--threads", "2")
    for goal in found["goals"]:
        goal["met"] = True
    found["groups"][0]["bytes"] = bench.GOAL_BYTES
    (large, small) = plot_ratios(found).axes
    assert "tick: goal" in large.get_title(loc="left")
    assert "µs per call" in small.get_title(loc="left")


@pytest.fixture
def no_library(monkeypatch):
    def missing(*_):
        raise NativeLibraryError("no library here")

    monkeypatch.setattr("onnx_structdrop.native.get_library_path", missing)
    monkeypatch.setattr("onnx_structdrop.bench.run.get_library_path", missing)


@pytest.mark.usefixtures("no_library")
def test_without_the_library(capsys, tmp_path):
    picture = tmp_path / "bench.png"
    line = refused(capsys, 1, *TINY, "--plot", str(picture))
    assert "no library here" in line
    assert "--without-library" in line
    assert not picture.exists()
    found = document(capsys, *TINY, "--without-library", "--plot", str(picture))
    check(found, suite="functions", threads=found["settings"]["threads"])
    assert picture.exists()
    keys = {case["key"] for case in found["groups"][0]["cases"]}
    assert "drop_block_function" in keys
    assert "drop_block" not in keys
    assert found["goals"] == []
    assert found["environment"]["simd"] is None


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--shape", "2,3"), "rank 2"),
        (("--shape", "2,3,4,5,6,7"), "rank 6"),
        (("--shape", "2,3,0"), "below 1"),
        (("--shape", "2,x,4"), "'2,x,4'"),
        (("--shape", "2000,2000,2000"), "allowed is 4.3 GB"),
        (("--rounds", "1"), "--rounds is 1"),
        (("--rounds", "many"), "--rounds"),
        (("--threads", "0"), "--threads is 0"),
        (("--threads", "-2"), "--threads is -2"),
        (("--sweep", "weather"), "weather"),
        (("--sweep", "size", "--shape", "2,3,4"), "leave out --shape"),
        (("--sweep", "rate", "--shape", "2,3,4", "--shape", "2,3,5"), "takes one --shape"),
        (("--sweep", "rate", "--without-library"), "leave out --without-library"),
        (("--plot", "bench.bmp"), ".png"),
        (("model.onnx",), "model.onnx"),
    ],
)
def test_wrong_usage(capsys, argv, words):
    assert words in refused(capsys, 2, *argv)


def test_a_picture_that_cannot_be_written(capsys, tmp_path):
    line = refused(capsys, 1, *TINY, "--plot", str(tmp_path / "none" / "bench.png"))
    assert "none" in line


def test_what_does_not_drop_is_not_timed(capsys, monkeypatch):
    everything = Expected(0.999, 1e9)
    monkeypatch.setattr("onnx_structdrop.bench.cases.expected_of", lambda *_: everything)
    assert "nothing was timed" in refused(capsys, 3, *TINY)


def test_an_interruption(capsys, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnx_structdrop.bench.run.measure", stop)
    picture = tmp_path / "bench.png"
    assert "interrupted" in refused(capsys, 130, *TINY, "--plot", str(picture))
    assert list(tmp_path.iterdir()) == []


def test_a_busy_machine_and_too_many_threads_are_mentioned(capsys, monkeypatch):
    around = {**bench.environment(), "load": 7.5, "processors": 2}
    monkeypatch.setattr(command.bench, "environment", lambda: around)
    _, err = call(capsys, *TINY, "--threads", "3")
    assert "load 7.5" in err
    assert "3 threads share 2 processors" in err
    around["load"] = None
    _, err = call(capsys, *TINY, "--threads", "2")
    assert "busy" not in err


def test_frameworks_that_are_missing_or_broken_are_named(capsys, monkeypatch):
    found = {"torch": False, "torchvision": True, "timm": True}

    def find(name):
        return object() if found[name] else None

    def broken(name):
        raise RuntimeError(f"{name} is broken\nand more")

    monkeypatch.setattr(frameworks.importlib.util, "find_spec", find)
    monkeypatch.setattr(frameworks, "_imported", broken)
    argv = [entry for entry in TINY if entry != "--without-frameworks"]
    _, err = call(capsys, *argv)
    assert "left out torch: not installed" in err
    assert "left out timm: cannot be imported: RuntimeError: timm.layers is broken\n" in err
    found = document(capsys, "--shape", "2,3,9", "--rounds", "2")
    assert set(found["left_out"]) == {"torch", "torchvision", "timm"}
    assert "four axes" in found["left_out"]["torch"]


class Tensor(np.ndarray):
    """An array that passes for a tensor of torch."""

    def numpy(self):
        return np.asarray(self)


def drop_block2d(data, rate, block_size, training):
    assert training
    spec = sd.DropBlock2D(rate, block_size)
    uniforms = np.random.default_rng(0).random(sd.reference.uniforms_shape(spec, data.shape))
    return sd.reference.apply(spec, np.asarray(data), uniforms).output.view(Tensor)


def test_frameworks_that_are_there(capsys, monkeypatch):
    def dropout2d(data, rate, training):
        assert training
        kept = np.random.default_rng(0).random(data.shape[:2]) >= rate
        return (data * kept[..., None, None] / np.float32(1 - rate)).view(Tensor)

    threads = []
    modules = {
        "torch": SimpleNamespace(
            set_num_threads=threads.append,
            manual_seed=lambda _: None,
            inference_mode=contextlib.nullcontext,
            from_numpy=lambda array: array.view(Tensor),
            nn=SimpleNamespace(functional=SimpleNamespace(dropout2d=dropout2d)),
        ),
        "torchvision": SimpleNamespace(ops=SimpleNamespace(drop_block2d=drop_block2d)),
    }
    monkeypatch.setattr(frameworks.importlib.util, "find_spec", modules.get)
    monkeypatch.setattr(frameworks, "_imported", modules.get)
    argv = ("--shape", "8,16,16,16", "--rounds", "2", "--threads", "2")
    found = document(capsys, *argv)
    check(found, suite="standard", threads=2)
    assert threads == [2]
    assert set(found["left_out"]) == {"timm"}
    assert {"torch_dropout2d", "torchvision"} <= {
        case["key"] for case in found["groups"][0]["cases"]
    }
    assert "torchvision / DropBlock" in {goal["title"] for goal in found["goals"]}


def test_progress_is_shown_on_terminals_only(monkeypatch, capsys):
    with command._progress() as progress:
        progress(suites.smallest_group(1), "timing", 0.5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with command._progress() as progress:
        progress(suites.smallest_group(1), "timing", 0.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert "1,1,4,4: timing" in err


def test_no_framework_is_imported_unless_asked_for():
    code = (
        "import sys\n"
        "from onnx_structdrop.cli import main\n"
        f"assert main(['bench', *{TINY!r}, '--json']) == 0\n"
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
