"""Which exported CNNs train in onnxruntime-training 1.19.2: every model of a corpus, in turn.

Each model is cleaned of foreign dropout, gets DropBlock at its default sites where it has any, is
prepared, and trains three steps on random data, in a process of its own: kernels can end it.

    python benchmarks/trainable.py --corpus /path/to/corpus [--json] [--docs docs/training.md]
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx

import onnx_structdrop as sd
from onnx_structdrop.graph.convert import to_proto

HERE = pathlib.Path(__file__).resolve()
MODELS = HERE.parent.parent / "models"
STEPS = 3
FREE = 2
"""Size of the batch; other free sizes are `SPATIAL`."""
SPATIAL = 32
START, END = "<!-- trainable -->", "<!-- end -->"


def prepared_model(path: pathlib.Path):
    """Clean, insert, prepare; return what was prepared and how many dropout nodes it has."""
    from onnx_structdrop.training import prepare

    model = to_proto(sd.clean(sd.load(path))[0])
    for spec in (sd.DropBlock2D(0.1, 3, seed=1), sd.DropBlock1D(0.1, 3, seed=1),
                 sd.DropBlock3D(0.1, 3, seed=1)):  # fmt: skip
        try:
            model = sd.insert(model, spec)
            break
        except sd.StructDropError:
            continue
    sizes = {
        dim.dim_param: SPATIAL
        for value in model.graph.input
        for dim in value.type.tensor_type.shape.dim[2:]
        if dim.dim_param
    }
    result = prepare(model, sizes=sizes)
    count = sum(node.domain == "pkg.onnx_structdrop" for node in result.model.graph.node)
    return result, count


def feeds_of(model: onnx.ModelProto, rng) -> list:
    """Return random data for each input."""
    known = {tensor.name for tensor in model.graph.initializer}
    feeds = []
    for value in model.graph.input:
        if value.name in known:
            continue
        tensor = value.type.tensor_type
        shape = [
            dim.dim_value or (SPATIAL if axis > 1 else FREE)
            for axis, dim in enumerate(tensor.shape.dim)
        ]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        feeds.append((value.name, np.asarray(rng.standard_normal(shape)).astype(dtype)))
    return feeds


def train(path: pathlib.Path) -> dict:
    """Train one model for a few steps and return the losses, or why it does not."""
    import onnxruntime
    from onnxruntime.training import artifacts
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    from onnx_structdrop.training import register_gradients

    onnxruntime.set_default_logger_severity(4)
    try:
        result, count = prepared_model(path)
    except sd.StructDropError as error:
        return {"state": "refused", "reason": str(error)}
    register_gradients()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    rng = np.random.default_rng(0)
    feeds = feeds_of(result.model, rng)
    output = result.model.graph.output[0].name
    session = onnxruntime.InferenceSession(result.model.SerializeToString(), options)
    target = session.run([output], dict(feeds))[0]
    target = (target + rng.standard_normal(target.shape) * 0.1).astype(target.dtype)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        artifacts.generate_artifacts(
            result.model,
            requires_grad=list(result.trainable),
            frozen_params=list(result.frozen),
            loss=artifacts.LossType.MSELoss,
            optimizer=artifacts.OptimType.AdamW,
            loss_input_names=[output],
            artifact_directory=name,
        )
        for kind in ("training", "eval", "optimizer"):
            file = folder / f"{kind}_model.onnx"
            proto = onnx.load(file)
            proto.ir_version = min(proto.ir_version, 10)
            onnx.save(proto, file)
        state = CheckpointState.load_checkpoint(str(folder / "checkpoint"))
        module = Module(str(folder / "training_model.onnx"), state, session_options=options)
        optimizer = Optimizer(str(folder / "optimizer_model.onnx"), module)
        optimizer.set_learning_rate(1e-4)
        module.train()
        losses, moved = [], 0
        for step in range(STEPS):
            losses.append(float(module(*(data for _, data in feeds), target)))
            if step == 0:
                moved = sum(
                    bool(np.abs(state.parameters[key].grad).sum() > 0) for key in result.trainable
                )
            optimizer.step()
            module.lazy_reset_grad()
    if not all(np.isfinite(losses)):
        return {"state": "failed", "reason": f"losses {losses}"}
    if not moved:
        return {"state": "failed", "reason": "every gradient is zero"}
    return {
        "state": "trains",
        "parameters": len(result.trainable),
        "moved": moved,
        "dropout": count,
        "changes": len(result.changes),
        "losses": losses,
    }


def one(path: pathlib.Path) -> dict:
    """Run one model in a process of its own."""
    run = subprocess.run(
        [sys.executable, str(HERE), "--one", str(path)], capture_output=True, text=True, check=False
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode or not lines:
        last = (run.stderr.strip().splitlines() or ["no output"])[-1]
        return {"state": "failed", "reason": f"exit status {run.returncode}: {last[-300:]}"}
    return json.loads(lines[-1])


def table(results: dict[str, dict]) -> str:
    """Return the results as a table."""
    count = {
        state: sum(result["state"] == state for result in results.values())
        for state in ("trains", "refused", "failed")
    }
    lines = [
        f"Of {len(results)} models {count['trains']} train, {count['refused']} are refused with a "
        f"reason, {count['failed']} fail.",
        "",
        "| model | | parameters | dropout nodes | changes, or the reason |",
        "|---|---|---|---|---|",
    ]
    for name, result in results.items():
        if result["state"] == "trains":
            cells = (name, "trains", result["parameters"], result["dropout"], result["changes"])
        else:
            cells = (name, result["state"], "", "", result["reason"].replace("|", "\\|"))
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def write(text: str, page: pathlib.Path) -> None:
    """Put the table between the marks of a page."""
    old = page.read_text(encoding="utf-8") if page.exists() else f"# Training\n\n{START}\n{END}\n"
    before, _, rest = old.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=pathlib.Path, help="folder with models/*.onnx")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--docs", type=pathlib.Path, nargs="?", const=MODELS.parent / "docs" /
                        "training.md", help="write the table into this page")  # fmt: skip
    parser.add_argument("--one", type=pathlib.Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(train(given.one)))
        return 0
    paths = sorted((given.corpus / "models").glob("*.onnx")) if given.corpus else []
    paths += [*sorted(MODELS.glob("*.onnx")), *sorted(MODELS.glob("train/*.onnx"))]
    results = {}
    for path in paths:
        results[path.stem] = one(path)
        print(path.stem, results[path.stem]["state"], file=sys.stderr, flush=True)
    text = json.dumps(results, indent=1) if given.json else table(results)
    print(text)
    if given.docs:
        write(table(results), given.docs)
    return int(any(result["state"] == "failed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
