"""Test sessions: ``nox`` runs all of them, ``nox -s tests`` one.

Arguments behind ``--`` go to pytest in the ``tests`` session: ``nox -- --corpus=DIR`` adds the
checks on a folder of exported models.
"""

from __future__ import annotations

import os
import pathlib
import shutil

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = [
    "lint", "ops", "tests", "runtimes", "tools", "torch", "keras_cv", "ray", "training", "browser",
    "demo",
]  # fmt: skip

# Without the library, tests of the kernels fail instead of being skipped.
NATIVE = {"STRUCTDROP_REQUIRE_NATIVE": "1"}

# Files of tests on all processors; a file stays on one, for what its tests share.
PARALLEL = ("-n", "auto", "--dist", "loadfile")

# The release that comes as a small CPU build; torchvision and timm would ask for another.
TORCH = "torch==2.13.0"


@nox.session
def lint(session):
    """Check style, docstrings and types."""
    session.install(".[lint]", "pytest", "hypothesis", "nox")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")


@nox.session
def tests(session):
    """Run the tests that need nothing but the package itself."""
    session.install(".[test]", "pytest-xdist")
    session.run("pytest", *PARALLEL, *session.posargs, env=NATIVE)


@nox.session
def tools(session):
    """Run the inserted nodes through other people's optimisers and through OpenVINO."""
    session.install(".[test,tools]", "openvino>=2026.1")
    session.run("pytest", "--tools", "-m", "tools or openvino", "-rP")


@nox.session
def browser(session):
    """Sample one file in a page in headless Chromium, in OpenVINO and in onnxruntime.

    Needs Chromium and npm, and installs Debian's where it may. ``STRUCTDROP_BROWSER`` names
    another Chromium; ``STRUCTDROP_BROWSER=skip`` leaves the session out.
    """
    named = os.environ.get("STRUCTDROP_BROWSER")
    if named == "skip":
        session.skip("STRUCTDROP_BROWSER=skip")
    needed = ["npm"] if named else ["npm", "chromium"]
    missing = [program for program in needed if not shutil.which(program)]
    if missing and shutil.which("apt-get") and os.geteuid() == 0:
        session.run("apt-get", "update", "--quiet", external=True, silent=True)
        session.run(
            "apt-get", "install", "--quiet", "--yes", *missing,
            external=True, silent=True, env={"DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
    elif missing:
        session.error(
            f"{' and '.join(missing)} not found: install them (on Debian: apt-get install"
            f" {' '.join(missing)}), name a Chromium in STRUCTDROP_BROWSER, or set it to 'skip'"
        )
    folder = pathlib.Path(session.create_tmp()).resolve()
    pages = {"page": pathlib.Path("examples/browser"), "driver": pathlib.Path("tests/browser")}
    for name, source in pages.items():
        shutil.copytree(
            source,
            folder / name,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("node_modules", "__pycache__"),
        )
        session.run(
            "npm", "install", "--prefix", str(folder / name), "--ignore-scripts", "--no-audit",
            "--no-fund", "--no-package-lock", external=True, silent=True,
        )  # fmt: skip
    session.install(".[test]", "openvino>=2026.1", "pillow")
    session.run("python", str(folder / "page" / "make.py"))
    session.run(
        "pytest", "tests/browser", f"--browser={folder}", "-rP", *session.posargs, env=NATIVE
    )


@nox.session
def torch(session):
    """Compare the operators with torch, keras, torchvision and timm, given equal uniforms."""
    session.install(TORCH)
    session.install(".[test]", TORCH, "keras==3.15.1")
    # Their requirements name CUDA builds; what they need of them is not used here.
    session.install("--no-deps", "torchvision>=0.28", "timm==1.0.31")
    session.install("pyyaml", "pillow", "huggingface_hub", "safetensors")
    session.run(
        "pytest",
        "tests/frameworks",
        "-rP",
        env={"STRUCTDROP_FRAMEWORKS": "torch", "KERAS_BACKEND": "torch"},
    )


@nox.session
def keras_cv(session):
    """Compare the operators with keras-cv, which needs a TensorFlow of its own time."""
    session.install("tensorflow-cpu==2.18.1", "keras==3.8.0")
    session.install("keras-cv==0.9.0")
    session.install(".[test]")
    session.run("pytest", "tests/frameworks", "-rP", env={"STRUCTDROP_FRAMEWORKS": "keras_cv"})


@nox.session
def ray(session):
    """Sample a dataset by several workers of Ray, one of which is killed."""
    session.install(".[test,ray]")
    session.run("pytest", "tests/mc", "--tools", "-m", "ray", env=NATIVE)


@nox.session
def training(session):
    """Train in onnxruntime-training, which takes the place of onnxruntime."""
    session.install(TORCH)
    session.install(".[test,training]", TORCH, "pytest-xdist")
    # Both packages write the module onnxruntime: the one for inference has to go first.
    session.run("pip", "uninstall", "--yes", "--quiet", "onnxruntime")
    session.install("--force-reinstall", "--no-deps", "onnxruntime-training-cpu==1.19.2")
    session.install("cerberus", "h5py", "flatbuffers", "setuptools")
    session.run("pytest", *PARALLEL, "tests/training", *session.posargs, env=NATIVE)


@nox.session
def ops(session):
    """Test the native kernels by themselves, under AddressSanitizer and UBSan."""
    folder = pathlib.Path(session.create_tmp()).resolve()
    session.install("cmake>=3.25", "ninja")
    options = ("STRUCTDROP_TESTS", "STRUCTDROP_FUZZ", "STRUCTDROP_SANITIZE")
    defined = [f"-D{option}=ON" for option in options]
    session.run(
        "cmake", "-S", "ops", "-B", str(folder), "-G", "Ninja",
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo", *defined,
    )  # fmt: skip
    session.run("cmake", "--build", str(folder), silent=True)
    session.run("ctest", "--test-dir", str(folder), "--output-on-failure", "-j2")
    session.run(str(folder / "tests" / "fuzz_kernels"), "20", "1", external=True)


@nox.session
def fuzz(session):
    """Run broken model files through every operation: ``nox -s fuzz -- COUNT`` (2000).

    Further arguments go to the script, such as ``--seed 1 --corpus DIR``.
    """
    session.install(".[test]")
    count, *rest = session.posargs or ["2000"]
    output = str(pathlib.Path(session.create_tmp()) / "failed")
    session.run(
        "python", "benchmarks/mutated_files.py", "--count", count, "--output", output, *rest
    )


@nox.session
@nox.parametrize("runtime", ["1.17.3", "1.19.2"])
def runtimes(session, runtime):
    """Run the kernels in the oldest onnxruntime that loads them, and in the oldest supported one.

    The newest is what the session ``tests`` runs them in.
    """
    session.install(f"onnxruntime=={runtime}", "numpy<2", "onnx", "ml_dtypes")
    if runtime == "1.17.3":  # older than the package asks for: the library alone
        session.install("--no-deps", ".")
    else:
        session.install(".[test]", f"onnxruntime=={runtime}", "numpy<2")
        session.run("pytest", "tests/native", "tests/test_native.py", env=NATIVE)
    session.run("python", "tests/native/digests.py")


@nox.session
def demo(session):
    """Build a wheel, install it into an empty environment and run the demo from there."""
    folder = pathlib.Path(session.create_tmp())
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", str(folder), silent=True)
    wheel = max(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    session.install("--force-reinstall", str(wheel))
    session.cd(folder)
    session.run("structdrop", "demo", "-o", str(folder / "demo"))
