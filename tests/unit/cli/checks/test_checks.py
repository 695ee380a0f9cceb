# SPDX-License-Identifier: Apache-2.0
"""What `penstock doctor` makes of what it measures. The measuring itself is run by tests/process/test_doctor.py."""

from __future__ import annotations

import os
import re
import resource
import stat
from importlib import metadata

import pytest

from penstock.clients.cli.checks import broker, gpu, limits, machine, memory, software
from penstock.clients.cli.checks.finding import Finding, Verdict, examine
from penstock.ipc.gpus import GpuInfo, Gpus

MIB = 1024 * 1024


def directory_of(uid: int, mode: int) -> os.stat_result:
    """What lstat would say of it."""
    return os.stat_result((mode, 1, 1, 2, uid, 0, 0, 0, 0, 0))


def library(**answer: object) -> Finding:
    """What is said of a library that answered so."""
    return gpu.judge_library("PyTorch on CUDA", answer, "TorchScript models on a GPU", "pip install torch")


CASES = [
    (machine.judge_python("CPython", (3, 11, 7), "linux"), Verdict.OK, "CPython 3.11.7"),
    (machine.judge_python("CPython", (3, 9, 1), "linux"), Verdict.PROBLEM, "3.9.1"),
    (machine.judge_python("PyPy", (3, 11, 0), "linux"), Verdict.PROBLEM, "PyPy"),
    (machine.judge_python("CPython", (3, 11, 7), "darwin"), Verdict.PROBLEM, "darwin"),
    (machine.judge_python("CPython", (3, 14, 0), "linux"), Verdict.NOTE, "3.14.0"),
    (machine.judge_kernel("6.8.0-31-generic", "", ""), Verdict.OK, "SO_PEERPIDFD"),
    (machine.judge_kernel("5.15.0", "", ""), Verdict.OK, "no SO_PEERPIDFD"),
    (machine.judge_kernel("4.19.0", "", "Function not implemented"), Verdict.PROBLEM, "pidfd_open: Function not implemented"),
    (machine.judge_kernel("6.8.0", "Operation not permitted", ""), Verdict.PROBLEM, "memfd_create: Operation not permitted"),
    (machine.judge_cores(8, 8, None), Verdict.OK, "8 of 8"),
    (machine.judge_cores(8, 64, 8.0), Verdict.OK, "a quota of 8"),
    (machine.judge_cores(8, 8, 2.5), Verdict.WARNING, "a quota of 2.5"),
    (machine.judge_cores(1, 8, None), Verdict.NOTE, "1 of 8"),
    (machine.judge_numa(1), Verdict.OK, "one node"),
    (machine.judge_numa(2), Verdict.NOTE, "2 nodes"),
    (memory.judge_shared_memory(8192 * MIB, 8000 * MIB, ""), Verdict.OK, "7.8 GiB free of 8.0 GiB"),
    (memory.judge_shared_memory(64 * MIB, 64 * MIB, ""), Verdict.WARNING, "64.0 MiB free"),
    (memory.judge_shared_memory(0, 0, "No such file or directory"), Verdict.WARNING, "No such file"),
    (memory.judge_main_memory(4096 * MIB), Verdict.OK, "4.0 GiB"),
    (memory.judge_main_memory(512 * MIB), Verdict.WARNING, "512.0 MiB"),
    (memory.judge_locked_memory(resource.RLIM_INFINITY), Verdict.OK, "unlimited"),
    (limits.judge_user(1000), Verdict.OK, "uid 1000"),
    (limits.judge_user(0), Verdict.NOTE, "root"),
    (limits.judge_descriptors(1024), Verdict.WARNING, "1024"),
    (limits.judge_descriptors(resource.RLIM_INFINITY), Verdict.OK, "unlimited"),
    (limits.judge_processes(64), Verdict.WARNING, "64"),
    (limits.judge_processes(4096), Verdict.OK, "4096"),
    (gpu.judge_exchange({"open_us": 140.2}, has_mig=False), Verdict.OK, "opened in 140 us"),
    (gpu.judge_exchange({"error": "invalid argument"}, has_mig=False), Verdict.WARNING, "invalid argument"),
    (gpu.judge_exchange({"missing": "cuda"}, has_mig=True), Verdict.WARNING, "cuda is not installed"),
    (gpu.judge_pinning({"ms": 6.7, "byte_size": 64 * MIB}), Verdict.OK, "64.0 MiB in 6.7 ms (0.10 s per GB)"),
    (gpu.judge_pinning({"ms": 670.0, "byte_size": 64 * MIB}), Verdict.NOTE, "9.98 s per GB"),
    (gpu.judge_pinning({"error": "no answer within 30 s"}), Verdict.WARNING, "no answer within 30 s"),
    (gpu.judge_mps({"program": "/bin/x", "is_used": False, "directory": ""}), Verdict.OK, "a broker starts it"),
    (gpu.judge_mps({"program": "/bin/x", "is_used": True, "directory": "/run/mps"}), Verdict.OK, "a daemon runs (/run/mps)"),
    (gpu.judge_mps({"program": "", "is_used": True, "directory": ""}), Verdict.OK, "its default directory"),
    (gpu.judge_mps({"program": "/bin/x", "is_used": False, "directory": "/run/mps"}), Verdict.WARNING, "no daemon answers"),
    (gpu.judge_mps({"program": "", "is_used": False, "directory": ""}), Verdict.NOTE, "no nvidia-cuda-mps-control"),
    (gpu.judge_mps({"error": "no answer within 30 s"}), Verdict.WARNING, "no answer"),
    (library(version="2.11", built_for="CUDA 13.0", works=True), Verdict.OK, "2.11 (CUDA 13.0)"),
    (library(version="2.11", built_for="CUDA 13.0", works=False), Verdict.WARNING, "2.11 (CUDA 13.0)"),
    (library(version="2.11+cpu", built_for="", works=False), Verdict.NOTE, "built without CUDA"),
    (library(missing="torch"), Verdict.OK, "not installed"),
    (library(error="ImportError: libcudart.so.13"), Verdict.WARNING, "libcudart.so.13"),
    (broker.judge_directory("/run/x", None, 40, 1000), Verdict.OK, "will be made"),
    (broker.judge_directory("/run/x", directory_of(1000, stat.S_IFDIR | 0o700), 40, 1000), Verdict.OK, "/run/x"),
    (broker.judge_directory("/run/x", directory_of(1000, stat.S_IFDIR | 0o755), 40, 1000), Verdict.PROBLEM, "755"),
    (broker.judge_directory("/run/x", directory_of(0, stat.S_IFDIR | 0o700), 40, 1000), Verdict.PROBLEM, "not a directory of uid"),
    (broker.judge_directory("/run/x", directory_of(1000, stat.S_IFREG | 0o600), 40, 1000), Verdict.PROBLEM, "not a directory"),
    (broker.judge_directory("/run/x", None, 108, 1000), Verdict.PROBLEM, "108 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("finding", "verdict", "text"), CASES, ids=lambda value: getattr(value, "found", None))
def test_what_is_found_has_a_verdict_and_what_is_wrong_a_consequence_and_a_fix(
    finding: Finding, verdict: Verdict, text: str
) -> None:
    assert finding.verdict is verdict
    assert text in finding.found
    if verdict is not Verdict.OK:
        assert finding.consequence and finding.fix


def test_a_machine_without_a_gpu_gets_one_line_and_one_with_them_a_line_each() -> None:
    (none,) = gpu.judge_gpus(Gpus(reason="there is no driver"))
    assert (none.verdict, none.found) == (Verdict.OK, "none: there is no driver")
    assert "--fallback cpu" in none.fix
    whole = GpuInfo(0, "GPU-1", "NVIDIA H100 80GB HBM3", 80 << 30, (9, 0), "0000:01:00.0", False, False)
    part = GpuInfo(1, "MIG-2", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10 << 30, (9, 0), "0000:02:00.0", True, False)
    driver, first, second = gpu.judge_gpus(Gpus((whole, part), "", "13.0", "13.0"))
    assert "CUDA 13.0" in driver.found
    assert first.found == "NVIDIA H100 80GB HBM3, 80.0 GiB, compute capability 9.0, GPU-1" and not first.consequence
    assert "MIG" in second.consequence


def test_a_question_that_is_not_answered_in_time_is_ended_and_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a driver that hangs, here a module that only waits
    monkeypatch.setattr(gpu, "PROBE", "http.server")
    answer = gpu.ask("0", limit_s=0.2)
    assert "no answer within 0.2 s" in answer["error"]
    # And one that dies
    monkeypatch.setattr(gpu, "PROBE", "no_such_module")
    assert "ended with status 1" in gpu.ask("x")["error"] and "no_such_module" in gpu.ask("x")["error"]


def test_a_check_that_fails_is_a_finding_itself() -> None:
    # Given a machine on which something cannot even be asked
    def check() -> list[Finding]:
        """Locked memory: how much."""
        raise PermissionError("no /proc here")

    # When it is looked at, then that is what is said
    (finding,) = examine(check)
    assert (finding.what, finding.verdict) == ("locked memory", Verdict.WARNING)
    assert "no /proc here" in finding.found


def test_a_socket_where_nobody_answers_is_told_from_none_and_from_a_broker() -> None:
    def hangs() -> int:
        raise TimeoutError("nobody answered")

    assert broker.judge_answer("broker", "/run/x", False, hangs).found == "none runs at /run/x"
    assert broker.judge_answer("broker", "/run/x", True, lambda: 7).found == "process 7 answers at /run/x"
    silent = broker.judge_answer("broker", "/run/x", True, hangs)
    assert silent.verdict is Verdict.WARNING
    assert "TimeoutError: nobody answered" in silent.found


def test_what_must_import_is_required_and_what_is_optional_comes_with_its_extra() -> None:
    required = metadata.requires("penstock") or []
    always = {line.split(">=")[0] for line in required if "extra ==" not in line}
    assert {distribution for distribution, _, _ in software.NEEDED} - {"penstock"} <= always
    for distribution, _, fix in software.OPTIONAL:
        (extra,) = re.findall(r"^pip install 'penstock\[(\w+)\]'$", fix)
        assert distribution not in always
        assert any(line.startswith(distribution) and line.endswith(f'extra == "{extra}"') for line in required)
