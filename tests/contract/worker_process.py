# SPDX-License-Identifier: Apache-2.0
"""A real worker process at the end of a socketpair, and the broker's end of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from worker_rig import Memory

from penstock.ipc.codec import FrameDecoder
from penstock.ipc.local import LinkClosed, LocalLink
from penstock.ipc.messages import FromWorker, Gpu, Loaded, LoadModel, Message, ModelSpec, Placement, Ready, Start

OUT = 32768
ONES = np.ones((1, 2), np.float32)


class WorkerProcess:
    """The broker's end of a worker, and the worker."""

    def __init__(self, environment: Mapping[str, str] | None = None, gpu: Gpu | None = None) -> None:
        self.gpu = gpu
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "penstock.workers", "--fd", str(theirs.fileno()), "--parent", str(os.getpid())]
        with theirs:
            self.child = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True, env=environment
            )
        self.link: LocalLink[Any] = LocalLink(ours, FrameDecoder(FromWorker))
        self.waiting: list[Any] = []
        self.memory = Memory()

    def send(self, *messages: Message) -> None:
        """One frame."""
        for message in messages:
            self.link.put(message)
        self.link.flush(block=True)

    def map(self, memory: Memory, sealed: bool = True) -> None:
        self.link.put(memory.message(sealed), [memory.fd])
        self.link.flush(block=True)

    def receive(self) -> Any:
        while not self.waiting:
            self.waiting += self.link.receive(block=True)
        return self.waiting.pop(0)

    def receive_or_none(self) -> Any:
        """None when the link has ended."""
        try:
            return self.receive()
        except LinkClosed:
            return None

    def load(self, spec: ModelSpec, directory: Path | str = "", isolate: bool = False) -> Any:
        self.send(LoadModel(spec, "m_0_0", str(directory), isolate_system_regions=isolate, gpu=self.gpu))
        return self.receive()

    def start(self, spec: ModelSpec, directory: Path | str = "", isolate: bool = False) -> None:
        assert isinstance(self.load(spec, directory, isolate), Loaded)
        self.send(Start(spec))
        assert self.receive() == Ready()
        self.map(self.memory)

    def request(self, x: Any = ONES, at: int = 0, memory: Memory | None = None) -> Placement:
        where = memory or self.memory
        return Placement(len(x), [where.put(at, x)], [where.place(0, OUT + at, x.nbytes)])

    def end(self) -> tuple[int, str]:
        """Exit status and standard error."""
        assert self.child.stderr is not None
        said = self.child.stderr.read()
        return self.child.wait(), said

    def close(self) -> None:
        """Ends the worker, whatever it does."""
        self.link.close()
        self.memory.close()
        self.child.kill()
        self.child.wait()
        assert self.child.stderr is not None
        self.child.stderr.close()
