"""Export the sample CNN of Keras (channels last), with random weights.

The environment variable ``KERAS_BACKEND`` chooses the backend, ``tensorflow`` or ``torch``. Each
has an exporter of its own, and the two graphs have little in common.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import onnx
from finishing import finish, random_feeds
from keras import layers


def residual_block(x: keras.KerasTensor, width: int, stride: int) -> keras.KerasTensor:
    """Two 3x3 convolutions and a shortcut, the activation after the join."""
    shortcut = x
    if stride != 1 or x.shape[-1] != width:
        shortcut = layers.Conv2D(width, 1, stride, use_bias=False)(x)
        shortcut = layers.BatchNormalization()(shortcut)
    y = layers.Conv2D(width, 3, stride, padding="same", use_bias=False)(x)
    y = layers.BatchNormalization()(y)
    y = layers.ReLU()(y)
    y = layers.Conv2D(width, 3, padding="same", use_bias=False)(y)
    y = layers.BatchNormalization()(y)
    return layers.ReLU()(layers.Add()([y, shortcut]))


def build() -> keras.Model:
    """Make the seeded network, its norms with plausible statistics."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64, 64, 3), name="input")
    x = layers.Conv2D(8, 3, 2, padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    for width, stride in ((8, 1), (12, 2), (16, 2), (16, 1)):
        x = residual_block(x, width, stride)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10, name="output")(x))

    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape
            layer.set_weights(
                [
                    generator.uniform(0.5, 1.5, size),
                    generator.normal(0.0, 0.2, size),
                    generator.normal(0.0, 0.2, size),
                    generator.uniform(0.5, 1.5, size),
                ]
            )
    return model


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder")
    parser.add_argument("--opset", type=int, default=15)
    arguments = parser.parse_args()
    model = build()
    model(np.zeros((1, 64, 64, 3), np.float32))  # the exporter wants a model that was called
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch, "raw.onnx")
        model.export(str(raw), format="onnx", opset_version=arguments.opset, verbose=False)
        (feed,) = random_feeds(onnx.load(raw)).values()
        expected = keras.ops.convert_to_numpy(model(feed, training=False))
        finish(raw, arguments.output / f"resnet_keras_{keras.backend.backend()}.onnx", expected)


if __name__ == "__main__":
    main()
