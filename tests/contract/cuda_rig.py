# SPDX-License-Identifier: Apache-2.0
"""A CUDA to tell stories over: the simulation, or the real one of this machine; and a second process that exports memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
from simulated.fixtures import SimulatedCuda

from penstock.ipc import cuda
from penstock.workers.devices.cuda import Copy, CopyKind, Device, DeviceBuffer, PinnedBuffer, Stream, copy_all

EXPORTER = Path(__file__).parent / "cuda_exporter.py"


class CudaRig(Protocol):
    """Which CUDA it is, and a kernel for it."""

    def adding_one(self, address: int, byte_size: int) -> Callable[[Stream], None]:
        """What puts a kernel into a stream that adds 1 to each byte."""

    def environment(self) -> dict[str, str]:
        """Of a child process that is to use the same CUDA."""


class SimulatedRig:
    def __init__(self, machine: SimulatedCuda) -> None:
        self.machine = machine

    def adding_one(self, address: int, byte_size: int) -> Callable[[Stream], None]:
        simulation = self.machine.simulation

        def kernel() -> None:
            octets = simulation.view(address, byte_size)
            octets += 1

        return lambda stream: simulation.enqueue(stream.handle, kernel, [(address, byte_size)])

    def environment(self) -> dict[str, str]:
        return self.machine.environment()


class DeviceOctets:
    """Device memory, as torch takes it."""

    def __init__(self, address: int, byte_size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (byte_size,), "typestr": "|u1", "data": (address, False), "strides": None, "version": 3,
        }  # fmt: skip


class RealRig:
    def adding_one(self, address: int, byte_size: int) -> Callable[[Stream], None]:
        torch = pytest.importorskip("torch", reason="needs torch, whose kernels are launched on the GPU")
        octets = torch.as_tensor(DeviceOctets(address, byte_size), device="cuda")
        octets.add_(1)  # what is loaded with the first launch cannot be captured
        octets.sub_(1)
        torch.cuda.synchronize()

        def put(stream: Stream) -> None:
            with torch.cuda.stream(torch.cuda.ExternalStream(stream.address)):
                octets.add_(1)

        return put

    def environment(self) -> dict[str, str]:
        return dict(os.environ)


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def cuda_kind(request: pytest.FixtureRequest) -> CudaRig:
    """Every story is told over both, where there is a GPU."""
    if request.param == "simulated":
        return SimulatedRig(request.getfixturevalue("simulated_cuda"))
    if not cuda.is_present():
        pytest.skip("CUDA cannot be used here: cuda-python, or a driver that suits it, is missing")
    return RealRig()


@pytest.fixture
def device(cuda_kind: CudaRig) -> Iterator[Device]:
    """The first GPU; afterwards it has done all that it was given."""
    with Device(0, blocking=True) as device:
        yield device
        device.check_invariants()


@pytest.fixture
def stream(device: Device) -> Iterator[Stream]:
    with Stream(device) as stream:
        yield stream
        stream.synchronize()


class Exporter:
    """A process that allocates device memory and does as told."""

    def __init__(self, rig: CudaRig) -> None:
        self._child = subprocess.Popen(
            [sys.executable, str(EXPORTER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=rig.environment()
        )

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    def ask(self, *words: object) -> str:
        """The answer to a command."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(" ".join(map(str, words)) + "\n")
        self._child.stdin.flush()
        return self._child.stdout.readline().strip()

    def allocate(self, byte_size: int, fill: int) -> bytes:
        """The handle of new memory, full of one value."""
        return bytes.fromhex(self.ask("allocate", byte_size, fill))

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()


def put_bytes(buffer: DeviceBuffer, values: npt.NDArray[np.uint8]) -> None:
    cuda.copy(buffer.address, values.ctypes.data, values.size)


def bytes_at(address: int, byte_size: int) -> npt.NDArray[np.uint8]:
    """What is in device memory now."""
    octets = np.zeros(byte_size, np.uint8)
    cuda.copy(octets.ctypes.data, address, byte_size)
    return octets


def to_device(stream: Stream, source: PinnedBuffer, into: DeviceBuffer) -> None:
    copy_all([Copy(into.address, source.address, source.byte_size)], stream, CopyKind.TO_DEVICE)


def raises_cuda(cause: str) -> Any:
    """For a with statement: a CudaError of that cause."""
    return pytest.raises(cuda.CudaError, match=cause)
