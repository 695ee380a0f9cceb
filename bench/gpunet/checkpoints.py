# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of GPUNet as NVIDIA publishes them: state dicts alone (pruned networks), or what timm's training has written.

timm keeps averaged weights (`state_dict_ema`) beside the last ones; where they are there, NVIDIA evaluates and deploys those,
and so do we. Beside them lies how the training was called, an argparse.Namespace, which is the only class that is read:
nothing in a checkpoint is run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from penstock.clients.convert.state_dicts import fitted, weights_in
from penstock.ipc.errors import invalid

AVERAGED = "state_dict_ema"
REFUSED = "WeightsUnpickler error: "
"""After which torch says, among advice, what it does not read."""


def load(network: Any, path: Path) -> str:
    """Loads the weights and says which they were. Raises CallerError naming the file and the keys that do not fit."""
    held = _read(path)
    which = "weights"
    if isinstance(held, Mapping) and isinstance(held.get(AVERAGED), Mapping):
        held, which = held[AVERAGED], f"averaged weights ({AVERAGED})"
    network.load_state_dict(fitted(path, weights_in(path, held), network.state_dict()))
    return which


def _read(path: Path) -> Any:
    before = torch.serialization.get_safe_globals()
    try:
        torch.serialization.add_safe_globals([argparse.Namespace])
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        said = (str(error).partition(REFUSED)[2].partition(". ")[0] or str(error)).strip().partition("\n")[0]
        raise invalid(f"checkpoint {path} cannot be read as weights: {type(error).__name__}: {said}") from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
