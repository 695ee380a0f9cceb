# SPDX-License-Identifier: Apache-2.0
"""GPUNet as a torch module, built from its configuration; its size; weights for it where there is no checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from . import blocks
from .configuration import Layer

IMAGES_TO_SETTLE = 4
"""Random images whose statistics a network with random weights gets."""
BRANCH_GAIN = 0.2
"""Of what a block adds to its input: small, so that rounding is not amplified from block to block, as in trained networks."""

_SEARCHED: dict[str, tuple[str, Callable[[Layer], Any]]] = {
    "head": ("head: {number}", blocks.head),
    "conv": ("stage: {stage} layer{number}", blocks.ConvBnAct),
    "irb": ("stage: {stage} layer{number}", blocks.InvertedResidual),
    "fused_irb": ("stage: {stage} layer{number}", blocks.EdgeResidual),
    "tail": (" layer{number}", blocks.tail),
}
_DISTILLED: dict[str, tuple[str, Callable[[Layer], Any]]] = {
    "head": ("head:", blocks.distilled_head),
    "head_large": ("head:", blocks.distilled_head),
    "irb": ("stage: {stage} irb{number}", blocks.DistilledResidual),
    "fused_irb": ("stage: {stage} fused_irb{number}", blocks.DistilledResidual),
    "tail": ("tail:", blocks.distilled_tail),
}
"""Type of layer -> its name in the network, as the keys of checkpoints have it, and what builds it. Layers count from 1."""


class GPUNet(nn.Module):  # type: ignore[misc]  # torch's types are not read, see pyproject.toml
    """Images FP32 [batch, 3, resolution, resolution], normalised as for ImageNet -> scores FP32 [batch, classes]."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        kinds = _DISTILLED if layers[0]["distill"] else _SEARCHED
        self.resolution: int = layers[0]["img_resolution"]
        self.network = nn.Sequential()
        for number, layer in enumerate(layers[1:], 2):
            name, build = kinds[layer["layer_type"]]
            self.network.add_module(name.format(number=number, stage=layer.get("stage")), build(layer))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)


class Size(NamedTuple):
    """What a network has, and what an image costs it."""

    parameters: int
    macs: int  # multiplications of convolutions and linear layers, each with an addition, for one image


def size_of(network: GPUNet) -> Size:
    """Runs it once, on zeros."""
    macs = 0

    def count(module: Any, _inputs: Any, output: Any) -> None:
        nonlocal macs
        macs += output[0].numel() * module.weight[0].numel()

    counted = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hooks = [module.register_forward_hook(count) for module in counted]
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, network.resolution, network.resolution))
    finally:
        for hook in hooks:
            hook.remove()
    return Size(sum(parameter.numel() for parameter in network.parameters()), macs)


def settle(network: GPUNet, seed: int) -> None:
    """Random weights with which the scores still depend on the image.

    Weights are He's (2015), and the statistics of batch normalisation are those of random images: with torch's defaults
    activations would fade from layer to layer, and every image get the scores of the last bias.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if getattr(module, "adds", False):
            nn.init.constant_(_norms(module)[-1].weight, BRANCH_GAIN)
    images = torch.rand(IMAGES_TO_SETTLE, 3, network.resolution, network.resolution, generator=generator)
    norms = _norms(network)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the mean of what is seen, and not 0.1 of it
    with torch.no_grad():
        network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum


def _norms(module: Any) -> list[Any]:
    """In their order."""
    return [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
