# SPDX-License-Identifier: Apache-2.0
"""The backends there are, by Triton's backend name and by its platform string. Each is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module

from ...ipc.errors import CallerError, Code
from .base import Backend

BACKENDS: dict[str, tuple[str, str]] = {
    "onnxruntime": ("onnxruntime_onnx", "OnnxRuntime"),
    "identity": ("identity", "Identity"),
    "fake": ("fake", "Fake"),
}
"""Backend name -> (module in this folder, class)."""

PLATFORMS: dict[str, str] = {"onnxruntime_onnx": "onnxruntime"}
"""Triton's platform string -> backend name, where the two differ."""


def make_backend(name: str) -> Backend:
    """A fresh backend. Raises UNSUPPORTED, naming those that exist."""
    try:
        module, kind = BACKENDS[PLATFORMS.get(name, name)]
    except KeyError:
        raise CallerError(f"unknown backend '{name}'; known are {', '.join(sorted(BACKENDS))}", Code.UNSUPPORTED) from None
    backend: Backend = getattr(import_module(f".{module}", __package__), kind)()
    return backend
