# SPDX-License-Identifier: Apache-2.0
"""A worker's regions on a GPU: CUDA memory of another process, opened once; host memory, pinned once; refusals in words."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from cuda_rig import CudaRig, Exporter, SimulatedRig, bytes_at, cuda_kind, device
from simulated.fixtures import SimulatedCuda

from penstock.ipc import cuda
from penstock.ipc.errors import CallerError, Code, MachineError, PenstockError
from penstock.ipc.messages import MapRegion, RegionMapped
from penstock.ipc.regions import create_memfd
from penstock.workers.devices.cuda import Device
from penstock.workers.on_gpu.regions import CAUSES, refusal
from penstock.workers.region_table import RegionTable

__all__ = ["cuda_kind", "device"]

SIZE = 2 << 20


@pytest.fixture
def exporter(cuda_kind: CudaRig) -> Iterator[Exporter]:
    with Exporter(cuda_kind) as exporter:
        yield exporter


@pytest.fixture
def table(device: Device) -> Iterator[RegionTable]:
    table = RegionTable(device=device)
    yield table
    table.check_invariants()
    table.close()
    table.check_invariants()


def of_handle(number: int, handle: bytes, byte_size: int = SIZE, offset: int = 0, pid: int = 0) -> MapRegion:
    return MapRegion(number, byte_size, offset, handle=handle, pid=pid, report=True, fds=0)


def refused(table: RegionTable, message: MapRegion) -> RegionMapped:
    """What the table says of a region that it cannot have; requests are told the same."""
    table.map(message, -1)
    table.check_invariants()
    report = table.report(message.region)
    assert report.code
    with pytest.raises(PenstockError) as told:
        table.get(message.region, 0, 1)
    assert (told.value.code.value, told.value.message) == (report.code, report.message)
    table.unmap(message.region)
    return report


# --- CUDA memory -----------------------------------------------------------------------------------------------------------


def test_another_process_s_memory_is_read_and_written_in_place(table: RegionTable, exporter: Exporter) -> None:
    table.map(of_handle(1, exporter.allocate(SIZE, 7)), -1)
    region = table.get(1, 0, SIZE)
    assert (region.space, region.pinned, table.report(1)) == ("device", False, RegionMapped(1))
    found = np.zeros(16, np.uint8)
    region.read(SIZE - 16, found)
    assert found.tolist() == [7] * 16
    region.write(0, np.full(SIZE, 9, np.uint8))
    assert exporter.ask("read") == "9"


def test_regions_of_one_allocation_share_what_is_opened(table: RegionTable, exporter: Exporter) -> None:
    """Given two regions of one handle, then each has its own bytes of it, and it is closed with the second."""
    handle = exporter.allocate(SIZE, 7)
    table.map(of_handle(1, handle, 1024), -1)
    table.map(of_handle(2, handle, 1024, offset=4096), -1)
    first, second = table[1], table[2]
    assert second.address == first.address + 4096
    table.unmap(1)
    assert bytes_at(second.address, 2).tolist() == [7, 7]
    first.close()  # again
    table.unmap(2)
    table.map(of_handle(3, handle), -1)
    assert bytes_at(table[3].address, 2).tolist() == [7, 7]


def test_memory_that_went_with_a_lost_context_is_let_go_of_without_a_word(
    simulated_cuda: SimulatedCuda,
) -> None:
    with Device(0, blocking=True) as device, Exporter(SimulatedRig(simulated_cuda)) as exporter:
        table = RegionTable(device=device)
        table.map(of_handle(1, exporter.allocate(SIZE, 7)), -1)
        table.map(MapRegion(2, 8192), create_memfd("pinned", 8192))
        simulated_cuda.simulation.fail("cudaIpcCloseMemHandle", "cudaErrorIllegalAddress")
        table.close()
        assert (1 in table, 2 in table) == (False, False)


@pytest.mark.parametrize(("byte_size", "offset"), [(SIZE + 1, 0), (SIZE, 1), (1, SIZE)])
def test_a_region_must_lie_within_its_allocation(table: RegionTable, exporter: Exporter, byte_size: int, offset: int) -> None:
    """Given more bytes than there are, first alone and then beside a good region, then that one alone is of use."""
    handle = exporter.allocate(SIZE, 7)
    text = f"has {SIZE} bytes; offset {offset} + byte_size {byte_size} is {offset + byte_size}"
    assert text in refused(table, of_handle(1, handle, byte_size, offset)).message
    table.map(of_handle(2, handle), -1)
    assert text in refused(table, of_handle(3, handle, byte_size, offset)).message
    assert bytes_at(table[2].address, 2).tolist() == [7, 7]


def test_a_handle_of_nothing_is_refused_with_what_to_do(table: RegionTable) -> None:
    report = refused(table, of_handle(1, b"nothing." * 8))
    assert (report.code, report.fault) == ("INVALID_ARG", "caller")
    assert "allocate with CudaRegion.allocate and copy" in report.message


def test_memory_that_its_exporter_freed_is_refused(table: RegionTable, exporter: Exporter) -> None:
    handle = exporter.allocate(SIZE, 7)
    exporter.ask("free")
    assert refused(table, of_handle(1, handle)).fault == "caller"


def test_memory_of_a_process_that_is_dead_is_refused(table: RegionTable, exporter: Exporter) -> None:
    handle = exporter.allocate(SIZE, 7)
    exporter.kill()
    assert refused(table, of_handle(1, handle)).fault == "caller"


def test_a_process_cannot_open_its_own_memory(table: RegionTable, device: Device) -> None:
    """Given memory of this process, then it is refused, by its pid where that is known, else by what the driver says."""
    address = cuda.malloc(SIZE)
    try:
        handle = cuda.ipc_handle(address)
        for pid in (0, os.getpid()):
            report = refused(table, of_handle(1, handle, pid=pid))
            assert (
                "use a memfd or system region, which instances on GPUs pin, or export it from another process" in report.message
            )
    finally:
        cuda.free(address)


def test_a_worker_on_the_cpu_has_no_use_for_cuda_memory() -> None:
    table = RegionTable()
    report = refused(table, of_handle(1, b"h" * 64))
    assert report.code == "UNSUPPORTED" and "instance on the CPU" in report.message
    table.close()


def test_under_wsl_no_handle_is_opened(table: RegionTable, exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = exporter.allocate(SIZE, 7)
    monkeypatch.setattr(cuda, "is_wsl", lambda: True)
    assert "under WSL: use a memfd or system region" in refused(table, of_handle(1, handle)).message


@pytest.mark.parametrize("cause", [*CAUSES, "cudaErrorUnknown"])
@pytest.mark.parametrize("is_mig", [False, True])
def test_every_refusal_names_its_cause_and_a_way_out(cause: str, is_mig: bool) -> None:
    error = refusal(cause, is_mig)
    assert cause in error.message and isinstance(error, CallerError | MachineError)
    assert "use a memfd or system region" in error.message or "CudaRegion.allocate" in error.message
    assert ("MIG" in error.message) is is_mig


def test_an_allocation_on_another_gpu_is_refused(simulated_cuda: SimulatedCuda) -> None:
    """Given a worker on the second of two GPUs, then memory on the first is not what was registered."""
    simulated_cuda.configure(gpus=2)
    rig = SimulatedRig(simulated_cuda)
    with Exporter(rig) as exporter, Device(1, blocking=True) as second:
        table = RegionTable(device=second)
        report = refused(table, of_handle(1, exporter.allocate(SIZE, 7)))
        assert f"does not lie on {second.uuid}" in report.message
        table.close()


def test_when_the_gpu_is_lost_the_worker_does_not_go_on(simulated_cuda: SimulatedCuda) -> None:
    """Given an error after which nothing works, then it is raised, and no region is blamed for it."""
    simulated_cuda.configure(fail="cudaIpcOpenMemHandle:1:cudaErrorIllegalAddress")
    simulated_cuda.forgive()
    with Exporter(SimulatedRig(simulated_cuda)) as exporter:
        handle = exporter.allocate(SIZE, 7)
        table = RegionTable(device=Device(0, blocking=True))
        with pytest.raises(cuda.CudaError, match="cudaErrorIllegalAddress"):
            table.map(of_handle(1, handle), -1)


# --- pinned memory ---------------------------------------------------------------------------------------------------------


def test_host_memory_is_pinned_when_it_is_mapped_and_not_after(simulated_cuda: SimulatedCuda) -> None:
    with Device(0, blocking=True) as device:
        table = RegionTable(device=device)
        table.map(MapRegion(1, 10_000, 100), create_memfd("pinned", 10_100))
        region = table.mapped(1)
        assert (region.space, region.pinned, table.report(1)) == ("pinned", True, RegionMapped(1, pinned=True))
        address = region.address
        assert simulated_cuda.simulation.is_registered(address)
        table.unmap(1)
        assert not simulated_cuda.simulation.is_registered(address)
        table.close()


def test_memory_that_cannot_be_pinned_is_used_as_it_is(simulated_cuda: SimulatedCuda) -> None:
    """Given a limit of what may be pinned, then what is beyond it is mapped, works, and says why it is not pinned."""
    simulated_cuda.configure(pinned=8192)
    with Device(0, blocking=True) as device:
        table = RegionTable(device=device)
        table.map(MapRegion(1, 10_000), create_memfd("large", 10_000))
        region = table.get(1, 0, 10_000)
        assert (region.space, region.pinned) == ("host", False)
        report = table.report(1)
        assert not report.code and not report.pinned and "cudaHostRegister failed" in report.message
        region.write(0, np.ones(10_000, np.uint8))
        table.map(MapRegion(2, 8192), create_memfd("small", 8192))
        assert table[2].pinned
        table.check_invariants()
        table.close()


def test_isolated_memory_is_not_pinned(device: Device) -> None:
    table = RegionTable(isolate=True, device=device)
    table.map(MapRegion(1, 4096, sealed=False), create_memfd("isolated", 4096))
    assert table[1].space == "isolated"
    report = table.report(1)
    assert not report.pinned and not report.code and "--isolate-system-regions" in report.message
    table.close()


def test_a_worker_on_the_cpu_pins_nothing(simulated_cuda: SimulatedCuda) -> None:
    table = RegionTable()
    table.map(MapRegion(1, 4096), create_memfd("plain", 4096))
    assert (table[1].space, table.report(1)) == ("host", RegionMapped(1))
    table.close()


def test_codes_of_refusals_say_whose_fault_it_is() -> None:
    assert refusal("cudaErrorInvalidValue", False).code is Code.INVALID_ARG
    assert refusal("cudaErrorNotSupported", False).code is Code.UNSUPPORTED
    assert isinstance(refusal("cudaErrorNotSupported", False), MachineError)
