"""The example page, made, served and used once by headless Chromium for all tests here."""

from __future__ import annotations

import functools
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import threading

import onnx
import pytest
from page_forms import SHAPE, forms

import onnx_structdrop as sd

HERE = pathlib.Path(__file__).parent
IMAGE = "unknown"
RATE = 0.1
SAMPLES = 10
RUNS = 20


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serve files without a line for each."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def installed(request) -> pathlib.Path:
    """Return the folder with `page` (the example, its packages installed) and `driver`."""
    folder = request.config.getoption("--browser")
    for needed in (
        folder / "page" / "sampler.onnx",
        folder / "page" / "node_modules" / "onnxruntime-web",
        folder / "driver" / "node_modules" / "playwright-core",
    ):
        if not needed.exists():
            pytest.fail(f"--browser {folder}: {needed} is not there; `nox -s browser` makes it")
    return folder


@pytest.fixture(scope="session")
def sampler(installed):
    """Return the model that the page samples."""
    return onnx.load(installed / "page" / "sampler.onnx")


@pytest.fixture(scope="session")
def seen(installed, tmp_path_factory):
    """Return what the driver saw of the page, see drive.mjs."""
    folder = tmp_path_factory.mktemp("browser")
    page = installed / "page"
    shutil.rmtree(page / "forms", ignore_errors=True)
    (page / "forms").mkdir()
    for name, model in forms().items():
        sd.save(model, page / "forms" / f"{name}.onnx")
    broken = folder / "broken.png"
    broken.write_bytes((page / "images" / "noise.png").read_bytes()[:200])
    handler = functools.partial(Quiet, directory=page)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        plan = {
            "url": f"http://127.0.0.1:{server.server_port}/",
            "executable": os.environ.get("STRUCTDROP_BROWSER") or shutil.which("chromium"),
            "folder": str(folder),
            "image": IMAGE,
            "rate": RATE,
            "samples": SAMPLES,
            "runs": RUNS,
            "broken": str(broken),
            "upload": str(page / "images" / "noise.png"),
            "forms": [
                {"name": name, "url": f"forms/{name}.onnx", "shape": SHAPE} for name in forms()
            ],
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        try:
            ended = subprocess.run(
                ["node", HERE / "drive.mjs", folder / "plan.json"],
                cwd=installed / "driver",
                capture_output=True,
                text=True,
                timeout=180,
            )
        finally:
            server.shutdown()
    if ended.returncode:
        pytest.fail(f"the driver failed:\n{ended.stderr}")
    return {**json.loads(ended.stdout), "plan": plan}
