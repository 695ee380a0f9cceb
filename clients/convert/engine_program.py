# SPDX-License-Identifier: Apache-2.0
"""Builds one TensorRT engine, in a process of its own. The only importer of tensorrt among the clients.

    parent --stdin: one line, Order--> this process --stdout: lines, Report--> parent

Nothing else may come out there: what native code or a plugin prints goes to the error output.

A process, because a build takes minutes in native code, which nothing else can interrupt, and so that its GPU memory is gone
when the engine is served. TensorRT 8.5 to 11; what only some of them have is looked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...ipc.processes import die_with_parent
from ..models import TensorInfo
from .engine_orders import Order, Report

_DATATYPES = {
    "FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16", "INT8": "INT8", "UINT8": "UINT8", "INT32": "INT32", "INT64": "INT64",
    "BOOL": "BOOL",
}  # fmt: skip


REASON_LINES = 3
"""So many of the last lines of TensorRT's log are the reason for a failure."""


class BuildError(Exception):
    """There is no engine, and why."""


class Builder:
    """One build, told step by step on standard output."""

    def __init__(self, order: Order, tell: Callable[[str], None]) -> None:
        self._order = order
        self._tell = tell
        #: what TensorRT said of errors, and what it warned of
        self._said: list[str] = []
        self._warned: list[str] = []
        self._trt: Any = None
        #: TensorRT uses both for as long as it runs
        self._logger: Any = None
        self._monitor: Any = None

    def __repr__(self) -> str:
        return f"<Builder of {self._order.plan or 'nothing'}>"

    def check_invariants(self) -> None:
        """A logger belongs to a TensorRT."""
        assert self._logger is None or self._trt is not None, self

    def run(self) -> Report:
        """Builds, or without an order to, only looks. Raises BuildError with what TensorRT says, however it says it."""
        try:
            return self._run()
        except BuildError:
            raise
        except Exception as error:
            raise BuildError(f"{type(error).__name__}: {self._reason(str(error))}") from error

    def _run(self) -> Report:
        try:
            import tensorrt
        except (ImportError, OSError) as error:
            raise BuildError(f"TensorRT is not installed: {error}; pip install tensorrt") from error
        self._trt = tensorrt
        self._logger = self._make_logger()
        try:
            builder = tensorrt.Builder(self._logger)
        except TypeError as error:  # pybind11: the factory returned nothing; the reason is in the log
            raise BuildError(f"TensorRT {tensorrt.__version__} finds no GPU: {self._reason(str(error))}") from error
        if not self._order.onnx:
            return Report(version=tensorrt.__version__, has_fp16_flag=hasattr(tensorrt.BuilderFlag, "FP16"))
        tensorrt.init_libnvinfer_plugins(self._logger, "")
        network = builder.create_network(self._network_flags())
        parser = tensorrt.OnnxParser(network, self._logger)
        self._tell("parsing")
        if not parser.parse_from_file(self._order.onnx):
            raise BuildError(self._parser_errors(parser))
        config = self._configured(builder)
        self._tell("building")
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(f"the engine was not built: {self._reason('TensorRT says nothing')}")
        Path(self._order.plan).write_bytes(memoryview(plan))
        self._keep_timings(config)
        return Report(
            version=tensorrt.__version__, has_fp16_flag=hasattr(tensorrt.BuilderFlag, "FP16"),
            inputs=self._tensors([network.get_input(index) for index in range(network.num_inputs)]),
            outputs=self._tensors([network.get_output(index) for index in range(network.num_outputs)]),
        )  # fmt: skip

    def _network_flags(self) -> int:
        """Explicit batches, which are all there is since 10; 11 has no word for it."""
        explicit = getattr(self._trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        return 0 if explicit is None else 1 << int(explicit)

    def _configured(self, builder: Any) -> Any:
        order, trt = self._order, self._trt
        config = builder.create_builder_config()
        if order.workspace_bytes:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_bytes)
        if order.halves:
            if not hasattr(trt.BuilderFlag, "FP16"):
                raise BuildError(f"TensorRT {trt.__version__} has no FP16 flag: the ONNX file itself must be in fp16")
            config.set_flag(trt.BuilderFlag.FP16)
        for ranges in order.profiles:
            profile = builder.create_optimization_profile()
            for name, (least, best, most) in ranges.items():
                profile.set_shape(name, least, best, most)
            if config.add_optimization_profile(profile) < 0:
                raise BuildError(f"TensorRT takes no profile of {ranges}: {self._reason('it does not say why')}")
        if order.timing_cache:
            self._use_timings(config)
        if hasattr(trt, "IProgressMonitor"):
            self._monitor = self._make_monitor()
            config.progress_monitor = self._monitor
        return config

    def _use_timings(self, config: Any) -> None:
        """The file's, as far as they are of this TensorRT and this GPU."""
        path = Path(self._order.timing_cache)
        content = path.read_bytes() if path.exists() else b""
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            self._tell(f"timing cache {path} is of another TensorRT or another GPU, and is replaced")
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def _keep_timings(self, config: Any) -> None:
        if not self._order.timing_cache:
            return
        path = Path(self._order.timing_cache)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_bytes(memoryview(config.get_timing_cache().serialize()))
        beside.replace(path)

    def _tensors(self, tensors: Sequence[Any]) -> tuple[TensorInfo, ...]:
        found = []
        for tensor in tensors:
            datatype = _DATATYPES.get(tensor.dtype.name)
            if datatype is None:
                raise BuildError(f"tensor '{tensor.name}' is {tensor.dtype.name}, which no datatype holds")
            found.append(TensorInfo(tensor.name, datatype, tuple(int(dim) for dim in tensor.shape)))
        return tuple(found)

    def _parser_errors(self, parser: Any) -> str:
        lines = []
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            node = f"{error.node_operator()} {error.node_name()}" if hasattr(error, "node_name") else f"node {error.node()}"
            lines.append(f"{node.strip()}: {error.desc()}")
        return "the ONNX file cannot be parsed: " + ("; ".join(lines) or self._reason("the parser says nothing"))

    def _reason(self, otherwise: str) -> str:
        """The last errors; without any, the last warnings: of a missing driver 8.5 only warns."""
        return "; ".join((self._said or self._warned)[-REASON_LINES:]) or otherwise

    def _make_logger(self) -> Any:
        trt, said, warned = self._trt, self._said, self._warned

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]  # tensorrt ships no types
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                    said.append(text.strip())
                elif severity == trt.ILogger.WARNING:
                    warned.append(text.strip())

        return Logger()

    def _make_monitor(self) -> Any:
        trt, tell = self._trt, self._tell

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]  # tensorrt ships no types
            """Tells of the outermost phases; the inner ones come too often for anybody to read."""

            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)
                self._outer: dict[str, int] = {}
                self._told: dict[str, int] = {}

            def phase_start(self, name: str, parent: str | None, steps: int) -> None:
                if parent is None:
                    self._outer[name] = steps

            def step_complete(self, name: str, step: int) -> bool:
                steps = self._outer.get(name)
                if steps:
                    tenth = 10 * (step + 1) // steps
                    if tenth != self._told.get(name):
                        self._told[name] = tenth
                        tell(f"{name}: {10 * tenth} %")
                return True

            def phase_finish(self, name: str) -> None:
                self._outer.pop(name, None)

        return Monitor()


def main(parent: int) -> int:
    """One order, to its end."""
    die_with_parent(parent)
    with os.fdopen(os.dup(1), "wb", buffering=0) as reports:
        os.dup2(2, 1)

        def say(report: Report) -> None:
            reports.write(msgspec.json.encode(report) + b"\n")

        order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
        try:
            report = Builder(order, lambda step: say(Report(step=step))).run()
        except BuildError as error:
            report = Report(error=str(error))
        say(report)
    return 1 if report.error else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
