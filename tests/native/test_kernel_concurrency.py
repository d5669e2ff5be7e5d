"""Several Python threads in one session, and several sessions at once."""

from __future__ import annotations

import concurrent.futures
import threading

import numpy as np
import pytest
from kernel_sessions import kernel_session
from one_node import assert_relations, attributes_of, dropped, one_node, random_data

from onnx_structdrop.schema import DROPOUT_OPS

FREE = ("N", "C", "H", "W")
CALLERS = 6
CALLS = 25

each_op = pytest.mark.parametrize("op_type", DROPOUT_OPS)


def at_once(task, callers=CALLERS):
    """Start a task in several threads at the same moment; return their results, or raise."""
    barrier = threading.Barrier(callers)

    def start(index):
        barrier.wait()
        return task(index)

    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        return list(pool.map(start, range(callers)))


@pytest.mark.parametrize("threads", [1, 2])
@each_op
def test_one_session_from_many_threads(op_type, threads):
    """Every run is one of the sequence, and every run is a different one."""
    sizes = (2, 8, 45, 41)
    data = random_data(sizes)
    model = one_node(op_type, FREE, seed=11)
    alone = kernel_session(model)
    sequence = [dropped(alone, data, 0.3) for _ in range(CALLERS * CALLS)]
    assert_relations(op_type, attributes_of(op_type, 4), data, 0.3, sequence[0])
    runner = kernel_session(model, threads=threads)
    found = at_once(lambda _: [dropped(runner, data, 0.3) for _ in range(CALLS)])
    bytes_of = [b"".join(array.tobytes() for array in outputs) for outputs in sequence]
    assert sorted(
        b"".join(array.tobytes() for array in outputs) for calls in found for outputs in calls
    ) == sorted(bytes_of)


@each_op
def test_callers_with_different_shapes_and_ratios(op_type):
    """Scratch memory is lent to one run at a time."""
    runner = kernel_session(one_node(op_type, FREE), threads=2)
    attributes = attributes_of(op_type, 4)

    def task(index):
        rng = np.random.default_rng(index)
        for turn in range(15):
            sizes = tuple(int(size) for size in rng.integers(1, (4, 12, 50, 50)))
            ratio = float(rng.choice([0.01, 0.3, 0.9]))
            data = random_data(sizes, seed=turn)
            assert_relations(op_type, attributes, data, ratio, dropped(runner, data, ratio))

    at_once(task)


def test_errors_in_one_thread_leave_the_others_alone():
    runner = kernel_session(one_node("DropBlock", FREE), severity=4)
    data = random_data((2, 4, 20, 20))
    attributes = attributes_of("DropBlock", 4)

    def task(index):
        for _ in range(CALLS):
            if index % 2:
                with pytest.raises(Exception, match="ratio is 2; allowed"):
                    dropped(runner, data, 2)
            else:
                outputs = dropped(runner, data, 0.3)
                assert_relations("DropBlock", attributes, data, 0.3, outputs)

    at_once(task)


def test_sessions_made_and_run_at_once():
    """Registering shares one domain among all sessions of the process."""
    model = one_node("DropBlock", FREE, seed=5).SerializeToString()
    data = random_data((2, 4, 20, 20))
    expected = dropped(kernel_session(model), data, 0.3).output.tobytes()

    def task(_):
        for _ in range(5):
            assert dropped(kernel_session(model), data, 0.3).output.tobytes() == expected

    at_once(task)
