# SPDX-License-Identifier: Apache-2.0
"""The layers of GPUNet, for inference. Their attributes are called what the keys of NVIDIA's checkpoints are.

Facts from GPUNet (Wang et al., 2022, arXiv 2205.00841) and NVIDIA's models/gpunet_modules.py; blocks of the first kind come
from EfficientNet (MBConv and Fused-MBConv). What acts in training only, stochastic depth, is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .configuration import Layer

EPSILON = 1e-3
"""Of batch normalisation in the searched networks, and in fused blocks of distilled ones, which else have torch's 1e-5."""
SQUEEZE = 0.25
DISTILLED_TAIL = 1152
"""Channels between the last block of a distilled network and its pooling."""
_ACTIVATIONS: dict[str, Any] = {"relu": nn.ReLU, "swish": nn.SiLU}


def divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, but not less than nine tenths of `channels` (MobileNet's rule)."""
    found = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return found + divisor if found < 0.9 * channels else found


def convolution(inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1, padding: int | None = None) -> Any:
    """Without a bias; padded so that stride 1 keeps the size, unless said otherwise."""
    if padding is None:
        padding = (stride - 1 + kernel - 1) // 2
    return nn.Conv2d(inner, outer, kernel, stride, padding, groups=groups, bias=False)


class SqueezeExcite(nn.Module):  # type: ignore[misc]  # torch's types are not read, see pyproject.toml
    """Scales channels by what two 1 x 1 convolutions make of their means."""

    def __init__(self, channels: int, reduced: int, act: str) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.act1 = _ACTIVATIONS[act]()
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.conv_expand(self.act1(self.conv_reduce(means))))


class ConvBnAct(nn.Module):  # type: ignore[misc]
    """Convolution, normalisation, activation; nothing is added to it."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        outer = layer["num_out_channels"]
        self.conv = convolution(layer["num_in_channels"], outer, layer["kernel_size"], layer["stride"])
        self.bn1 = nn.BatchNorm2d(outer, EPSILON)
        self.act1 = _ACTIVATIONS[layer["act"]]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act1(self.bn1(self.conv(x)))


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """MBConv: expands, convolves each channel by itself, squeezes, projects; added to its input where the shapes allow."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        inner, outer, stride, act = layer["num_in_channels"], layer["num_out_channels"], layer["stride"], layer["act"]
        wide = divisible(inner * layer["expansion"])
        self.conv_pw = convolution(inner, wide, 1)
        self.bn1 = nn.BatchNorm2d(wide, EPSILON)
        self.act1 = _ACTIVATIONS[act]()
        self.conv_dw = convolution(wide, wide, layer["kernel_size"], stride, groups=wide)
        self.bn2 = nn.BatchNorm2d(wide, EPSILON)
        self.act2 = _ACTIVATIONS[act]()
        self.se = _squeeze(layer, wide)
        self.conv_pwl = convolution(wide, outer, 1)
        self.bn3 = nn.BatchNorm2d(outer, EPSILON)
        self.adds = stride == 1 and inner == outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act1(self.bn1(self.conv_pw(x)))
        y = self.se(self.act2(self.bn2(self.conv_dw(y))))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.adds else y


class EdgeResidual(nn.Module):  # type: ignore[misc]
    """Fused-MBConv: expanding and spatial convolution are one.

    With a stride it is not padded: NVIDIA's asks for TensorFlow's SAME padding there and gets none, and was trained so.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        inner, outer, kernel, stride = (layer[key] for key in ("num_in_channels", "num_out_channels", "kernel_size", "stride"))
        wide = divisible(inner * layer["expansion"])
        self.conv_exp = convolution(inner, wide, kernel, stride, padding=kernel // 2 if stride == 1 and kernel % 2 else 0)
        self.bn1 = nn.BatchNorm2d(wide, EPSILON)
        self.act1 = _ACTIVATIONS[layer["act"]]()
        self.se = _squeeze(layer, wide)
        self.conv_pwl = convolution(wide, outer, 1)
        self.bn2 = nn.BatchNorm2d(outer, EPSILON)
        self.adds = stride == 1 and inner == outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.se(self.act1(self.bn1(self.conv_exp(x))))
        y = self.bn2(self.conv_pwl(y))
        return x + y if self.adds else y


def _squeeze(layer: Layer, wide: int) -> Any:
    """Nothing where the layer has none. Its narrow side is a quarter of the block's input, before that was expanded."""
    if not layer["use_se"]:
        return nn.Identity()
    return SqueezeExcite(wide, round(wide * (SQUEEZE / layer["expansion"])), layer["act"])


class DistilledResidual(nn.Module):  # type: ignore[misc]
    """The blocks of distilled networks, `body` being a sequence whose places are the keys."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        inner, outer = layer["num_in_channels"], layer["num_out_channels"]
        kernel, stride, groups = layer["kernel_size"], layer["stride"], layer["groups"]
        wide = int(inner * layer["expansion"])
        if layer["layer_type"] == "fused_irb":
            self.body = nn.Sequential(
                convolution(inner, wide, kernel, stride, padding=kernel // 2), nn.BatchNorm2d(wide, EPSILON), nn.ReLU(),
                convolution(wide, outer, 1), nn.BatchNorm2d(outer, EPSILON),
            )  # fmt: skip
        else:
            self.body = nn.Sequential(
                convolution(inner, wide, 1, groups=groups), nn.BatchNorm2d(wide), nn.ReLU(),
                convolution(wide, wide, kernel, stride, wide, kernel // 2), nn.BatchNorm2d(wide), nn.ReLU(),
                convolution(wide, outer, 1, groups=groups), nn.BatchNorm2d(outer),
            )  # fmt: skip
        self.adds = stride == 1 and inner == outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return x + y if self.adds else y


class End(nn.Module):  # type: ignore[misc]
    """A head or a tail: a sequence, `net`, whose places are the keys."""

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(*modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def head(layer: Layer) -> End:
    """Of a searched network."""
    outer = layer["num_out_channels"]
    act = _ACTIVATIONS[layer.get("act", "swish")]
    return End(convolution(layer["num_in_channels"], outer, 3, 2, padding=1), nn.BatchNorm2d(outer, EPSILON), act())


def tail(layer: Layer) -> End:
    """Of a searched network. It ends in scores, one for each class."""
    outer = layer["num_out_channels"]
    return End(
        convolution(layer["num_in_channels"], outer, 1), nn.BatchNorm2d(outer, EPSILON), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(outer, layer["num_classes"]),
    )  # fmt: skip


def distilled_head(layer: Layer) -> End:
    """Of a distilled network; a large one has two more convolutions."""
    outer = layer["num_out_channels"]
    modules = [convolution(layer["num_in_channels"], outer, 3, 2, padding=1), nn.BatchNorm2d(outer), nn.ReLU()]
    for _ in range(2 if layer["layer_type"] == "head_large" else 0):
        modules += [convolution(outer, outer, 3), nn.BatchNorm2d(outer), nn.ReLU()]
    return End(*modules)


def distilled_tail(layer: Layer) -> End:
    """Of a distilled network: narrower before the pooling than after it."""
    outer = layer["num_out_channels"]
    return End(
        convolution(layer["num_in_channels"], DISTILLED_TAIL, 1), nn.BatchNorm2d(DISTILLED_TAIL), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), convolution(DISTILLED_TAIL, outer, 1), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(outer, layer["num_classes"]),
    )  # fmt: skip
