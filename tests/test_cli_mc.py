"""``structdrop mc``: files in, statistics, table, scores and picture out."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from samples import MODELS
from test_cli import call, document, refused

import onnx_structdrop as sd
from onnx_structdrop.mc import Result, Sampler

MODEL = MODELS / "resnet18_torchscript.onnx"
SPEC = ("--spec", "SpatialDropout2D", "--rate", "0.3", "--stage", "4")
COUNT = 12


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.normal(size=(COUNT, 3, 224, 224)).astype(np.float32))
    np.save(folder / "labels.npy", rng.integers(0, 10, COUNT))
    return folder


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    """Return a model with dropout of its own."""
    model = sd.load(MODEL)
    sites = [site for site in sd.find_sites(model) if site.stage == 4]
    path = tmp_path_factory.mktemp("models") / "dropping.onnx"
    sd.save(sd.insert(model, sd.SpatialDropout2D(0.3, seed=5), sites), path)
    return path


def saved(path):
    with np.load(path) as content:
        return dict(content)


def test_statistics_are_those_of_the_sampler(capsys, dropping, images, tmp_path):
    target = tmp_path / "out.npz"
    out, err = call(
        capsys, "mc", dropping, images / "x.npy", "-o", target, "-T", 4, "--seed", 3,
        "--quantile", 0.5, "--keep-samples", "--threads", 1,
    )  # fmt: skip
    assert f"wrote {target}" in err
    assert "10 of 12 images, most mutual information first" in out
    assert "12 images, 4 samples each" in out
    whole = Sampler(dropping, 4, seed=3, threads=1, quantiles=[0.5], keep_samples=True)
    expected = whole(np.load(images / "x.npy")).arrays()
    found = saved(target)
    assert set(found) == {*expected, "summary"}
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)
    assert json.loads(str(found["summary"]))["samples"] == 4


def test_inserted_on_the_way_and_scored(capsys, images, tmp_path):
    found = document(
        capsys, "mc", MODEL, images / "x.npy", "-o", tmp_path / "o.npz", "-T", 3, *SPEC,
        "--labels", images / "labels.npy",
    )  # fmt: skip
    assert found["dropout"] == "SpatialDropout2D(0.3) at 4 sites"
    assert found["outputs"]["output"]["kind"]["task"] == "classification"
    assert found["outputs"]["output"]["mutual_information"] > 0
    assert set(found["scores"]["output"]) == {"accuracy", "nll", "brier", "ece"}
    assert (tmp_path / "o.npz").exists()


@pytest.mark.parametrize("kind", [None, "histogram", "reliability", "risk-coverage"])
def test_pictures_of_classes(capsys, dropping, images, tmp_path, kind):
    target = tmp_path / "o.png"
    chosen = () if kind is None else ("--plot-kind", kind)
    _, err = call(
        capsys, "mc", dropping, images / "x.npy", "-o", tmp_path / "o.npz", "-T", 2,
        "--labels", images / "labels.npy", "--plot", target, *chosen,
    )  # fmt: skip
    assert f"wrote {target}" in err
    assert target.read_bytes().startswith(b"\x89PNG")


def test_a_map_over_pictures(capsys, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    target = tmp_path / "o.png"
    out, _ = call(
        capsys, "mc", MODELS / "unet_dynamo.onnx", folder, "-o", tmp_path / "o.npz", "-T", 3,
        "--spec", "SpatialDropout2D", "--rate", 0.2, "--plot", target,
    )  # fmt: skip
    assert "dense" in out
    assert "2.png" in out
    assert target.read_bytes().startswith(b"\x89PNG")


def test_what_is_refused_leaves_what_was_there(capsys, dropping, images, tmp_path):
    target = tmp_path / "o.npz"
    target.write_bytes(b"earlier")
    bad = tmp_path / "bad.npy"
    array = np.load(images / "x.npy")[:2].copy()
    array[1, 2, 3, 4] = np.nan
    np.save(bad, array)
    wrong = tmp_path / "wrong.npy"
    np.save(wrong, array[:, :2])
    double = tmp_path / "double.npy"
    np.save(double, array.astype(np.float64))
    x = images / "x.npy"
    for words, arguments in {
        "image 1 of input": (dropping, bad),
        "the model takes": (dropping, wrong),
        "float64": (dropping, double),
        "nothing in the model is random": (MODEL, x),
        "samples is 0": (dropping, x, "-T", "0"),
        "there is no file": (dropping, tmp_path / "missing.npy"),
        "12 images need as many labels": (dropping, x, "--labels", bad),
        "no output": (dropping, x, "--output-name", "nothing"),
        "needs --labels": (dropping, x, "--plot-kind", "reliability", "--plot", tmp_path / "o.svg"),
        "it has no map": (dropping, x, "--plot-kind", "map", "--plot", tmp_path / "o.svg"),
    }.items():
        assert words in refused(capsys, tmp_path, 1, "mc", *arguments, "-o", target)
    assert target.read_bytes() == b"earlier"


def test_no_folder_is_found_out_before_sampling(capsys, dropping, images, tmp_path, monkeypatch):
    monkeypatch.setattr("onnx_structdrop.commands.mc.Sampler", None)
    target = tmp_path / "missing" / "o.npz"
    error = refused(capsys, tmp_path, 1, "mc", dropping, images / "x.npy", "-o", target)
    assert "there is no folder that can be written" in error


def test_a_full_disk_leaves_the_earlier_result(dropping, images, tmp_path):
    target = tmp_path / "o.npz"
    target.write_bytes(b"earlier")
    command = [sys.executable, "-m", "onnx_structdrop", "mc", dropping, images / "x.npy"]
    done = subprocess.run(
        [*map(str, command), "-o", str(target), "-T", "2"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"cannot write '{target}': File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"]
    assert target.read_bytes() == b"earlier"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "o.txt"), "written as .npz"),
        (("-o", "o.npz", "--seed", "-1"), "--seed is -1"),
        (("-o", "o.npz", "--rate", "0.1"), "--spec is needed"),
        (("-o", "o.npz", "--size", "1,2,3"), "--size takes"),
        (("-o", "o.npz", "--mean", "a"), "'a' is not a number"),
    ],
)
def test_wrong_usage(capsys, dropping, images, tmp_path, arguments, words):
    assert words in refused(capsys, tmp_path, 2, "mc", dropping, images / "x.npy", *arguments)


@pytest.mark.parametrize(("said", "events"), [("none", True), ("-1", False), ("auto", False)])
def test_labels_that_do_not_exclude_each_other(capsys, dropping, images, tmp_path, said, events):
    found = document(
        capsys, "mc", dropping, images / "x.npy", "-o", tmp_path / "o.npz", "-T", 2,
        "--class-axis", said,
    )  # fmt: skip
    assert found["outputs"]["output"]["kind"]["events"] is events


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a folder with a small segmenting model, its input, labels and pictures."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    tensors = {
        "ratio": np.float32(0.4), "on": np.array(True),
        "w": rng.standard_normal((4, 3, 1, 1)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Dropout", ["x", "ratio", "on"], ["d"], name="drop"),
        helper.make_node("Conv", ["d", "w"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["g"]),
        helper.make_node("Flatten", ["g"], ["scores"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("x", ["N", 3, 8, 8]), ("maps", ["N", 4, 8, 8]), ("scores", ["N", 4]))
    ]
    graph = helper.make_graph(
        nodes, "graph", values[:1], values[1:],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "m.onnx")
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "m.npz")
    x = rng.standard_normal((5, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    x[2] = 3e38
    np.save(folder / "overflow.npy", x)
    np.save(folder / "labels.npy", np.arange(5) % 4)
    np.save(folder / "fractions.npy", np.zeros(5))
    (folder / "cut.npz").write_bytes((folder / "x.npz").read_bytes()[:60])
    (folder / "pictures").mkdir()
    for name in ("a.png", "$\\frac$.png", "line\nbreak.png"):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / name)
    return folder


@pytest.mark.parametrize(
    ("model", "given", "targets", "words"),
    [
        ("m.onnx", "x.npz", ("-o", "x.npz"), "is an input itself"),
        ("m.npz", "x.npz", ("-o", "m.npz"), "is an input itself"),
        ("m.onnx", "x.npz", ("-o", "link.npz"), "is an input itself"),
        ("m.onnx", "pictures", ("-o", "o.npz", "--plot", "pictures/a.png"), "one of the pictures"),
    ],
)
def test_inputs_are_not_written_over(capsys, small, monkeypatch, model, given, targets, words):
    monkeypatch.chdir(small)
    if not (small / "link.npz").exists():
        (small / "link.npz").symlink_to(small / "x.npz")
    assert words in refused(capsys, small, 2, "mc", model, given, *targets, "-T", 2)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("cut.npz", "cannot read"),
        ("fractions.npy", "labels are whole numbers"),
        ("pictures/a.png", "as .npy: it is a file of another kind"),
    ],
)
def test_labels_that_are_none(capsys, small, monkeypatch, labels, words):
    monkeypatch.setattr("onnx_structdrop.commands.mc._sampled", None)  # before any sampling
    target = small / "o.npz"
    arguments = (small / "m.onnx", small / "x.npz", "-o", target, "--labels", small / labels)
    assert words in refused(capsys, small, 1, "mc", *arguments)


@pytest.mark.parametrize("kind", ["histogram", "reliability", "risk-coverage"])
def test_images_that_overflow_are_not_scored(capsys, small, tmp_path, kind):
    out, err = call(
        capsys, "mc", small / "m.onnx", small / "overflow.npy", "-o", tmp_path / "o.npz", "-T", 3,
        "--labels", small / "labels.npy", "--output-name", "scores", "--plot", tmp_path / "o.png",
        "--plot-kind", kind,
    )  # fmt: skip
    assert "scores: scored on 4 images, whose samples are finite" in err
    assert "accuracy" in out
    assert {path.name for path in tmp_path.iterdir()} == {"o.npz", "o.png"}


def test_names_are_drawn_as_they_are(capsys, small, tmp_path):
    target = tmp_path / "o.svg"
    call(
        capsys, "mc", small / "m.onnx", small / "pictures", "-o", tmp_path / "o.npz", "-T", 2,
        "--output-name", "maps", "--plot", target,
    )  # fmt: skip
    text = target.read_text()
    assert "$\\frac$.png" in text
    assert "line\\nbreak.png" in text


def test_labels_of_no_class_are_refused_after_the_first_images(capsys, small, monkeypatch):
    monkeypatch.setattr("onnx_structdrop.commands.mc._BYTES", 1)  # one image at a time
    labels, target = small / "many.npy", small / "o.npz"
    np.save(labels, np.array([0, 1, 2, 3, 7]))
    shown = []
    monkeypatch.setattr(Result, "concat", shown.append)
    arguments = (small / "m.onnx", small / "x.npz", "-o", target, "--labels", labels)
    error = refused(capsys, small, 1, "mc", *arguments, "--output-name", "scores", "-T", 2)
    assert "labels go from 0 to 7, but output 'scores' has 4 classes" in error
    assert not shown
    assert not target.exists()


@pytest.mark.parametrize(
    ("shape", "output", "words"),
    [
        ((5, 4), "scores", "needs (5,); class numbers are labels.argmax(axis=1)"),
        ((5, 4, 8, 8), "maps", "needs (5, 8, 8); class numbers are labels.argmax(axis=1)"),
        ((5, 1), "maps", "needs (5, 8, 8)"),
        ((5, 2), "scores", "needs (5,)"),
    ],
)
def test_labels_of_another_shape(capsys, small, tmp_path, shape, output, words):
    """Labels of the shape of the scores were taken for events, and scored without a word."""
    labels, target = tmp_path / "labels.npy", tmp_path / "o.npz"
    hot = np.zeros(shape, np.int64)
    hot[:, :1] = 1
    np.save(labels, hot)
    error = refused(
        capsys, tmp_path, 1, "mc", small / "m.onnx", small / "x.npz", "-o", target, "-T", 2,
        "--labels", labels, "--output-name", output,
    )  # fmt: skip
    assert words in error
    assert not target.exists()


def test_pictures_of_a_size_that_the_model_cannot_take(capsys, tmp_path):
    """It names no size, and halves the one it gets three times."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, size in enumerate([(50, 60, 3), (64, 64, 3)]):
        Image.fromarray(np.zeros(size, np.uint8)).save(folder / f"{index}.png")
    command = (
        "mc", MODELS / "unet_torchscript.onnx", folder, "-o", tmp_path / "o.npz", "-T", 2,
        "--spec", "SpatialDropout2D", "--rate", "0.2",
    )  # fmt: skip
    error = refused(capsys, tmp_path, 1, *command)
    assert "Concat node '/Concat': Non concat axis dimensions must match" in error
    assert "resized to 50 x 60, as the first one is: --size names another" in error
    assert "64 x 64" in call(capsys, *command, "--size", "64")[0]
