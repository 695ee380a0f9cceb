# SPDX-License-Identifier: Apache-2.0
"""GPUs: which there are, and what can be done with them. Everything is asked in processes of their own (gpu_probe.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from ....ipc.gpus import Gpus, decode_gpus
from ..rendering import memory
from .finding import Finding, Verdict

LIMIT_S = 30.0
"""How long one question may take: CUDA begins in well under a second, or with many GPUs in several; torch loads in several."""
SURVEY, PROBE = "penstock.workers.survey", "penstock.clients.cli.checks.gpu_probe"
ENDS_WITHIN_S = 1.0
SLOW_PINNING_S_PER_GB = 1.0
"""Pinning runs at about 0.1 s per GB where nothing is wrong."""

LIBRARIES = (
    ("TensorRT", "tensorrt", "TensorRT plans", "pip install tensorrt"),
    ("PyTorch on CUDA", "torch", "TorchScript models on a GPU", "pip install 'penstock[torch]'"),
    ("onnxruntime on CUDA", "onnxruntime", "ONNX models on a GPU", "pip install onnxruntime-gpu (in place of onnxruntime)"),
)
"""(title, question, what it is for, how to get it)."""

Answer = Mapping[str, Any]


def gpus() -> Iterator[Finding]:
    """GPU: the driver, each GPU, and if there is one what it takes to use it."""
    found = _survey()
    yield from judge_gpus(found)
    if not found.found:
        return
    yield judge_exchange(ask("exchange"), any(gpu.is_mig for gpu in found.found))
    yield judge_pinning(ask("pin"))
    yield judge_mps(ask("mps"))
    for title, question, purpose, fix in LIBRARIES:
        yield judge_library(title, ask(question), purpose, fix)


def judge_gpus(gpus: Gpus) -> Iterator[Finding]:
    """One line where there is none; else one for the driver and one for each GPU."""
    if not gpus.found:
        fix = "serve KIND_GPU models on the CPU with --fallback cpu"
        yield Finding("GPU", Verdict.OK, f"none: {gpus.reason}", "KIND_GPU models cannot be loaded, everything else can", fix)
        return
    yield Finding("CUDA", Verdict.OK, f"the driver supports CUDA {gpus.driver}; cuda-python brings {gpus.runtime}")
    for gpu in gpus.found:
        found = f"{gpu.name}, {memory(gpu.total_bytes)}, compute capability {'.'.join(map(str, gpu.capability))}, {gpu.uuid}"
        consequence = "a slice of a GPU (MIG): CUDA memory cannot be shared with other slices" if gpu.is_mig else ""
        yield Finding(f"GPU {gpu.ordinal}", Verdict.OK, found, consequence)


def judge_exchange(answer: Answer, has_mig: bool) -> Finding:
    """CUDA regions are memory of one process that another opens."""
    what = "CUDA memory between processes"
    if "open_us" in answer:
        return Finding(what, Verdict.OK, f"another process's memory was opened in {answer['open_us']:.0f} us and read")
    fix = "use system or memfd regions; in a container share the IPC and PID namespaces: --ipc=host --pid=host"
    if has_mig:
        fix = "use system or memfd regions, or one slice for client and model"
    return Finding(what, Verdict.WARNING, _why(answer), "CUDA regions cannot be used: the data goes through host memory", fix)


def judge_pinning(answer: Answer) -> Finding:
    """Regions are pinned by each worker, so that the GPU reads and writes them itself."""
    what = "pinned shared memory"
    if "ms" not in answer:
        consequence = "each request is copied once more, through a buffer of the worker"
        fix = "raise the memory limit of the container, or see what the driver logs (dmesg)"
        return Finding(what, Verdict.WARNING, _why(answer), consequence, fix)
    per_gb = answer["ms"] / 1e3 / (answer["byte_size"] / 1e9)
    found = f"{memory(answer['byte_size'])} in {answer['ms']:.1f} ms ({per_gb:.2f} s per GB)"
    if per_gb > SLOW_PINNING_S_PER_GB:
        consequence = "registering a region takes so long, and the driver serves nobody else meanwhile"
        return Finding(what, Verdict.NOTE, found, consequence, "register few large regions, and early")
    return Finding(what, Verdict.OK, found)


def judge_mps(answer: Answer) -> Finding:
    """With MPS the kernels of several processes overlap on a GPU."""
    if "program" not in answer:
        return Finding(
            "MPS", Verdict.WARNING, _why(answer), "whether workers can share a GPU well is not known", "see nvidia-smi"
        )
    if answer["is_used"]:
        where = answer["directory"] or "its default directory"
        return Finding("MPS", Verdict.OK, f"a daemon runs ({where}), and programs started here use it")
    if answer["directory"]:
        consequence = "programs started here run without MPS, and silently"
        fix = "start nvidia-cuda-mps-control -d with the same directory, or unset CUDA_MPS_PIPE_DIRECTORY"
        return Finding(
            "MPS", Verdict.WARNING, f"CUDA_MPS_PIPE_DIRECTORY is {answer['directory']}, and no daemon answers", consequence, fix
        )
    if answer["program"]:
        return Finding("MPS", Verdict.OK, f"{answer['program']}; a broker starts it where workers share a GPU (--mps)")
    consequence = "workers that share a GPU take turns on it; lanes in one worker do not need MPS"
    return Finding(
        "MPS", Verdict.NOTE, "no nvidia-cuda-mps-control", consequence, "install it with the driver's utilities, or use lanes"
    )


def judge_library(title: str, answer: Answer, purpose: str, fix: str) -> Finding:
    """Libraries that models on a GPU may need. None is required."""
    if "missing" in answer:
        return Finding(title, Verdict.OK, "not installed", f"for {purpose}", fix)
    if "version" not in answer:
        return Finding(title, Verdict.WARNING, _why(answer), f"no {purpose}", fix)
    if answer["works"]:
        return Finding(title, Verdict.OK, f"{answer['version']} ({answer['built_for']})")
    if not answer["built_for"]:
        return Finding(title, Verdict.NOTE, f"{answer['version']}, built without CUDA", f"no {purpose}", fix)
    consequence = f"no {purpose}: it finds no GPU that it can use"
    return Finding(
        title, Verdict.WARNING, f"{answer['version']} ({answer['built_for']})", consequence, "a build for this driver's CUDA"
    )


def ask(question: str, limit_s: float = LIMIT_S) -> Answer:
    """The probe's answer; what keeps it from answering is one too, under `error`."""
    try:
        return dict(msgspec.json.decode(_last_line([PROBE, question], limit_s)))
    except (OSError, ValueError) as error:
        return {"error": str(error)}


def _survey() -> Gpus:
    try:
        return decode_gpus(_last_line([SURVEY], LIMIT_S))
    except (OSError, ValueError) as error:
        return Gpus(reason=f"GPUs could not be looked for: {error}")


def _last_line(words: list[str], limit_s: float) -> bytes:
    """What a module of ours says last. One that hangs is ended, with what it started. Raises OSError, ValueError."""
    command = [sys.executable, "-m", *words]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        said, complained = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise ValueError(f"no answer within {limit_s:g} s: the driver hangs, or is very slow") from None
    finally:
        _end(process)
    if process.returncode:
        last = complained.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ValueError(f"the process that was to find out ended with status {process.returncode}{': ' if last else ''}{last}")
    return said.strip().rpartition(b"\n")[2]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends what has not ended by itself. What hangs in the kernel cannot be ended, and is not waited for."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=ENDS_WITHIN_S)


def _why(answer: Answer) -> str:
    return str(answer.get("error") or f"{answer.get('missing', 'something')} is not installed")
