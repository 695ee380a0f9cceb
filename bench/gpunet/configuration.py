# SPDX-License-Identifier: Apache-2.0
"""Configurations of GPUNet: JSON lists of layers, in the format of NVIDIA's DeepLearningExamples, checked before use.

Three are in `configurations/`, one of each kind that NVIDIA has published: 0.8ms-D (GPUNet-P1, pruned), 0.65ms (GPUNet-0, found
by search) and 1.25ms-D (GPUNet-D1, distilled). Facts from PyTorch/Classification/GPUNet/configs/batch1/GV100; the other files
there are read as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.ipc.errors import invalid, not_found

HERE = Path(__file__).resolve().parent / "configurations"

Layer = Mapping[str, Any]

_ENDS = ("num_in_channels", "num_out_channels")
_CONVOLUTION = (*_ENDS, "kernel_size", "stride", "stage")
_SEARCHED: dict[str, tuple[str, ...]] = {
    "head": _ENDS,  # and `act`, swish where it is not said
    "conv": (*_CONVOLUTION, "act"),
    "irb": (*_CONVOLUTION, "expansion", "act", "use_se"),
    "fused_irb": (*_CONVOLUTION, "expansion", "act", "use_se"),
    "tail": (*_ENDS, "num_classes"),
}
_DISTILLED: dict[str, tuple[str, ...]] = {
    "head": _ENDS,
    "head_large": _ENDS,
    "irb": (*_CONVOLUTION, "expansion", "groups"),
    "fused_irb": (*_CONVOLUTION, "expansion", "groups"),
    "tail": (*_ENDS, "num_classes"),
}
ACTIVATIONS = ("relu", "swish")


def known() -> list[str]:
    """The names of those that are here."""
    return sorted(path.name.removesuffix(".json") for path in HERE.glob("*.json"))


def file_of(name: str) -> Path:
    """Where a configuration that is here lies. Raises CallerError that names those that are."""
    path = HERE / f"{name}.json"
    if name not in known():
        raise not_found(f"there is no configuration {name!r} here: it has {', '.join(known())}; CONFIG=FILE.json names another")
    return path


def read(path: Path) -> list[Layer]:
    """The layers, checked. Raises CallerError naming the file, the layer and what is wrong with it."""
    try:
        layers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise invalid(f"{path}: {error}") from error
    check(layers, str(path))
    return list(layers)


def check(layers: Any, origin: str) -> None:
    """Raises CallerError unless this is a data layer, a head, blocks and a tail, each taking what the one before it gives."""
    if not isinstance(layers, list) or len(layers) < 3 or not all(isinstance(layer, dict) for layer in layers):
        raise invalid(f"{origin}: expected a list of layers, each an object: a data layer, a head, blocks, a tail")
    data = layers[0]
    if data.get("layer_type") != "data" or not isinstance(data.get("distill"), bool):
        raise invalid(f"{origin}: the first layer must be of type data and say distill, true or false; got {dict(data)}")
    if not isinstance(data.get("img_resolution"), int) or data["img_resolution"] < 1:
        raise invalid(f"{origin}: img_resolution must be a whole number of at least 1, got {data.get('img_resolution')!r}")
    kinds = _DISTILLED if data["distill"] else _SEARCHED
    channels = 3
    for number, layer in enumerate(layers[1:], 2):
        place = f"{origin}: layer {number}"
        _check_layer(layer, kinds, place)
        if layer["num_in_channels"] != channels:
            raise invalid(f"{place} takes {layer['num_in_channels']} channels, and gets {channels}")
        channels = layer["num_out_channels"]
    order = [layer["layer_type"] for layer in layers[1:]]
    ends = [at for at, kind in enumerate(order) if kind in ("head", "head_large", "tail")]
    if ends != [0, len(order) - 1] or order[-1] != "tail":
        raise invalid(f"{origin}: expected one head first and one tail last, got {', '.join(order)}")


def _check_layer(layer: Layer, kinds: Mapping[str, tuple[str, ...]], place: str) -> None:
    kind: str = layer.get("layer_type", "")
    if kind not in kinds:
        raise invalid(f"{place} is of type {kind!r}; expected is one of {', '.join(kinds)}")
    missing = [key for key in kinds[kind] if key not in layer]
    if missing:
        raise invalid(f"{place} ({kind}) does not say {', '.join(missing)}")
    for key in ("num_in_channels", "num_out_channels", "kernel_size", "stride", "groups", "num_classes"):
        if key in kinds[kind] and (type(layer[key]) is not int or layer[key] < 1):
            raise invalid(f"{place} ({kind}): {key} must be a whole number of at least 1, got {layer[key]!r}")
    if "expansion" in kinds[kind] and (type(layer["expansion"]) not in (int, float) or layer["expansion"] <= 0):
        raise invalid(f"{place} ({kind}): expansion must be a number above 0, got {layer['expansion']!r}")
    if layer.get("act", "relu") not in ACTIVATIONS:
        raise invalid(f"{place} ({kind}): act must be one of {', '.join(ACTIVATIONS)}, got {layer['act']!r}")
