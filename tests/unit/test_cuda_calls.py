# SPDX-License-Identifier: Apache-2.0
"""Calls of CUDA: errors that name call and cause, and what is said where there is no CUDA."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from simulated.fixtures import SimulatedCuda

from penstock.ipc import cuda, gpus
from penstock.ipc.errors import Code, MachineError


def test_an_error_names_the_call_and_the_cause(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(memory=1 << 20)
    with pytest.raises(cuda.CudaError) as failed:
        cuda.malloc(2 << 20)
    assert str(failed.value) == "INTERNAL: cudaMalloc failed: cudaErrorMemoryAllocation (out of memory)"
    assert (failed.value.call, failed.value.cause) == ("cudaMalloc", "cudaErrorMemoryAllocation")
    assert not failed.value.is_sticky and isinstance(failed.value, MachineError)
    assert cuda.runtime().cudaGetLastError()[0] == 0  # nobody finds it there later and takes it for another's


def test_an_error_of_the_driver_api_is_told_alike(simulated_cuda: SimulatedCuda) -> None:
    with pytest.raises(cuda.CudaError, match="cuMemGetAddressRange failed: CUDA_ERROR_INVALID_VALUE"):
        cuda.address_range(12345)


@pytest.mark.parametrize(
    "cause", ["cudaErrorIllegalAddress", "cudaErrorLaunchFailure", "cudaErrorECCUncorrectable", "cudaErrorAssert"]
)
def test_after_some_errors_the_context_is_lost(simulated_cuda: SimulatedCuda, cause: str) -> None:
    simulated_cuda.simulation.fail("cudaMemset", cause)
    for name, arguments in (("cudaMemset", (1, 0, 1)), ("cudaMalloc", (1,)), ("cudaDeviceSynchronize", ())):
        with pytest.raises(cuda.CudaError) as failed:
            cuda.call(name, *arguments)
        assert failed.value.is_sticky and failed.value.cause == cause


def test_results_come_as_nothing_one_or_several(simulated_cuda: SimulatedCuda) -> None:
    assert cuda.check("cudaFree", (0,)) is None
    assert cuda.check("cudaMalloc", (0, 5)) == 5
    assert cuda.check("cudaMemGetInfo", (0, 5, 6)) == (5, 6)
    assert cuda.bound("cudaGetDeviceCount")() == 1
    with pytest.raises(cuda.CudaError, match="cudaSetDevice failed: cudaErrorInvalidDevice"):
        cuda.bound("cudaSetDevice")(7)


def test_devices_are_described(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(gpus=2, mig=1)
    first, second = cuda.gpus()
    assert first.is_simulated and first.is_mig and not first.is_integrated
    assert first.uuid == "MIG-73696d75-6c61-7465-642d-6770752d3030" != second.uuid
    assert (second.ordinal, second.pci_bus_id, second.capability) == (1, "0000:02:00.0", (9, 0))
    assert cuda.gpu_of_uuid(second.uuid) == second
    with pytest.raises(MachineError, match=f"no GPU GPU-5 is visible to this process, which sees 0: {first.uuid}, 1: "):
        cuda.gpu_of_uuid("GPU-5")


def test_a_driver_without_a_gpu_is_no_cuda(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.configure(gpus=0)
    assert not cuda.is_present()
    with pytest.raises(cuda.CudaUnavailable, match="no usable NVIDIA GPU or driver: cudaGetDeviceCount says cudaErrorNoDevice"):
        cuda.gpus()


def test_a_driver_that_does_not_work_is_no_cuda_and_says_why(simulated_cuda: SimulatedCuda) -> None:
    simulated_cuda.simulation.fail("cudaGetDeviceCount", "cudaErrorSystemDriverMismatch", lasts=True)
    assert not cuda.is_present()
    with pytest.raises(cuda.CudaUnavailable, match=r"cudaGetDeviceCount says cudaErrorSystemDriverMismatch \(system has"):
        cuda.gpus()


def test_without_cuda_python_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a Python without the package
    for name in [name for name in sys.modules if name.split(".")[0] == "cuda"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cuda", None)
    cuda.runtime.cache_clear()
    cuda.driver.cache_clear()
    # When anything of it is used, then there is one sentence
    assert not cuda.is_present()
    for use in (cuda.gpus, lambda: cuda.address_range(1), lambda: cuda.malloc(1)):
        with pytest.raises(cuda.CudaUnavailable, match=r"CUDA needs cuda-python: .*; pip install 'penstock\[gpu\]'") as failed:
            use()
        assert failed.value.code is Code.UNAVAILABLE


def test_without_a_driver_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_loaded(address: int) -> NoReturn:
        """As cuda-python behaves where libcuda.so.1 cannot be loaded."""
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(cuda, "driver", lambda: SimpleNamespace(cuMemGetAddressRange=not_loaded))
    with pytest.raises(cuda.CudaUnavailable, match=r"this machine has no NVIDIA driver: Failed to dlopen libcuda\.so\.1"):
        cuda.address_range(1)


def test_the_real_package_without_a_driver_is_no_cuda() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    if Path("/dev/nvidiactl").exists() or gpus.is_wsl():
        pytest.skip("this machine has a driver")
    assert not cuda.is_present()
    for use in (cuda.gpus, lambda: cuda.address_range(1), lambda: cuda.malloc(1), lambda: cuda.open_ipc(bytes(64))):
        with pytest.raises(cuda.CudaUnavailable, match="this machine has no"):
            use()


@pytest.mark.parametrize(
    ("name", "is_mig"), [("NVIDIA H100 80GB HBM3 MIG 1g.10gb", True), ("NVIDIA H100 80GB HBM3", False), ("MIGHTY", False)]
)
def test_a_slice_of_a_gpu_is_known_by_its_name(name: str, is_mig: bool) -> None:
    assert gpus.is_mig_name(name) is is_mig


def test_windows_underneath_is_known_by_the_kernel_or_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    for version, is_wsl in (("Linux version 5.15.0-microsoft-standard-WSL2", True), ("Linux version 6.8.0-generic", False)):
        monkeypatch.setattr(Path, "read_text", lambda path, encoding, version=version: version)
        assert gpus.is_wsl() is is_wsl
