# SPDX-License-Identifier: Apache-2.0
"""Real gateways beside real brokers."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from multiprocessing import resource_tracker
from pathlib import Path

import gevent

START_S = 30.0

gevent.get_hub().loop  # noqa: B018 - tritonclient.http's event loop: made here, it is none of what a test leaves behind
resource_tracker.ensure_running()  # multiprocessing's own, which tritonclient's shared memory starts: nor is this


def key_of(name: str) -> str:
    """The key of a segment of this test run: the runs on one machine share /dev/shm."""
    return f"/penstock-{os.getpid()}-{name}"


class RunningGateway:
    """`penstock gateway` in a process of its own, on free ports. A context manager: nothing of it is left behind."""

    def __init__(self, folder: Path, address: str, *options: str) -> None:
        self.folder = folder
        self._command = [
            sys.executable, "-m", "penstock.clients.cli", "gateway", "--connect", address, "--http-port", "0", "--grpc-port", "0",
            *options,
        ]  # fmt: skip
        self.process: subprocess.Popen[str] | None = None
        self.http = ""  # HOST:PORT, once it is ready
        self.grpc = ""

    def __enter__(self) -> RunningGateway:
        with (self.folder / "gateway.log").open("a") as log:
            self.process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True
            )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if readable else ""
        if not line.startswith("ready: "):
            self.kill()
            raise AssertionError(f"the gateway did not start: {line!r}\n{self.log()}")
        for address in line.removeprefix("ready: ").split(";")[0].split(", "):
            kind, _, place = address.partition("://")
            setattr(self, kind, place)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(START_S) == 0, self.log()
        self._close()

    def log(self) -> str:
        """What it has logged so far."""
        return (self.folder / "gateway.log").read_text()

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        self.process.stdout.close()
