"""A Ray dataset sampled by several workers: what one process gives, also if a worker is killed."""

from __future__ import annotations

import os
import pathlib
import signal
import threading
import time

import numpy as np
import pytest
from samples import MODELS

import onnx_structdrop as sd
from onnx_structdrop import ArgumentError, ArgumentTypeError, ModelError
from onnx_structdrop.mc import Sampler, sample_dataset

COUNT, SAMPLES, BATCH = 24, 6, 2
# Ray itself opens what it does not close, and warns of options that its own defaults set.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def ray():
    import ray

    root = pathlib.Path(sd.__file__).parents[1]
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": str(root)}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def model():
    """Return a sample model with dropout in its last stage."""
    net = sd.load(MODELS / "resnet18_torchscript.onnx")
    sites = [site for site in sd.find_sites(net) if site.kind == "join"]
    return sd.insert(net, sd.DropBlock2D(0.2, 3, seed=1), sites)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(COUNT, 3, 224, 224)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(model, images):
    sampler = Sampler(model, SAMPLES, threads=1, seed=3, chunk=1, quantiles=[0.5])
    return sampler(images)


def dataset(ray, images):
    """Return numbered images in a random order, in many blocks."""
    order = np.random.default_rng(1).permutation(COUNT)
    rows = [{"number": int(at), "image": images[at]} for at in order]
    return ray.data.from_items(rows, override_num_blocks=12)


def sampled(data, model, **more):
    options = {"seed": 3, "chunk": 1, "quantiles": [0.5], "batch_size": BATCH, **more}
    return sample_dataset(data, model, SAMPLES, **options)


def assert_equal(rows, expected):
    ordered = sorted(rows, key=lambda row: row["number"])
    assert [row["number"] for row in ordered] == list(range(COUNT))
    (name,) = expected
    for field, array in expected[name].arrays().items():
        by_image = np.moveaxis(array, 1, 0) if field == "quantiles" else array
        found = np.stack([row[f"{name}/{field}"] for row in ordered])
        np.testing.assert_array_equal(found, by_image, err_msg=field)


def busy_worker():
    """Return the process of an actor that samples at this moment; Ray writes so in its title."""
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if title.startswith(b"ray::") and b"_Worker" in title and b".submit" in title:
                return int(entry.name)
    return None


def kill_one(killed, stop):
    """Kill the first worker that is found at work."""
    while not killed and not stop.is_set():
        found = busy_worker()
        if found is None:
            time.sleep(0.01)
        else:
            os.kill(found, signal.SIGKILL)
            killed.append(found)


def test_two_workers_give_what_one_process_gives(ray, model, images, expected):
    rows = sampled(dataset(ray, images), model).take_all()
    assert_equal(rows, expected)


def test_a_killed_worker_loses_nothing(ray, model, images, expected):
    killed, stop = [], threading.Event()
    killer = threading.Thread(target=kill_one, args=(killed, stop))
    killer.start()
    try:
        rows = sampled(dataset(ray, images), model).take_all()
    finally:
        stop.set()
        killer.join()
    assert killed
    assert_equal(rows, expected)


def test_what_is_refused_at_once(ray, model, images):
    data = dataset(ray, images[:COUNT])
    for error, words, given in (
        (ArgumentTypeError, "must be a ray.data.Dataset", {"data": [1, 2]}),
        (ArgumentError, "no column 'picture'; its columns are image, number", {"image": "picture"}),
        (ArgumentError, "workers is 0", {"workers": 0}),
        (ArgumentTypeError, "batch_size must be a whole number", {"batch_size": 1.5}),
        (ArgumentError, "samples is 0", {"samples": 0}),
        (sd.NativeLibraryError, "native kernels only", {"native": False}),
        (ModelError, "nothing in the model is random", {"model": sd.fold(model)}),
    ):
        arguments = {"data": data, "model": model, "samples": 2, **given}
        with pytest.raises(error, match=words):
            sample_dataset(
                arguments.pop("data"), arguments.pop("model"), arguments.pop("samples"), **arguments
            )
