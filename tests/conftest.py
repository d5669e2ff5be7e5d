"""Options and fixtures that all tests share."""

from __future__ import annotations

import pathlib

import pytest
from hypothesis import HealthCheck, settings
from samples import MODELS

# Shared machines stall: how long an example takes says nothing about the code. The test command
# draws the same examples every time, so that a failure is a change's fault; new ones are looked
# for by `pytest --hypothesis-profile=explore`.
SLOW = [HealthCheck.too_slow]
settings.register_profile("repeatable", deadline=None, suppress_health_check=SLOW, derandomize=True)
settings.register_profile("explore", deadline=None, suppress_health_check=SLOW, max_examples=1000)
settings.load_profile("repeatable")


def pytest_addoption(parser):
    group = parser.getgroup("structdrop")
    group.addoption(
        "--corpus",
        type=lambda text: pathlib.Path(text).resolve(),
        default=None,
        metavar="DIR",
        help="folder of exported models (index.json, models/) to test against; write --corpus=DIR",
    )
    group.addoption(
        "--tools",
        action="store_true",
        help="run the tests that need other optimisers and OpenVINO, extra [tools]",
    )
    group.addoption(
        "--browser",
        type=lambda text: pathlib.Path(text).resolve(),
        default=None,
        metavar="DIR",
        help="run the tests of the page in a browser; `nox -s browser` makes DIR",
    )


def pytest_collection_modifyitems(config, items):
    """Deselect, visibly in the summary, what needs programs that a plain install lacks."""
    absent = set() if config.getoption("--tools") else {"tools", "openvino", "ray"}
    absent |= set() if config.getoption("--browser") else {"browser"}
    needy = [item for item in items if absent & set(item.keywords)]
    if needy:
        config.hook.pytest_deselected(items=needy)
        items[:] = [item for item in items if item not in needy]


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    """Print as into a pipe: processes of pytest-xdist are told how wide the terminal is."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def corpus(request) -> pathlib.Path:
    """Return the folder of exported models, or skip with the reason."""
    folder = request.config.getoption("--corpus")
    if folder is None:
        pytest.skip("needs a folder of exported models: pytest --corpus=DIR")
    if not (folder / "index.json").is_file():
        pytest.fail(f"--corpus {folder} has no index.json")
    return folder


@pytest.fixture(scope="session")
def models() -> pathlib.Path:
    """Return the folder of the sample models."""
    return MODELS
