"""Two ranks over gloo: one network, masks of their own, and a checkpoint that outlives a rank."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest
from small_models import artifacts_of, batches

import onnx_structdrop
from onnx_structdrop import ArgumentError, ArgumentTypeError
from onnx_structdrop.training import LocalSGD, Schedule, TrainingSession

SCRIPT = pathlib.Path(__file__).with_name("ranks.py")
TESTS = pathlib.Path(__file__).parents[2]
STEPS = 8


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def environment(**extra):
    paths = [pathlib.Path(onnx_structdrop.__file__).parents[1], TESTS, TESTS / "graph"]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
        **{name: str(value) for name, value in extra.items()},
    }


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), str(SCRIPT)]
    return subprocess.run(
        [*command, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def found_by(output):
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return sorted(found, key=lambda each: each["rank"])


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel") / "artifacts"
    artifacts_of(folder, extra_outputs=["relu1_dropped_mask"])
    return folder


def test_one_network_and_masks_of_their_own(artifacts, tmp_path):
    """Both ranks are given the same batches, so only their masks tell them apart."""
    result = torchrun(artifacts, tmp_path / "run", STEPS)
    assert result.returncode == 0, result.stderr
    first, second = found_by(result.stdout)
    assert (first["rank"], second["rank"], first["size"]) == (0, 1, 2)
    assert first["parameters"] == second["parameters"]
    assert first["between"] != second["between"]
    assert not set(first["masks"]) & set(second["masks"])
    assert first["mean of ranks"] == second["mean of ranks"] == 0.5

    saved = TrainingSession.resume(tmp_path / "run", threads=1)
    assert saved.steps == STEPS
    again = torchrun(tmp_path / "run", tmp_path / "run", 4)
    assert again.returncode == 0, again.stderr
    third, fourth = found_by(again.stdout)
    assert third["steps"] == fourth["steps"] == STEPS + 4
    assert third["parameters"] == fourth["parameters"] != first["parameters"]
    assert not {*third["masks"], *fourth["masks"]} & {*first["masks"], *second["masks"]}


def test_a_killed_rank_ends_the_job_and_leaves_the_checkpoint(artifacts, tmp_path):
    result = torchrun(artifacts, tmp_path / "run", STEPS, 6)
    assert result.returncode != 0
    assert "SIGKILL" in result.stderr
    assert not found_by(result.stdout)
    session = TrainingSession.resume(tmp_path / "run", threads=1)
    assert session.steps == 4
    session.step(*next(batches(1)))


def test_what_is_left_of_the_ranks_says_so(artifacts, tmp_path):
    """Without torchrun, which stops the others itself."""
    place = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(artifacts), str(tmp_path / "run"), str(STEPS), "6"],
            env=environment(RANK=rank, **place),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=180)[1] for rank in ranks]
    assert ranks[1].returncode == -signal.SIGKILL
    assert ranks[0].returncode == 1
    assert "TrainingError: rank 0 of 2 does not reach the others" in errors[0]
    assert TrainingSession.resume(tmp_path / "run").steps == 4


def test_what_is_refused(artifacts, monkeypatch):
    with pytest.raises(ArgumentError, match="torchrun"):
        LocalSGD(artifacts)
    for arguments, error, words in (
        ({"every": 0}, ArgumentError, "every is 0"),
        ({"every": 1.5}, ArgumentTypeError, "every"),
        ({"seed": None}, ArgumentTypeError, "seed"),
        ({"timeout": 0}, ArgumentError, "timeout"),
        ({"timeout": "long"}, ArgumentTypeError, "timeout"),
    ):
        for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.setenv(name, "1")
        with pytest.raises(error, match=words):
            LocalSGD(artifacts, **arguments)


@pytest.mark.parametrize(("rank", "size"), [("one", "2"), ("2", "2"), ("-1", "2")])
def test_places_that_are_none(artifacts, monkeypatch, rank, size):
    for name, value in zip(("RANK", "WORLD_SIZE"), (rank, size), strict=True):
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(ArgumentError, match="RANK"):
        LocalSGD(artifacts)


def test_ranks_with_other_artifacts(artifacts, tmp_path):
    """Of as many numbers, but with another schedule: a mean of them would be one of nothing."""
    other = tmp_path / "other"
    artifacts_of(other, extra_outputs=["relu1_dropped_mask"], schedule=Schedule.linear(5))
    place = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), str(tmp_path / "run"), str(STEPS)],
            env=environment(RANK=rank, **place),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, folder in enumerate((artifacts, other))
    ]
    errors = [rank.communicate(timeout=180)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert all("give all ranks the same artifacts" in " ".join(error.split()) for error in errors)
