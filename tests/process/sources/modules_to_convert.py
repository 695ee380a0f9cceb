# SPDX-License-Identifier: Apache-2.0
"""Functions that build torch modules, right ones and one for each thing that can be wrong with one."""

from __future__ import annotations

from typing import Any

import torch


class Perceptron(torch.nn.Module):
    """Pixels [rows, 4] to scores."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(4, 8)
        self.scores = torch.nn.Linear(8, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.scores(torch.relu(self.hidden(pixels)))


def perceptron(config: dict[str, Any] | None, checkpoint: str | None = None) -> Any:
    """With example inputs; its own weights, or the checkpoint's. It prints, as many do."""
    print("building a perceptron")
    torch.manual_seed(0)
    module = Perceptron((config or {}).get("classes", 3))
    if checkpoint is not None:
        module.load_state_dict(torch.load(checkpoint, weights_only=True))
    return module, {"pixels": torch.zeros(1, 4)}


def without_examples() -> Any:
    torch.manual_seed(0)
    return Perceptron(3)


class BatchOfTwo(torch.nn.Module):
    """Works with two rows at a time, whatever it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = int(x.shape[0])
        return (x + torch.arange(rows).reshape(rows, 1)).reshape(rows, 4)


def batch_of_two() -> Any:
    return BatchOfTwo(), torch.zeros(2, 4)


class Regression(torch.nn.Module):
    """One number per row, without a dimension of its own, as many return it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1)


def regression() -> Any:
    return Regression(), torch.zeros(1, 4)


class Normalising(torch.nn.Module):
    """By the statistics of the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True)


def normalising() -> Any:
    return Normalising(), torch.zeros(1, 4)


def leaving() -> Any:
    raise SystemExit("no configuration, no module")


def update_argparser(parser: Any) -> None:
    """As the models of NVIDIA's DeepLearningExamples declare their options."""
    parser.add_argument("--config", type=str, required=True)
    parser.add_argument("--checkpoint", type=str)
    parser.add_argument("--precision", type=str, choices=["fp32", "fp16"])
    parser.add_argument("--scale", type=float, default=1.0)


def get_model(**model_args: Any) -> Any:
    """As they build them: the configuration is a path, and names come with the module."""
    import json

    torch.manual_seed(0)
    with open(model_args["config"]) as file:
        module = Perceptron(json.load(file)["classes"])
    module.scores.weight.data *= model_args["scale"]
    return module, {"inputs": ["INPUT__0"], "outputs": ["OUTPUT__0"]}
