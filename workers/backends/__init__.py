# SPDX-License-Identifier: Apache-2.0
"""The backends there are, by Triton's backend name and by its platform string. Each is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module

from ...ipc.errors import CallerError, Code
from .base import Backend
from .on_device import DeviceBackend

BACKENDS: dict[str, tuple[str, str]] = {
    "onnxruntime": ("onnxruntime_onnx", "OnnxRuntime"),
    "pytorch": ("pytorch_libtorch", "LibTorch"),
    "identity": ("identity", "Identity"),
    "fake": ("fake", "Fake"),
}
"""Backend name -> (module in this folder, class)."""

DEVICE_BACKENDS: dict[str, tuple[str, str]] = {
    "identity": ("identity_cuda", "IdentityCuda"),
    "onnxruntime": ("onnxruntime_cuda", "OnnxRuntimeCuda"),
    "pytorch": ("pytorch_cuda", "TorchCuda"),
    "tensorrt": ("tensorrt_plan", "TensorRT"),
}
"""As BACKENDS, on a GPU. A backend that is only in BACKENDS takes its tensors from host memory wherever its instance is."""

PLATFORMS: dict[str, str] = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorrt_plan": "tensorrt",
}
"""Triton's platform string -> backend name, where the two differ."""


def make_backend(name: str) -> Backend:
    """A fresh backend. Raises UNSUPPORTED, naming those that exist."""
    name = PLATFORMS.get(name, name)
    if name not in BACKENDS and name in DEVICE_BACKENDS:
        raise CallerError(f"backend '{name}' computes on GPUs only, and this instance has none", Code.UNSUPPORTED)
    try:
        module, kind = BACKENDS[name]
    except KeyError:
        raise CallerError(f"unknown backend '{name}'; known are {', '.join(sorted(BACKENDS))}", Code.UNSUPPORTED) from None
    backend: Backend = getattr(import_module(f".{module}", __package__), kind)()
    return backend


def computes_on_device(name: str) -> bool:
    """Whether an instance of this backend on a GPU takes its tensors from the GPU's memory."""
    return PLATFORMS.get(name, name) in DEVICE_BACKENDS


def make_device_backend(name: str) -> DeviceBackend:
    """A fresh backend on a device. Only for those of which computes_on_device() says so."""
    module, kind = DEVICE_BACKENDS[PLATFORMS.get(name, name)]
    backend: DeviceBackend = getattr(import_module(f".{module}", __package__), kind)()
    return backend
