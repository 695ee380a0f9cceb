# SPDX-License-Identifier: Apache-2.0
"""What is said of a GPU, without loading CUDA: the record of a survey, how UUIDs are written, where CUDA IPC cannot be had."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

SIMULATED_NAME = "Simulated GPU"
"""What the simulation of the tests calls its devices, so that nothing measured on it passes for a GPU's."""


class GpuInfo(NamedTuple):
    """One device of this process. Its ordinal is CUDA's, and another process's may differ; its UUID is the same in all."""

    ordinal: int
    uuid: str
    name: str
    total_bytes: int
    capability: tuple[int, int]
    pci_bus_id: str
    is_mig: bool
    is_integrated: bool

    @property
    def is_simulated(self) -> bool:
        return self.name.startswith(SIMULATED_NAME)


class Gpus(Struct, frozen=True):
    """What a survey found (workers/survey.py prints it, the broker reads it). Where there is no GPU, `reason` says why."""

    found: tuple[GpuInfo, ...] = ()
    reason: str = "no GPU was looked for"
    driver: str = ""  # the newest CUDA version that the driver supports: 13.0
    runtime: str = ""  # that of cuda-python's runtime
    backends: tuple[str, ...] = ()  # those whose packages, as they are installed, can use a GPU

    def uuid_of(self, ordinal: int) -> str | None:
        """The UUID of the GPU with that ordinal; None: there is no such GPU."""
        return next((gpu.uuid for gpu in self.found if gpu.ordinal == ordinal), None)

    def listed(self) -> str:
        """For messages: `0 (NVIDIA H100, GPU-...), 1 (...)`, or why there is none."""
        return ", ".join(f"{gpu.ordinal} ({gpu.name}, {gpu.uuid})" for gpu in self.found) or f"none: {self.reason}"


def encode_gpus(gpus: Gpus) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(gpus)


def decode_gpus(line: bytes) -> Gpus:
    """What such a line says. Raises ValueError (msgspec.DecodeError) for one that says something else."""
    return msgspec.json.decode(line, type=Gpus)


def uuid_text(octets: bytes, is_mig: bool) -> str:
    """A device's 16 bytes as nvidia-smi writes them: GPU-..., or MIG-... for a slice of one."""
    return f"{'MIG' if is_mig else 'GPU'}-{uuid.UUID(bytes=octets)}"


def is_mig_name(name: str) -> bool:
    """Whether a device is a slice of a GPU: CUDA then names its profile, as in "NVIDIA H100 80GB HBM3 MIG 1g.10gb"."""
    return "MIG" in name.split()


def is_wsl() -> bool:
    """Whether this is Linux under Windows, whose driver offers no CUDA IPC (CUDA on WSL user guide, known limitations)."""
    try:
        version = Path("/proc/version").read_text(encoding="utf-8")
    except OSError:  # a container may hide it
        version = ""
    return "microsoft" in version.lower() or Path("/dev/dxg").exists()
