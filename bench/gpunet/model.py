# SPDX-License-Identifier: Apache-2.0
"""What `penstock convert gpunet.model:get_model` calls, with the options that NVIDIA's triton/model.py has."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import checkpoints, configuration
from .network import GPUNet, settle

INPUT, OUTPUT = "INPUT__0", "OUTPUT__0"
SEED = 0


class Made(NamedTuple):
    """A network, and where its weights come from, in words."""

    network: GPUNet
    weights: str


def make(config: Path, checkpoint: Path | None) -> Made:
    """In eval mode. Raises CallerError naming the file that is not right."""
    network = GPUNet(configuration.read(config)).eval()
    if checkpoint is None:
        settle(network, SEED)
        return Made(network, f"RANDOM WEIGHTS (seed {SEED}): no checkpoint was given, so that the scores mean nothing")
    which = checkpoints.load(network, checkpoint)
    return Made(network, f"{which} of {checkpoint.name}")


def update_argparser(parser: argparse.ArgumentParser) -> None:
    """Declares the function's options. `precision` is fp32 in any case: convert makes fp16 of it."""
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--precision", choices=["fp32"], default="fp32")


def get_model(**model_args: Any) -> tuple[GPUNet, dict[str, torch.Tensor]]:
    """The network on the CPU, and an image for it."""
    network, _ = make(model_args["config"], model_args["checkpoint"])
    return network, {INPUT: torch.zeros(1, 3, network.resolution, network.resolution)}
