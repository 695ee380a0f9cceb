# SPDX-License-Identifier: Apache-2.0
"""TensorRT itself: the only importer of tensorrt, its log, its runtime, and the libraries that bring it more operators.

8.5 to 11 are served through what they have in common, the API by tensor names. Where they differ, what is there is asked for by
its name, never by a version.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from ....ipc.errors import MachineError, ModelError

REASON_LINES = 4
"""So many of the last errors are the reason for a failure: the last one is often only what followed from the first."""


class LogLines:
    """What TensorRT logged: warnings and errors go to this process's error output, and the last of them are kept.

    TensorRT says why something failed in its log only. Its threads log as well; a deque's append is atomic.
    """

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=REASON_LINES)
        self._warnings: deque[str] = deque(maxlen=REASON_LINES)
        self._is_quiet = False

    def __repr__(self) -> str:
        return f"<LogLines, {len(self._errors)} errors kept>"

    def take(self, is_error: bool, text: str) -> None:
        """One line."""
        (self._errors if is_error else self._warnings).append(text.strip())
        if not self._is_quiet:
            sys.stderr.write(f"TensorRT {'error' if is_error else 'warning'}: {text.strip()}\n")

    def forget(self) -> None:
        """Before a call whose failure these lines shall explain."""
        self._errors.clear()
        self._warnings.clear()

    def reason(self, otherwise: str = "TensorRT gives no reason") -> str:
        """The errors since `forget`, oldest first; the warnings where there are none (8.5 only warns of a missing driver)."""
        return "; ".join(dict.fromkeys(self._errors or self._warnings)) or otherwise

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Around a call that may fail without harm."""
        self._is_quiet = True
        try:
            yield
        finally:
            self._is_quiet = False


class Library:
    """The tensorrt package with this process's logger, which TensorRT takes once and keeps until the process ends."""

    def __init__(self, package: Any) -> None:
        self.trt = package
        self.version: str = package.__version__
        self.log = LogLines()
        #: held while an engine is made, which is not thread-safe (Triton: tensorrt_backend, model_state.cc)
        self.loading = threading.Lock()
        self._logger = _logger(package, self.log)
        self._has_plugins = False

    def __repr__(self) -> str:
        return f"<Library TensorRT {self.version}, {self.log!r}>"

    def make_runtime(self) -> Any:
        """A fresh trt.Runtime. Raises MachineError without a usable driver."""
        self.log.forget()
        try:
            return self.trt.Runtime(self._logger)
        except TypeError as error:  # how pybind11 reports that the library gave no object
            raise MachineError(f"TensorRT {self.version} cannot start: {self.log.reason(str(error))}") from error

    def load_plugins(self, paths: Sequence[str]) -> None:
        """Registers TensorRT's own plugins, once, and those of `paths`. Raises ModelError that names the library."""
        if not self._has_plugins:
            self.trt.init_libnvinfer_plugins(self._logger, "")
            self._has_plugins = True
        registry = self.trt.get_plugin_registry()
        for path in paths:
            try:
                ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise ModelError(f"plugin library '{path}' cannot be loaded: {error}") from error
            if hasattr(registry, "load_library"):  # for those that register nothing by being loaded
                with self.log.quietly():  # None, and an error in the log: what it brings is registered already
                    registry.load_library(path)


@cache
def library() -> Library:
    """TensorRT, imported when it is first asked for. Raises MachineError where it is missing, broken or too old.

    What an incomplete removal leaves is imported as an empty package.
    """
    try:
        import tensorrt
    except (ImportError, OSError, RuntimeError) as error:
        raise MachineError(
            "TensorRT plans need NVIDIA's package tensorrt in the environment of the workers, 8.5 or later and of the version "
            f"that built the plan; importing it failed: {error}"
        ) from error
    if not hasattr(getattr(tensorrt, "IExecutionContext", None), "execute_async_v3"):
        version = getattr(tensorrt, "__version__", "of unknown version")
        raise MachineError(f"TensorRT {version} is too old or incomplete: 8.5 is the first with the API by tensor names")
    return Library(tensorrt)


def _logger(trt: Any, lines: LogLines) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # mypy knows no class of it
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 demands it by name

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(trt.ILogger.WARNING):
                lines.take(int(severity) <= int(trt.ILogger.ERROR), msg)

    return Logger()
