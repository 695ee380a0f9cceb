# SPDX-License-Identifier: Apache-2.0
"""Having TensorRT engines built by the process that `engine_program.py` is."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable

import msgspec

from ...ipc.errors import Code, MachineError, ModelError
from .engine_orders import Order, Report

PROGRAM = "penstock.clients.convert.engine_program"


def look() -> Report:
    """The version of TensorRT and what it has. Raises MachineError where there is none, or no GPU."""
    report = _run(Order(), lambda _step: None)
    if report.error:
        raise MachineError(f"trt: {report.error}", Code.UNSUPPORTED)
    return report


def build(order: Order, say: Callable[[str], None]) -> Report:
    """Builds; `say` hears of its progress. Raises ModelError with what TensorRT says. Interrupted, it is killed."""
    report = _run(order, say)
    if report.error:
        raise ModelError(f"trt: {report.error}", Code.UNSUPPORTED)
    return report


def _run(order: Order, say: Callable[[str], None]) -> Report:
    command = [sys.executable, "-m", PROGRAM, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended before it heard of anything
                process.stdin.write(msgspec.json.encode(order) + b"\n")
                process.stdin.flush()
            for line in process.stdout:
                report = msgspec.json.decode(line, type=Report)
                if report.error or report.version:
                    return report
                say(f"trt: {report.step}")
            return Report(error=f"the builder {_end_of(process.wait())} before it was done")
        except BaseException:
            process.kill()
            raise


def _end_of(code: int) -> str:
    """What became of a process with this exit code; signal 9 is often the kernel's, for want of memory."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
