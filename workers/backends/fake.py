# SPDX-License-Identifier: Apache-2.0
r"""The backend for tests of everything around backends: it misbehaves on request. Shipped, so that users can test with it too.

Every mode computes what identity computes, from packed tensors. Parameters of the model's configuration:

    mode           echo            nothing but that (the default)
                   slow            takes `delay_ms`
                   stalling        takes `delay_ms` in its execution number `stall_at`, and no time in any other
                   failing         raises `message`
                   flaky           raises `message` in every `fail_every`-th execution
                   failing_items   fails the requests that have a row whose first element is NaN, and only those
                   hanging         never returns
                   dying           sends itself `signal` (a number, default 9)
                   forking         leaves a child behind that has inherited everything and waits until it is killed
                   recording       appends a line of JSON to the file `record_path` per execution: the rows of each request, and
                                   the inputs by name (BYTES as text)
                   barrier         connects to the unix stream socket `barrier_path`, writes "entered ROWS\n" and goes on
                                   when it has received one byte (or the other end has closed)
    at             where it misbehaves: load, warm_up or execute (the default)
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...ipc.errors import ModelError, invalid
from ...ipc.messages import LoadModel, ModelSpec, Signature
from .base import Backend, Tensor, Work
from .identity import Echo


class Fake(Backend):
    """Echoes, in one of the modes above."""

    def __init__(self) -> None:
        self._parameters: dict[str, str] = {}
        self._echo: Echo | None = None
        self._names: list[str] = []
        self._executions = 0
        self._modes: dict[str, Callable[[Work | None], None]] = {
            "echo": lambda _work: None,
            "slow": self._delay,
            "stalling": self._stall,
            "failing": self._fail,
            "flaky": self._fail_sometimes,
            "failing_items": self._fail_items,
            "hanging": self._hang,
            "dying": self._die,
            "forking": self._fork,
            "recording": self._record,
            "barrier": self._wait_at_barrier,
        }
        self._misbehave = self._modes["echo"]

    def __repr__(self) -> str:
        return f"<Fake {self._parameters} after {self._executions} executions>"

    def load(self, order: LoadModel) -> Signature | None:
        """Takes any configuration. Raises CallerError for a mode that does not exist."""
        self._parameters = order.spec.parameters
        mode = self._parameters.get("mode", "echo")
        if mode not in self._modes:
            raise invalid(f"model '{order.spec.name}': unknown mode '{mode}'; known are {', '.join(self._modes)}")
        self._misbehave = self._modes[mode]
        self._perhaps_misbehave("load", None)
        return None

    def warm_up(self, spec: ModelSpec, samples_follow: bool = False) -> None:  # noqa: ARG002 - nothing is executed anyway
        """Raises CallerError where an output cannot come from its input."""
        self._echo = Echo(spec)
        if spec.inputs[0].ragged and self._parameters.get("mode") == "failing_items":
            raise invalid(f"model '{spec.name}': mode 'failing_items' looks at rows, and its first input is ragged")
        self._names = [tensor.name for tensor in spec.inputs]
        self._perhaps_misbehave("warm_up", None)

    def execute(self, work: Work) -> Sequence[Tensor | None]:
        """Misbehaves, then echoes."""
        assert self._echo is not None, "execute before warm_up"
        self._executions += 1
        self._perhaps_misbehave("execute", work)
        for output, place in zip(work.wanted, work.places, strict=True):
            if place is not None:
                place[...] = self._echo.source(work, output)
        if any(place is None for place in work.places):
            return [self._echo.source(work, output) for output in work.wanted]
        return work.places

    def close(self) -> None:
        """Nothing to give back."""
        self._echo = None

    def _perhaps_misbehave(self, stage: str, work: Work | None) -> None:
        if self._parameters.get("at", "execute") == stage:
            self._misbehave(work)

    def _delay(self, _work: Work | None) -> None:
        time.sleep(float(self._parameters.get("delay_ms", "10")) / 1000)

    def _stall(self, work: Work | None) -> None:
        if self._executions == int(self._parameters.get("stall_at", "1")):
            self._delay(work)

    def _fail(self, _work: Work | None) -> None:
        raise ModelError(self._parameters.get("message", "failing as configured"))

    def _fail_sometimes(self, work: Work | None) -> None:
        if self._executions % int(self._parameters.get("fail_every", "2")) == 0:
            self._fail(work)

    def _fail_items(self, work: Work | None) -> None:
        tensor = None if work is None else work.inputs[0]
        if work is None or tensor is None or tensor.dtype.kind != "f":
            return
        bad = np.isnan(tensor.reshape(sum(work.rows_of), -1)[:, 0])
        begin = 0
        for at, rows in enumerate(work.rows_of):
            if bad[begin : begin + rows].any():
                work.failures[at] = ModelError(self._parameters.get("message", "the first element of a row is NaN"))
            begin += rows

    def _hang(self, _work: Work | None) -> None:
        threading.Event().wait()

    def _die(self, _work: Work | None) -> None:
        os.kill(os.getpid(), int(self._parameters.get("signal", str(int(signal.SIGKILL)))))
        threading.Event().wait(10)  # signals are delivered asynchronously; a signal that does not kill is a mistake

    def _fork(self, _work: Work | None) -> None:
        if os.fork() == 0:
            while True:
                signal.pause()

    def _record(self, work: Work | None) -> None:
        given = [] if work is None else zip(self._names, work.inputs, strict=False)  # batch inputs come after those named
        inputs = {name: content for name, content in given if content is not None}
        line = {"rows": [] if work is None else list(work.rows_of), "inputs": {n: _listed(x) for n, x in inputs.items()}}
        with open(self._parameters["record_path"], "a") as file:
            file.write(json.dumps(line) + "\n")

    def _wait_at_barrier(self, work: Work | None) -> None:
        rows = 0 if work is None else sum(work.rows_of)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as barrier:
            barrier.connect(self._parameters["barrier_path"])
            barrier.sendall(f"entered {rows}\n".encode())
            barrier.recv(1)


def _listed(tensor: Tensor) -> Any:
    """Nested lists, with text where the tensor has bytes."""
    return np.vectorize(bytes.decode, otypes=[object])(tensor).tolist() if tensor.dtype.kind == "O" else tensor.tolist()
