"""What the train-mode files of a corpus compute in inference mode, without `clean`'s help.

Where the corpus has an eval export of the same network, that is the truth. Two kinds of files have
none: those in which the layer is always on, and those written by hand. Their inference form is
derived here from what the files are known to hold, and where an eval export exists as well the two
are checked against each other, so that neither can be wrong unseen.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

__all__ = ["Case", "cases", "drawing_nodes", "training_norms"]

GENERATORS = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


@dataclasses.dataclass
class Case:
    """A file, and models with the function that its inference form has."""

    path: pathlib.Path
    references: list[tuple[str, onnx.ModelProto]]
    """Where each is from, and the model; the first counts, the others have to agree with it."""
    switch: str = ""
    """A graph input that turns dropout on; the references get it as False."""


def cases(corpus: pathlib.Path) -> Iterator[Case]:
    """Yield every file of a corpus that is in train mode, draws numbers, or is a trap."""
    refs = json.loads((corpus / "refs.json").read_text(encoding="utf-8"))
    index = json.loads((corpus / "index.json").read_text(encoding="utf-8"))
    for entry in sorted(index, key=lambda entry: entry["file"]):
        path = corpus / entry["file"]
        model = onnx.load(path)
        if entry["mode"] != "train" and "trap" not in path.stem and not list(drawing_nodes(model)):
            continue
        if path.stem in refs:
            reference = onnx.load(corpus / refs[path.stem]["ref"])
            yield Case(path, [("eval export", reference)])
            continue
        switches = [
            node.input[2]
            for node in model.graph.node
            if node.op_type == "Dropout"
            and len(node.input) > 2
            and node.input[2] in {value.name for value in model.graph.input}
        ]
        if switches:
            yield Case(path, [(f"itself with {switches[0]} = False", model)], switches[0])
        else:
            yield Case(path, [("by hand", _by_hand(model))])
    for path in sorted((corpus / "patterns").glob("*.onnx")):
        model = onnx.load(path)
        if "train" in path.stem or list(drawing_nodes(model)):
            yield Case(path, [*_sibling(path, model), ("by hand", _without_layer(model))])


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    pending = [*model.graph.node, *(node for body in model.functions for node in body.node)]
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                pending += graph.node


def _opset(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def drawing_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield generators, and each Dropout that is told to train (or may be)."""
    constant = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if not tensor.dims or list(tensor.dims) == [1]
    }
    for node in _nodes(model):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constant[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    for node in _nodes(model):
        if node.op_type in GENERATORS:
            yield node
        elif node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            mode = constant.get(node.input[2])
            if mode is None or mode.any():
                yield node


def training_norms(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield each BatchNormalization that takes the statistics of the batch."""
    opset = _opset(model)
    for node in _nodes(model):
        if node.op_type == "BatchNormalization":
            mode = next((a.i for a in node.attribute if a.name == "training_mode"), 0)
            if mode if opset >= 14 else len([name for name in node.output if name]) > 1:
                yield node


def _by_hand(model: onnx.ModelProto) -> onnx.ModelProto:
    """Switch every standard Dropout and BatchNormalization to inference by their definitions."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in training_norms(result):
        kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
        del node.attribute[:], node.output[1:]
        node.attribute.extend(kept)
    for node in _nodes(result):
        if node.op_type == "Dropout":
            del node.input[1:]
    for function in result.functions:
        if any(node.op_type in GENERATORS for node in function.node):
            # The one function of the kind is a feature dropout of its first input.
            if function.name != "SpatialDrop":
                raise ValueError(f"what is function {function.name} in inference mode?")
            identity = onnx.helper.make_node("Identity", function.input[:1], function.output[:1])
            del function.node[:]
            function.node.append(identity)
    if any(node.op_type in GENERATORS for node in _nodes(result)):
        raise ValueError("the model draws numbers, and there is no reference for it")
    return result


def _without_layer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a pattern, Conv - Relu - layer - Conv or Conv - Relu - layer, without its layer."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = result.graph.node
    relu = [node for node in nodes if node.op_type == "Relu"][-1]
    convs = [node for node in nodes if node.op_type == "Conv"]
    if len(convs) > 1:
        convs[-1].input[0] = relu.output[0]
    elif relu.output[0] != result.graph.output[0].name:
        identity = onnx.helper.make_node("Identity", relu.output[:1], [result.graph.output[0].name])
        for node in nodes:
            if result.graph.output[0].name in node.output:
                node.output[0] = "unused"
        nodes.append(identity)
    for node in training_norms(result):
        kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
        del node.attribute[:], node.output[1:]
        node.attribute.extend(kept)
    needed, live = {result.graph.output[0].name}, []
    for node in reversed(nodes):
        if needed & set(node.output):
            live.append(node)
            needed.update(node.input)
    del nodes[:], result.graph.value_info[:]
    nodes.extend(reversed(live))
    return result


def _sibling(path: pathlib.Path, model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield the eval export of the same network, with the normalisation that the file has."""
    name = re.sub("_train(_evalflag)?", "_eval", path.stem)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    if norms:
        # Tracing moved the statistics, so the sibling has to have its own apart from the weights.
        name = re.sub("ts_[a-z]+_eval", "ts_nofold_eval", name.replace("_dynshape", ""))
    found = path.with_name(f"{name}.onnx")
    if found == path or not found.exists():
        return
    sibling = onnx.load(found)
    if list(drawing_nodes(sibling)):
        return
    theirs = [node for node in sibling.graph.node if node.op_type == "BatchNormalization"]
    if len(theirs) != len(norms):
        return
    given = {tensor.name: tensor for tensor in model.graph.initializer}
    for number, (mine, other) in enumerate(zip(theirs, norms, strict=True)):
        for place in range(1, 5):
            tensor = sibling.graph.initializer.add()
            tensor.CopyFrom(given[other.input[place]])
            tensor.name = mine.input[place] = f"statistics_{number}_{place}"
    if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        del sibling.graph.value_info[:]
        for value in (*sibling.graph.input, *sibling.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    yield found.stem, sibling
