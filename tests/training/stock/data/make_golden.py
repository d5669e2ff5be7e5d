"""Write the artifacts beside this file, and what onnxruntime-training 1.19.2 makes of a batch.

Run in the environment that has it: ``python tests/training/stock/data/make_golden.py``.
"""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import onnx_structdrop as sd
from onnx_structdrop.training import Artifacts, TrainingSession, generate_artifacts

HERE = pathlib.Path(__file__).parent
CLASSES = 4


def network() -> onnx.ModelProto:
    """Return a small CNN with most kinds of layers; the gate keeps the gradients smooth."""
    random = np.random.default_rng(0)
    weights = {
        "w1": (6, 2, 3, 3),
        "w2": (6, 1, 3, 3),
        "w3": (8, 6, 1, 1),
        "b3": (8,),
        "w4": (8, 7, 3, 3),
        "w5": (CLASSES, 8),
        "b5": (CLASSES,),
    }
    tensors = {name: random.standard_normal(shape) * 0.3 for name, shape in weights.items()}
    tensors.update(scale=np.ones(6), bias=np.zeros(6), mean=np.zeros(6), variance=np.ones(6))
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c1", "scale", "bias", "mean", "variance"], ["n1"]),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node(
            "MaxPool", ["r1"], ["p1"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
        ),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], pads=[1] * 4, group=6),
        helper.make_node("LeakyRelu", ["c2"], ["r2"], alpha=0.1),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"]),
        helper.make_node("Sigmoid", ["c3"], ["s3"]),
        helper.make_node("Mul", ["c3", "s3"], ["g3"]),
        helper.make_node("Concat", ["g3", "p1"], ["k4"], axis=1),
        helper.make_node("Conv", ["k4", "w4"], ["c4"], strides=[2, 2], pads=[1] * 4, group=2),
        helper.make_node("Tanh", ["c4"], ["t4"]),
        helper.make_node("GlobalAveragePool", ["t4"], ["a5"]),
        helper.make_node("Flatten", ["a5"], ["f5"]),
        helper.make_node("Gemm", ["f5", "w5", "b5"], ["y"], transB=1),
    ]
    for number, node in enumerate(nodes):
        node.name = f"{node.op_type.lower()}_{number}"
    graph = helper.make_graph(
        nodes,
        "golden",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in tensors.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def main() -> None:
    """Write everything."""
    network_ = network()
    model = sd.insert(network_, sd.SpatialDropout2D(0.0, seed=5), sites=_sites(network_))
    artifacts = generate_artifacts(model, HERE / "artifacts", batch_norm="train", overwrite=True)
    random = np.random.default_rng(1)
    batch = {
        "x": random.standard_normal((6, 2, 16, 16)).astype(np.float32),
        "labels": random.integers(0, CLASSES, 6),
    }
    session = TrainingSession(artifacts, native=False, threads=1)
    losses = [session.step(batch["x"], batch["labels"]) for _ in range(8)]
    results = {"losses": np.array(losses), **_results(artifacts, batch)}
    np.savez_compressed(HERE / "golden.npz", **batch, **results)


def _sites(model: onnx.ModelProto) -> list[sd.Site]:
    return [site for site in sd.find_sites(model) if site.value == "r1"]


def _results(artifacts: Artifacts, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return loss and gradients, by the kernels of onnxruntime-training."""
    model = onnx.load(artifacts.training_model)
    gradients = {}
    kept = []
    for node in model.graph.node:
        if node.op_type == "InPlaceAccumulatorV2":
            gradients[node.input[1]] = node.input[0].removesuffix("_grad.accumulation.buffer")
        else:
            kept.append(node)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(kept)
    names = [artifacts.manifest.loss_name, *gradients]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feeds = {**np.load(artifacts.parameters), **batch}
    for value in session.get_inputs():
        if value.name not in feeds:
            shape = [size if isinstance(size, int) else 1 for size in value.shape]
            kind = np.bool_ if "bool" in value.type else np.float32
            feeds[value.name] = np.zeros(shape, kind)
    loss, *values = session.run(names, feeds)
    named = zip(gradients.values(), values, strict=True)
    return {"loss": loss, **{f"grad/{name}": value for name, value in named}}


if __name__ == "__main__":
    main()
