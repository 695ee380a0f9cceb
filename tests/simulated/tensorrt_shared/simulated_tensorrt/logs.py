# SPDX-License-Identifier: Apache-2.0
"""Loggers. As with the real ones, the first that a process hands over is the one that everything is said to."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Any

from cuda.bindings import runtime as cudart


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self._is_initialised = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError("a logger must override log")


class Logger(ILogger):
    def __init__(self, min_severity: Severity = Severity.WARNING) -> None:
        super().__init__()
        self.min_severity = min_severity

    def log(self, severity: Severity, msg: str) -> None:
        if severity <= self.min_severity:
            sys.stderr.write(f"[TRT] [{severity.name[0]}] {msg}\n")


class Speaker:
    """Where the package says what happens: the first logger that it was given."""

    def __init__(self) -> None:
        self._logger: Any = None

    def take(self, logger: Any) -> None:
        if not getattr(logger, "_is_initialised", False):
            raise TypeError("tensorrt.ILogger.__init__() must be called when overriding __init__")
        if self._logger is None:
            self._logger = logger
        elif self._logger is not logger:
            self.say(Severity.WARNING, "The logger passed differs from one already registered. Using the existing one.")

    def say(self, severity: Severity, text: str) -> None:
        if self._logger is not None:
            self._logger.log(severity, text)

    def error(self, text: str) -> None:
        self.say(Severity.ERROR, text)


SPEAKER = Speaker()


def require_gpu(severity: Severity) -> None:
    """What a factory does without one: it says so, as seriously as its version takes it, and gives no object."""
    error, count = cudart.cudaGetDeviceCount()
    if error or not count:
        SPEAKER.say(severity, f"CUDA initialization failure with error: {int(error) or 100}")
        raise TypeError("pybind11::init(): factory function returned nullptr")
