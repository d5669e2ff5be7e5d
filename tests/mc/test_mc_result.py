"""Results hold the statistics of each output, join, and are written whole or not at all."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from sampled import IMAGES, KINDS, SAMPLES, accumulate, outputs

import onnx_structdrop as sd
from onnx_structdrop.mc.result import Result


def result(names=("logits", "numbers"), first=0, last=IMAGES, seed=3, **options):
    found = {}
    for name in names:
        kind, dims = KINDS[name]
        found[name] = accumulate(kind, outputs(kind, dims)[:, first:last], **options)
    return Result(found, first, seed)


def test_a_mapping():
    found = result()
    assert list(found) == ["logits", "numbers"]
    assert len(found) == 2
    assert found["logits"].mean.shape == (IMAGES, 6)
    assert found.kinds["numbers"].task == "regression"
    assert (found.images, found.samples, found.seed) == (IMAGES, SAMPLES, 3)
    with pytest.raises(KeyError, match="there are logits, numbers"):
        found["scores"]
    assert result(["logits"]).only.kind.name == "y"
    with pytest.raises(sd.ArgumentError, match="several outputs"):
        _ = found.only


def test_parts_that_follow_each_other():
    whole = result()
    joined = Result.concat([result(last=2), result(first=2, last=3), result(first=3)])
    assert joined.images == IMAGES
    for name, array in whole.arrays().items():
        assert array.tobytes() == joined.arrays()[name].tobytes()


def test_parts_that_do_not():
    with pytest.raises(sd.ArgumentError, match="begins with image 3, but image 2 is next"):
        Result.concat([result(last=2), result(first=3)])
    with pytest.raises(sd.ArgumentError, match="seeds 3 and 4"):
        Result.concat([result(last=2), result(first=2, seed=4)])
    with pytest.raises(sd.ArgumentError, match="outputs logits, numbers and logits"):
        Result.concat([result(last=2), result(["logits"], first=2)])
    with pytest.raises(sd.ArgumentError, match="no results"):
        Result.concat([])


def test_outputs_of_different_images():
    one, other = result(last=2), result()
    with pytest.raises(sd.ArgumentError, match="logits: 2 images, 7 samples, numbers: 5 images"):
        Result({"logits": one["logits"], "numbers": other["numbers"]})
    with pytest.raises(sd.ArgumentError, match="same images"):
        Result({})


def test_files(tmp_path):
    found = result(quantiles=(0.1, 0.9))
    path = tmp_path / "found.npz"
    found.save(path)
    with np.load(path) as file:
        assert set(file.files) == {*found.arrays(), "summary"}
        np.testing.assert_array_equal(file["logits/mean"], found["logits"].mean)
        np.testing.assert_array_equal(file["logits/levels"], [0.1, 0.9])
        assert json.loads(str(file["summary"])) == found.summary()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full disk")  # noqa: PTH110
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "found.npz"
    path.write_bytes(b"before")
    real = os.open
    monkeypatch.setattr(
        os, "open",
        lambda name, flags, *mode: real("/dev/full" if flags & os.O_CREAT else name,
                                        flags & ~(os.O_CREAT | os.O_EXCL), *mode),
    )  # fmt: skip
    with pytest.raises(sd.OutputError, match="No space left"):
        result().save(path)
    assert path.read_bytes() == b"before"


def test_what_is_no_file_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(sd.OutputError, match="not a regular file"):
        result().save(pipe)
    assert [(path.name, path.is_fifo()) for path in tmp_path.iterdir()] == [("pipe", True)]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(sd.OutputError, match="No such file"):
        result().save(tmp_path / "none" / "found.npz")


def test_summary():
    found = result(["logits", "map of logits", "events", "numbers"])
    summary = json.loads(json.dumps(found.summary()))
    assert summary["images"] == IMAGES
    assert summary["samples"] == SAMPLES
    told = summary["outputs"]["map of logits"]
    assert told["kind"]["class_axis"] == 1
    assert told["shape"] == [IMAGES, 6, 3, 4]
    expected = found["map of logits"].mutual_information.mean()
    assert told["mutual_information"] == pytest.approx(expected)
    assert "mutual_information" not in summary["outputs"]["numbers"]
    spread = np.sqrt(found["numbers"].variance).mean()
    assert summary["outputs"]["numbers"]["standard_deviation"] == pytest.approx(spread)


def test_summary_of_what_is_not_finite():
    kind, dims = KINDS["logits"]
    block = outputs(kind, dims)
    block[0, 1] = np.nan
    found = Result({"y": accumulate(kind, block)})
    told = json.loads(json.dumps(found.summary(), allow_nan=False))["outputs"]["y"]
    assert told["images_with_nonfinite"] == 1
    assert told["predictive_entropy"] > 0
    block[:] = np.nan
    told = Result({"y": accumulate(kind, block)}).summary()["outputs"]["y"]
    assert told["predictive_entropy"] is None
    one = Result({"y": accumulate(kind, outputs(kind, dims, samples=1))})
    assert one.summary()["outputs"]["y"]["standard_deviation"] is None


def test_rows():
    found = result(["logits", "map of logits", "event", "numbers"], first=2)
    rows = found.rows("logits")
    assert [row["image"] for row in rows] == [2, 3, 4]
    one = found["logits"]
    assert [row["class"] for row in rows] == one.top_class.tolist()
    assert [row["probability"] for row in rows] == one.mean.max(1).tolist()
    assert [row["mutual_information"] for row in rows] == one.mutual_information.tolist()
    maps = found.rows("map of logits")
    assert "class" not in maps[0]
    expected = found["map of logits"].predictive_entropy[0].mean()
    assert maps[0]["predictive_entropy"] == pytest.approx(expected)
    for row, mean in zip(found.rows("event"), found["event"].mean[:, 0], strict=True):
        assert row["probability"] == max(mean, 1 - mean)
    assert found.rows("numbers")[1]["mean"] == pytest.approx(found["numbers"].mean[1].mean())
    assert json.loads(json.dumps(rows)) == rows
