"""Small networks to sample, fast enough that thousands of samples are cheap."""

from __future__ import annotations

import numpy as np
import onnx
from nets import Net

import onnx_structdrop as sd


def classifier(shape=("N", 3, 16, 16), *, seed=0, opset=18):
    """Return a residual network with random weights, not zeros."""
    net = Net(shape, opset)
    x = net.cbr("x", 8, stride=2)
    x = net.residual(x, 8)
    x = net.residual(x, 12, 2)
    x = net.residual(x, 12)
    return randomised(net.model(net.head(x, 5)), seed)


def randomised(model, seed=0):
    """Give weights of several axes random numbers."""
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT:
            scale = (2 / np.prod(tensor.dims[1:])) ** 0.5
            values = rng.standard_normal(list(tensor.dims)) * scale
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return model


SPECS = {
    "DropBlock": sd.DropBlock2D(0.3, 3, seed=1),
    "SpatialDropout": sd.SpatialDropout2D(0.3, seed=2),
    "Dropout": sd.Dropout(0.3, seed=3),
    "DropPath": sd.DropPath(0.3, seed=4),
}

PLACEMENTS = {"head": slice(-1, None), "late": slice(4, None), "all": slice(None)}


def live(spec="DropBlock", where="late", shape=("N", 3, 16, 16)):
    """Return the classifier with dropout on."""
    model = classifier(shape)
    sites = [site for site in sd.find_sites(model) if site.kind in ("activation", "join")]
    return sd.insert(model, SPECS[spec], sites[PLACEMENTS[where]])


def images(count, shape=(3, 16, 16), seed=0):
    """Return random images."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
