# SPDX-License-Identifier: Apache-2.0
"""The simulated CUDA between processes: memory of one that another uses, and what is found out about the other."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest
from cuda_rig import Exporter, SimulatedRig, bytes_at
from simulated.fixtures import SimulatedCuda

from penstock.ipc import cuda
from penstock.workers.devices.cuda import Copy, Device, DeviceBuffer, Stream, copy_all

BLOCK = 2 << 20
FREED = 0xDB


def test_a_device_address_cannot_be_dereferenced(simulated_cuda: SimulatedCuda) -> None:
    program = "import ctypes; from penstock.ipc import cuda; ctypes.string_at(cuda.malloc(64), 1)"
    done = subprocess.run([sys.executable, "-c", program], env=simulated_cuda.environment(), check=False)
    assert done.returncode == -signal.SIGSEGV


def test_what_another_process_does_wrongly_is_found_out_here(simulated_cuda: SimulatedCuda) -> None:
    program = (
        "from cuda import simulation; simulation.view(1 << 46, 1); from penstock.ipc import cuda; cuda.call('cudaFree', 99)"
    )
    subprocess.run([sys.executable, "-c", program], env=simulated_cuda.environment(), check=False, stderr=subprocess.DEVNULL)
    with pytest.raises(AssertionError, match="freeing 0x63"):
        simulated_cuda.check()
    simulated_cuda.simulation.take_violations()


def test_memory_that_was_given_back_is_not_what_it_was(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True), Exporter(SimulatedRig(simulated_cuda)) as exporter:
        handle = exporter.allocate(BLOCK, 1)
        address = cuda.open_ipc(handle)
        exporter.ask("free")
        assert set(bytes_at(address, BLOCK).tolist()) == {FREED}
        cuda.close_ipc(address)
        with pytest.raises(cuda.CudaError, match="cudaIpcOpenMemHandle failed"):
            cuda.open_ipc(handle)
        again = cuda.open_ipc(exporter.allocate(BLOCK, 2))
        assert set(bytes_at(again, BLOCK).tolist()) == {2}
        cuda.close_ipc(again)


def test_memory_of_a_process_that_ended_is_lost(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True), Exporter(SimulatedRig(simulated_cuda)) as exporter:
        address = cuda.open_ipc(exporter.allocate(BLOCK, 1))
        exporter.kill()
        assert set(bytes_at(address, BLOCK).tolist()) == {FREED}
        cuda.close_ipc(address)


def test_memory_that_is_closed_while_it_is_used_is_a_violation(simulated_cuda: SimulatedCuda) -> None:
    rig = SimulatedRig(simulated_cuda)
    with Device(0, True) as device, Stream(device) as stream, DeviceBuffer(256) as buffer, Exporter(rig) as exporter:
        address = cuda.open_ipc(exporter.allocate(BLOCK, 1))
        copy_all([Copy(buffer.address, address, 256)], stream)
        cuda.close_ipc(address)
        (violation,) = simulated_cuda.simulation.take_violations()
        assert "is closed with work in flight" in violation
        with pytest.raises(cuda.CudaError, match="cudaErrorInvalidValue"):
            cuda.close_ipc(address)
        assert "not another process's memory" in simulated_cuda.simulation.take_violations()[0]


def test_whole_blocks_of_another_process_can_be_reached(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, True), Exporter(SimulatedRig(simulated_cuda)) as exporter:
        address = cuda.open_ipc(exporter.allocate(1000, 1))
        assert cuda.address_range(address) == (address, BLOCK)
        assert np.count_nonzero(bytes_at(address, 1000) == 1) == 1000
        cuda.close_ipc(address)
