# SPDX-License-Identifier: Apache-2.0
"""What the repository must know of each backend: its platform string, its model file, how many instances it gets by default.

Names are Triton's; `identity` is its identity backend, `fake` is ours (a backend that misbehaves on request).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from ...ipc.errors import CallerError, Code, PenstockError, invalid


class GpuUse(Enum):
    """Whether a backend's instances go to a GPU."""

    NEVER = "never"
    ASKED = "where KIND_GPU is written"
    PREFERRED = "also with KIND_AUTO, where there is a GPU and the installed package can use it"
    ONLY = "always"


class BackendRules(NamedTuple):
    """One backend."""

    platform: str  # Triton's platform string; "" where Triton has none
    filename: str  # default_model_filename; "" where there is no model file
    cpu_instances: int  # of an instance group on the CPU without a count
    is_self_describing: bool  # its model file says which inputs and outputs there are
    gpu: GpuUse


BACKENDS: dict[str, BackendRules] = {
    # Triton gives onnxruntime two instances on the CPU: kDefaultCpuInstanceCount in core/src/model_config_utils.cc.
    "onnxruntime": BackendRules("onnxruntime_onnx", "model.onnx", 2, True, GpuUse.PREFERRED),
    "pytorch": BackendRules("pytorch_libtorch", "model.pt", 1, True, GpuUse.PREFERRED),  # True of exported programs
    "tensorrt": BackendRules("tensorrt_plan", "model.plan", 1, True, GpuUse.ONLY),
    "identity": BackendRules("", "", 1, False, GpuUse.ASKED),
    "fake": BackendRules("", "", 1, False, GpuUse.NEVER),
}

FILES: tuple[tuple[str, str], ...] = (
    ("model.savedmodel", "tensorflow"),
    ("model.graphdef", "tensorflow"),
    ("model.plan", "tensorrt"),
    ("model.onnx", "onnxruntime"),
    ("model.xml", "openvino"),
    ("model.pt", "pytorch"),
    ("model.pt2", "pytorch"),
    ("model.py", "python"),
)
"""What Triton looks for, in this order, when a configuration names neither platform nor backend."""


def names() -> str:
    """The backends of this release, for messages."""
    return ", ".join(BACKENDS)


def detect(model: str, files: Iterable[str]) -> str:
    """The backend that the files of a version directory, or else the model's name (`echo.identity`), speak of; "" for none."""
    present = set(files)
    for filename, backend in FILES:
        if filename in present:
            return backend
    return model.rpartition(".")[2] if "." in model else ""


def resolve(model: str, platform: str, backend: str) -> tuple[str, str]:
    """(platform, backend) with the missing one filled in. Raises CallerError for what does not exist or does not match."""
    if not platform and not backend:
        raise invalid(f"must specify 'platform' or 'backend' for '{model}'; backends are {names()}")
    if not backend:
        backend = next((name for name, rules in BACKENDS.items() if rules.platform == platform), "")
        if not backend:
            raise _unknown_platform(model, platform)
    if backend not in BACKENDS:
        raise _unknown_backend(backend)
    expected = BACKENDS[backend].platform
    if platform not in ("", expected):
        hint = f"backend '{backend}' goes with platform '{expected}'" if expected else f"backend '{backend}' has no platform"
        raise invalid(f"unexpected 'platform' and 'backend' pair, got:{platform}, {backend}; {hint}")
    return expected, backend


def _unknown_platform(model: str, platform: str) -> PenstockError:
    known = ", ".join(rules.platform for rules in BACKENDS.values() if rules.platform)
    fix = f'; write backend: "{platform}"' if platform in BACKENDS else ""
    return CallerError(f"unexpected platform type '{platform}' for {model}; platforms are {known}{fix}", Code.UNSUPPORTED)


def _unknown_backend(backend: str) -> PenstockError:
    owner = next((name for name, rules in BACKENDS.items() if rules.platform == backend), "")
    fix = f'; write backend: "{owner}"' if owner else ""
    return CallerError(
        f"unable to find backend library for backend '{backend}'; this release has {names()}{fix}", Code.UNSUPPORTED
    )
