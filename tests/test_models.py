"""The sample models: valid, small, reproducible, listed, and free of local paths."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

FOLDER = Path(__file__).parent.parent / "models"
FILES = sorted(FOLDER.glob("*.onnx"))
ROWS = {
    match[1]: line.strip("| \n").split(" | ")
    for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    if (match := re.match(r"\| `(\w+\.onnx)` \|.*export_\w+\.py", line))
}
# Operators that draw random numbers.
STOCHASTIC = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@cache
def load(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


def opset(path: Path) -> int:
    return next(entry.version for entry in load(path).opset_import if entry.domain == "")


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def run(path: Path, batch: int) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    shape = [batch, *(size if isinstance(size, int) else 64 for size in value.shape[1:])]
    generator = np.random.default_rng(0)
    (output,) = session.run(None, {value.name: generator.standard_normal(shape, dtype=np.float32)})
    return output


def test_every_file_is_listed_and_every_listed_file_exists():
    assert FILES
    assert set(ROWS) == {path.name for path in FILES}


def test_total_size():
    assert sum(path.stat().st_size for path in FILES) < 1_500_000


@each_file
def test_readme_row(path: Path):
    row = ROWS[path.name]
    shape = row[4].split()[0].split(",")
    actual = dimensions(load(path).graph.input[0])
    assert int(row[3]) == opset(path)
    assert int(row[5]) == len(load(path).graph.node)
    assert len(shape) == len(actual)
    for written, size in zip(shape, actual, strict=True):
        assert written == str(size) if isinstance(size, int) else written in {"N", "H", "W"}
    script = re.search(r"export_\w+\.py", row[6])
    assert script is not None
    assert (FOLDER / script[0]).is_file()


@each_file
def test_checker(path: Path):
    onnx.checker.check_model(load(path), full_check=True)


@each_file
def test_size(path: Path):
    assert path.stat().st_size < 400_000


@each_file
def test_is_one_file_in_eval_mode(path: Path):
    graph = load(path).graph
    assert not {node.op_type for node in graph.node} & STOCHASTIC
    assert not any(
        attribute.name == "training_mode" and attribute.i
        for node in graph.node
        for attribute in node.attribute
    )
    assert not any(tensor.external_data for tensor in graph.initializer)


@each_file
def test_runs_and_is_deterministic(path: Path):
    first, second = run(path, 2), run(path, 2)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert not np.array_equal(first[0], first[1])
    np.testing.assert_array_equal(first, second)


@each_file
def test_batch_is_free(path: Path):
    assert isinstance(dimensions(load(path).graph.input[0])[0], str)
    assert len(run(path, 1)) == 1
    assert len(run(path, 3)) == 3


@each_file
def test_no_local_paths(path: Path):
    content = path.read_bytes()
    local = {str(FOLDER.parent.resolve()), str(Path.home()), sys.prefix, sys.base_prefix}
    for text in (
        *(local - {"/"}),
        "site-packages",
        "dist-packages",
        "stack_trace",
        'File "',
        ".py",
    ):
        assert text.encode() not in content, text
    assert not re.search(rb"/(?:home|Users|root|tmp|usr|opt|var|mnt|work|workspace)/\w", content)


def test_unet_takes_another_size():
    path = FOLDER / "unet_torchscript.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"input": np.ones((1, 3, 40, 72), np.float32)})
    assert output.shape == (1, 3, 40, 72)


def test_both_renderings_of_the_resnet_agree():
    dynamo, torchscript = (
        run(FOLDER / f"resnet18_{name}.onnx", 2) for name in ("dynamo", "torchscript")
    )
    np.testing.assert_allclose(dynamo, torchscript, rtol=1e-4, atol=1e-5)
