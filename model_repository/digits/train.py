# SPDX-License-Identifier: Apache-2.0
"""Trains the `digits` model and writes it: 1/model.onnx, labels.txt, and held_out.npz with the images it never saw.

The data are scikit-learn's handwritten digits: 1,797 real scans of 8 x 8 pixels with values 0 to 16. A fifth of them, chosen at
random with a fixed seed and equal shares of each digit, is held out. The network is a perceptron, 64-128-64-10, trained by Adam
on the images and their copies shifted by one pixel. It is small enough to train in seconds with numpy alone. Normalisation is
part of the graph: clients send raw pixel values. Running it again writes the same files.

usage: python train.py      needs numpy, scikit-learn and onnx
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent
SEED = 2024
SIZES = (64, 128, 64, 10)
EPOCHS, ROWS_PER_STEP, LEARNING_RATE = 60, 64, 1e-3
ACCURACY_WANTED = 0.97
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OPSET, IR_VERSION = 13, 8
"""Old enough for onnxruntime 1.18, the oldest that Penstock takes."""

Array = npt.NDArray[np.float32]
Layer = tuple[Array, Array]
SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))


def shifted(images: Array) -> Array:
    """The images, and each moved by one pixel in four directions: [5 n, 8, 8]."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return np.concatenate([padded[:, 1 + down : 9 + down, 1 + right : 9 + right] for down, right in SHIFTS])


def activations(layers: list[Layer], rows: Array) -> list[Array]:
    """What each layer gives, the input first; ReLU between layers, none after the last."""
    outputs = [rows]
    for number, (weight, bias) in enumerate(layers):
        linear = outputs[-1] @ weight + bias
        outputs.append(linear if number == len(layers) - 1 else np.maximum(linear, 0))
    return outputs


def gradients(layers: list[Layer], rows: Array, labels: npt.NDArray[np.int64]) -> list[Array]:
    """Gradients of the mean cross-entropy, in the order weight, bias of each layer."""
    outputs = activations(layers, rows)
    exponentials = np.exp(outputs[-1] - outputs[-1].max(axis=1, keepdims=True))
    error = exponentials / exponentials.sum(axis=1, keepdims=True)
    error[np.arange(len(rows)), labels] -= 1
    error /= len(rows)
    found: list[Array] = []
    for number in reversed(range(len(layers))):
        found[:0] = [outputs[number].T @ error, error.sum(axis=0)]
        if number:
            error = (error @ layers[number][0].T) * (outputs[number] > 0)
    return found


class Adam:
    """The optimiser, changing the parameters in place (Kingma and Ba, 2014, with their constants)."""

    def __init__(self, parameters: list[Array]) -> None:
        self.parameters, self.step = parameters, 0
        self.means = [np.zeros_like(array) for array in parameters]
        self.squares = [np.zeros_like(array) for array in parameters]

    def update(self, found: list[Array], rate: float) -> None:
        self.step += 1
        for parameter, gradient, mean, square in zip(self.parameters, found, self.means, self.squares, strict=True):
            mean += (gradient - mean) * np.float32(0.1)
            square += (gradient**2 - square) * np.float32(0.001)
            scale = np.sqrt(square / np.float32(1 - 0.999**self.step)) + np.float32(1e-8)
            parameter -= np.float32(rate / (1 - 0.9**self.step)) * mean / scale


def train(images: Array, labels: npt.NDArray[np.int64]) -> list[Layer]:
    """The layers after EPOCHS passes, with a learning rate that falls to zero along a cosine."""
    random = np.random.default_rng(SEED)
    layers = [
        (random.normal(0, np.sqrt(2 / fan_in), (fan_in, fan_out)).astype(np.float32), np.zeros(fan_out, np.float32))
        for fan_in, fan_out in pairwise(SIZES)
    ]
    adam = Adam([array for layer in layers for array in layer])
    rows = shifted(images).reshape(-1, 64) / np.float32(16)
    labels = np.tile(labels, len(SHIFTS))
    steps = EPOCHS * (len(rows) // ROWS_PER_STEP)
    for _ in range(EPOCHS):
        order = random.permutation(len(rows))
        for start in range(0, len(rows) - ROWS_PER_STEP + 1, ROWS_PER_STEP):
            chosen = order[start : start + ROWS_PER_STEP]
            rate = LEARNING_RATE * (1 + np.cos(np.pi * adam.step / steps)) / 2
            adam.update(gradients(layers, rows[chosen], labels[chosen]), rate)
    return layers


def graph(layers: list[Layer]) -> onnx.ModelProto:
    """The network: image FP32 [batch, 1, 8, 8], values 0 to 16 -> scores FP32 [batch, 10], summing to one."""
    nodes = [
        helper.make_node("Mul", ["image", "one_sixteenth"], ["normalised"]),
        helper.make_node("Flatten", ["normalised"], ["rows"], axis=1),
    ]
    constants = [numpy_helper.from_array(np.float32(1 / 16), "one_sixteenth")]
    at = "rows"
    for number, (weight, bias) in enumerate(layers):
        constants += [numpy_helper.from_array(weight, f"weight{number}"), numpy_helper.from_array(bias, f"bias{number}")]
        nodes.append(helper.make_node("Gemm", [at, f"weight{number}", f"bias{number}"], [f"linear{number}"]))
        at = f"linear{number}"
        if number < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [at], [f"hidden{number}"]))
            at = f"hidden{number}"
    nodes.append(helper.make_node("Softmax", [at], ["scores"], axis=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])
    model = helper.make_model(
        helper.make_graph(nodes, "digits", [image], [scores], constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="digits/train.py",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    data = load_digits()
    images, labels = data.images.astype(np.float32), data.target
    train_images, held_images, train_labels, held_labels = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=SEED
    )
    model = graph(train(train_images, train_labels))
    (scores,) = ReferenceEvaluator(model).run(None, {"image": held_images[:, np.newaxis]})  # of the graph as it is written
    accuracy = float((scores.argmax(axis=1) == held_labels).mean())
    print(f"held-out accuracy {accuracy:.4f} on {len(held_labels)} images")
    if accuracy <= ACCURACY_WANTED:
        raise SystemExit(f"not written: {accuracy:.4f} is not above {ACCURACY_WANTED}")
    (HERE / "1").mkdir(exist_ok=True)
    onnx.save(model, HERE / "1" / "model.onnx")
    (HERE / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    np.savez_compressed(HERE / "held_out.npz", images=held_images.astype(np.uint8), labels=held_labels.astype(np.uint8))


if __name__ == "__main__":
    main()
