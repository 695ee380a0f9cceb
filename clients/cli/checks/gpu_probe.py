# SPDX-License-Identifier: Apache-2.0
"""`python -m penstock.clients.cli.checks.gpu_probe WHAT`: one question about GPUs, answered by one line of JSON.

Each question has a process of its own, which the doctor ends when it takes too long: a driver that hangs, hangs only that.
"""

from __future__ import annotations

import importlib
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from ....ipc import cuda
from ....ipc.errors import PenstockError

EXCHANGED = b"penstock"
"""What one process writes to GPU memory and another reads."""
PINNED_BYTES = 64 << 20


def exchange() -> dict[str, Any]:
    """Whether another process's GPU memory can be opened, and how long that takes."""
    cuda.use(0)
    command = [sys.executable, "-m", f"{__package__}.gpu_probe", "export"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as exporter:
        assert exporter.stdin is not None and exporter.stdout is not None
        answer: dict[str, Any] = msgspec.json.decode(exporter.stdout.readline() or b'{"error": "the exporter died"}')
        if "handle" not in answer:
            return answer
        started_ns = time.perf_counter_ns()
        address = cuda.open_ipc(bytes.fromhex(answer["handle"]))
        opened_ns = time.perf_counter_ns() - started_ns
        content = np.zeros(len(EXCHANGED), np.uint8)
        cuda.copy(content.ctypes.data, address, len(EXCHANGED))
        cuda.close_ipc(address)
    if content.tobytes() != EXCHANGED:
        return {"error": f"the other process wrote {EXCHANGED!r}, and {content.tobytes()!r} arrived"}
    return {"open_us": opened_ns / 1e3}


def export() -> None:
    """The other process of `exchange`: stays until standard input ends."""
    cuda.use(0)
    address = cuda.malloc(cuda.IPC_GRANULE)
    content = np.frombuffer(EXCHANGED, np.uint8)
    cuda.copy(address, content.ctypes.data, len(EXCHANGED))
    _answer({"handle": cuda.ipc_handle(address).hex()})
    sys.stdin.read()
    cuda.free(address)


def pin() -> dict[str, Any]:
    """Whether shared memory can be pinned for the GPU, and how long 64 MiB of it take."""
    cuda.use(0)
    cuda.free(cuda.malloc(cuda.IPC_GRANULE))  # the context is made before the clock runs
    fd = os.memfd_create("penstock-doctor", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, PINNED_BYTES)
        with mmap.mmap(fd, PINNED_BYTES) as mapping:
            memory = np.frombuffer(mapping, np.uint8)
            address = memory.ctypes.data
            started_ns = time.perf_counter_ns()
            cuda.call("cudaHostRegister", address, PINNED_BYTES, 0)
            pinned_ns = time.perf_counter_ns() - started_ns
            cuda.call("cudaHostUnregister", address)
            del memory
    finally:
        os.close(fd)
    return {"ms": pinned_ns / 1e6, "byte_size": PINNED_BYTES}


def mps() -> dict[str, Any]:
    """Whether NVIDIA's program for it is here, and whether a daemon already runs that this process would use."""
    cuda.use(0)
    attribute = cuda.runtime().cudaDeviceAttr.cudaDevAttrMpsEnabled
    program = shutil.which("nvidia-cuda-mps-control")
    return {
        "program": program or "",
        "is_used": bool(cuda.call("cudaDeviceGetAttribute", attribute, 0)),
        "directory": os.environ.get("CUDA_MPS_PIPE_DIRECTORY", ""),
    }


def torch() -> dict[str, Any]:
    """PyTorch, and the CUDA that it was built for."""
    module = importlib.import_module("torch")
    return {
        "version": str(module.__version__),
        "built_for": f"CUDA {module.version.cuda}" if module.version.cuda else "",
        "works": bool(module.cuda.is_available()),
    }


def onnxruntime() -> dict[str, Any]:
    """onnxruntime, and whether it has CUDA's execution provider."""
    module = importlib.import_module("onnxruntime")
    providers = [
        name for name in module.get_available_providers() if name in ("CUDAExecutionProvider", "TensorrtExecutionProvider")
    ]
    return {"version": str(module.__version__), "built_for": ", ".join(providers), "works": bool(providers)}


def tensorrt() -> dict[str, Any]:
    """TensorRT, and whether it can begin on this machine."""
    module = importlib.import_module("tensorrt")
    try:
        works = module.Runtime(module.Logger(module.Logger.ERROR)) is not None
    except TypeError:  # what the bindings raise where the library could not begin; why, it wrote to standard output
        works = False
    return {"version": str(module.__version__), "built_for": "CUDA", "works": works}


QUESTIONS: dict[str, Callable[[], dict[str, Any] | None]] = {
    "exchange": exchange, "export": export, "pin": pin, "mps": mps, "torch": torch, "onnxruntime": onnxruntime,
    "tensorrt": tensorrt,
}  # fmt: skip


def main() -> None:
    """Answers one question; what goes wrong is the answer `error`."""
    try:
        answer = QUESTIONS[sys.argv[1]]()
        if answer is not None:
            _answer(answer)
    except ModuleNotFoundError as error:
        _answer({"missing": str(error.name)})
    except PenstockError as error:
        _answer({"error": error.message})
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises is what the doctor is to report
        _answer({"error": f"{type(error).__name__}: {error}"})


def _answer(document: dict[str, Any]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
