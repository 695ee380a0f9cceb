# SPDX-License-Identifier: Apache-2.0
"""A broker to measure: started as a user would start it, in a runtime directory of its own, and stopped again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measurement import children_of, cpu_ns

from penstock.clients import Client
from penstock.ipc.errors import PenstockError

START_TIMEOUT_S = 600
"""More than onnxruntime takes to build engines with TensorRT. A broker that ends is noticed at once."""
STOP_TIMEOUT_S = 20


class Server:
    """A broker that is ready: where it listens (`links`) and the processes it consists of."""

    def __init__(self, pid: int, links: dict[str, str], log: Path) -> None:
        self.pid, self.links = pid, links
        self._log = log
        self.workers = children_of(pid)

    def __repr__(self) -> str:
        return f"<Server {self.pid} with workers {self.workers}>"

    def said(self) -> str:
        """What it and its workers have written so far."""
        return self._log.read_text(errors="replace")

    def cpu_ns(self) -> dict[str, int]:
        """CPU time so far of the broker and of all workers together."""
        return {"broker": cpu_ns(self.pid), "worker": sum(map(cpu_ns, self.workers))}


@contextmanager
def serving(repository: Path, *options: str) -> Iterator[Server]:
    """Serves a repository on both links until the block ends. Where that fails, what the broker said is printed.

    Ctrl-C does not reach the broker, which this process ends; and it dies with this process, should that be killed.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        links = {"local": f"unix://{folder}/broker.sock", "zmq": f"ipc://{folder}/broker.zmq"}
        log = Path(folder, "log")
        program = [sys.executable, "-m", "penstock.clients.cli", "serve", str(repository)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*program, *options, "--parent", str(os.getpid())],
                env=environment | {"PENSTOCK_RUNTIME_DIR": folder},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            _wait_until_ready(process, links["local"], log)
            yield Server(process.pid, links, log)
        except Exception:
            print(log.read_text(errors="replace"), file=sys.stderr)
            raise
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """With one instance a model is ready, and says so to clients; the broker's own line says that all instances are up."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (_is_said(log) and _is_ready(address)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the broker is not ready (exit code {process.poll()})")
        time.sleep(0.05)


def _is_said(log: Path) -> bool:
    return any(line.startswith("ready: ") for line in log.read_text(errors="replace").splitlines())


def _is_ready(address: str) -> bool:
    try:
        with Client(address) as client:
            return bool(client.is_ready())
    except (PenstockError, OSError):  # nobody listens yet
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
