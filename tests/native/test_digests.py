"""The same seed gives the same bytes, everywhere: the digests that are committed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import digests
import numpy as np
import pytest

import onnx_structdrop as sd

EXPECTED = json.loads(digests.GOLDEN.read_text(encoding="utf-8"))


def library():
    return str(sd.get_library_path())


@pytest.mark.parametrize("threads", [1, 2])
def test_bytes_are_the_committed_ones(threads, monkeypatch):
    """At every SIMD level of this processor."""
    levels = digests.levels_here(library())
    print("levels compared:", ", ".join(levels))
    for level in levels:
        monkeypatch.setenv("STRUCTDROP_SIMD", level)
        assert digests.digests(library(), threads=threads) == EXPECTED


def test_more_threads_than_processors_change_nothing():
    large = {name: case for name, case in digests.cases().items() if case["shape"] == digests.LARGE}
    for name, case in list(large.items())[::8]:
        assert digests.digest(case, library(), threads=7) == EXPECTED[name]


def test_there_is_a_level_to_compare_with():
    levels = digests.levels_here(library())
    assert levels
    assert levels[-1] in ("sse2", "portable"), "every processor has the baseline"


def test_cases_are_the_committed_ones():
    assert list(digests.cases()) == list(EXPECTED)
    # Seeds, runs and shapes matter: no two cases give the same bytes.
    assert len(set(EXPECTED.values())) == len(EXPECTED)


def test_large_cases_are_work_for_several_threads():
    """Chunks hold 256 KiB, and a stream of random numbers 65,536 elements of the mask."""
    assert np.prod(digests.LARGE) > 2 * 65536
    assert 4 * np.prod(digests.LARGE) > 2 * (256 << 10)


def test_models_are_ones_that_old_runtimes_read():
    case = next(iter(digests.cases().values()))
    model = digests.onnx.load_model_from_string(digests.model_of(case))
    assert not model.functions
    assert model.ir_version <= 9
    assert model.opset_import[0].version <= 20


def test_script_tells_what_differs(monkeypatch, tmp_path, capfd):
    few = dict(list(digests.cases().items())[:3])
    monkeypatch.setattr(digests, "cases", lambda: few)
    names = list(few)
    golden = tmp_path / "digests.json"
    golden.write_text(json.dumps({name: EXPECTED[name] for name in names}))
    monkeypatch.setattr(digests, "GOLDEN", golden)
    assert digests.main(["--library", library()]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["different"] == []
    assert summary["cases"] == 3
    golden.write_text(json.dumps({names[0]: "0", **{n: EXPECTED[n] for n in names[1:]}}))
    assert digests.main(["--library", library()]) == 1
    different = json.loads(capfd.readouterr().out)["different"]
    assert len(different) == 2 * len(summary["levels"])
    assert all(entry.startswith(names[0]) for entry in different)
    assert digests.main(["--write"]) == 0
    assert json.loads(golden.read_text()) == {name: EXPECTED[name] for name in names}


def test_a_fresh_process_draws_the_same():
    """The level is read when a session is made, from the environment of the process."""
    name = next(name for name in EXPECTED if name.startswith("DropBlock"))
    program = (
        "import digests\n"
        f"print(digests.digest(digests.cases()[{name!r}], {library()!r}, threads=2))\n"
    )
    own = {"PYTHONPATH": str(digests.GOLDEN.parent)}
    for level in digests.levels_here(library()):
        result = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **own, "STRUCTDROP_SIMD": level},
        )
        assert result.stdout.strip() == EXPECTED[name]
