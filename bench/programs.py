# SPDX-License-Identifier: Apache-2.0
"""Several client programs (load.py) that start together, and one row of figures for what they measured together."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from measurement import Row, percentiles_us
from server import Server

PROGRAM = Path(__file__).with_name("load.py")
SEEDS_APART = 1000


class Clients:
    """`count` client processes with `in_flight` requests each; warmed up when the constructor returns."""

    def __init__(
        self,
        server: Server,
        link: str,
        model: str,
        count: int = 1,
        in_flight: int = 1,
        batch: int = 1,
        onnx: Path | None = None,
    ) -> None:
        self.server = server
        self.facts: Row = {
            "link": link,
            "concurrency": count * in_flight,
            "clients": count,
            "in_flight": in_flight,
            "batch": batch,
        }
        options = ["--batch", str(batch), "--in-flight", str(in_flight), *(["--onnx", str(onnx)] if onnx else [])]
        command = [sys.executable, str(PROGRAM), server.links[link], model, *options, "--seed"]
        self.processes = [
            subprocess.Popen([*command, str(number * SEEDS_APART)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for number in range(count)
        ]
        ready = [self._answer(process) for process in self.processes]
        self.facts |= ready[0]

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self.processes:
            process.communicate()  # end of file ends it

    def measure(self, seconds: float) -> Row:
        """Loads the broker from all processes at once; one row of figures."""
        with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
            files = [Path(folder, f"{number}.npy") for number in range(len(self.processes))]
            before = self.server.cpu_ns()
            for process, file in zip(self.processes, files, strict=True):
                assert process.stdin is not None
                process.stdin.write(f"run {seconds} {file}\n")
                process.stdin.flush()
            answers = [self._answer(process) for process in self.processes]
            after = self.server.cpu_ns()
            latencies = np.concatenate([np.load(file) for file in files])
        requests = len(latencies)
        cpu_ns = {name: after[name] - before[name] for name in before} | {"client": sum(answer["cpu_ns"] for answer in answers)}
        elapsed_ns = max(answer["elapsed_ns"] for answer in answers)
        row = self.facts | {"requests_per_s": round(requests / elapsed_ns * 1e9, 1)} | percentiles_us(latencies)
        return row | {f"{name}_cpu_us": round(used / requests / 1e3, 2) for name, used in cpu_ns.items()}

    def _answer(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"a client ended with exit code {process.wait()}; its reason is above")
        answer: dict[str, Any] = json.loads(line)
        return answer
