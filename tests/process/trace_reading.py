# SPDX-License-Identifier: Apache-2.0
"""Reads trace files as Triton's trace_summary.py does: what each request went through, and how long that took."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

SPANS = {
    "request": ("REQUEST_START", "REQUEST_END"),
    "queue": ("QUEUE_START", "COMPUTE_START"),
    "compute input": ("COMPUTE_START", "COMPUTE_INPUT_END"),
    "compute infer": ("COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"),
    "compute output": ("COMPUTE_OUTPUT_START", "COMPUTE_END"),
}
HTTP_SPANS = {
    "infer": ("HTTP_RECV_START", "HTTP_SEND_END"),
    "receive": ("HTTP_RECV_START", "HTTP_RECV_END"),
    "send": ("HTTP_SEND_START", "HTTP_SEND_END"),
}
GRPC_SPANS = {
    "infer": ("GRPC_WAITREAD_START", "GRPC_SEND_END"),
    "receive": ("GRPC_WAITREAD_START", "GRPC_WAITREAD_END"),
    "send": ("GRPC_SEND_START", "GRPC_SEND_END"),
}


class ReadTrace:
    """One request's."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.about: dict[str, Any] = {}  # the model, its version, the request's id
        self.at: dict[str, int] = {}  # timestamps
        self.tensors: list[tuple[str, dict[str, str]]] = []  # activity, tensor

    def __repr__(self) -> str:
        return f"<ReadTrace {self.number} of {self.about}: {list(self.at)}>"

    @property
    def protocol(self) -> str:
        return "http" if "HTTP_RECV_START" in self.at else "grpc" if "GRPC_WAITREAD_START" in self.at else ""

    def spans(self) -> dict[str, int]:
        """What took how long, in ns. Fails where something is missing, or ended before it began."""
        frontend = {"http": HTTP_SPANS, "grpc": GRPC_SPANS}[self.protocol]
        found = {name: self.at[end] - self.at[start] for name, (start, end) in {**SPANS, **frontend}.items()}
        assert all(span >= 0 for span in found.values()), self
        assert found["infer"] >= found["receive"] + found["request"] + found["send"], self
        assert found["request"] >= sum(found[name] for name in SPANS if name != "request"), self
        return found


def read_traces(*paths: Path) -> list[ReadTrace]:
    """Those in these files, by id. Fails for what is no trace file, and for an id that two of them have."""
    traces: dict[int, ReadTrace] = {}
    for path in paths:
        here: dict[int, ReadTrace] = {}
        for entry in _entries(path):
            trace = here.setdefault(entry["id"], ReadTrace(entry["id"]))
            if "model_name" in entry:
                assert not trace.about, f"two requests have the id {entry['id']}"
                trace.about = entry
            for stamp in entry.get("timestamps", ()):
                trace.at[stamp["name"]] = stamp["ns"]
            if "activity" in entry:
                trace.tensors.append((entry["activity"], entry["tensor"]))
        assert not traces.keys() & here.keys(), f"{path} has ids that another file has"
        traces |= here
    return [traces[number] for number in sorted(traces)]


def _entries(path: Path) -> list[dict[str, Any]]:
    """Nobody adds to the file meanwhile. One that is empty is about to be written for the first time."""
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        found: list[dict[str, Any]] = json.loads(file.read() or "[]")
    return found
