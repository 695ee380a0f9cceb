# SPDX-License-Identifier: Apache-2.0
"""The worker process: one instance of one model.

    broker                              worker (this process)
    +--------------+   socketpair, or   +--------------------------------------------------------------+
    | instances    |   the broker's     |  link ---> loop ---> batches ---> inputs ---> backend        |
    |   LoadModel  | ---- socket -----> |              |          |            |       (onnxruntime, .. ) |
    |   Start      |                    |              |          |            v            |           |
    |   MapRegion  |                    |              |          |      views, gather      v           |
    |   Batch ...  |                    |              v          v            ^        outputs          |
    |              | <----------------- |       region_table  placements  devices/host      |           |
    |   Loaded, Ready, BatchDone        |              |                                    |           |
    +--------------+                    +--------------|------------------------------------|-----------+
                                                       v            mmap                    v
                                          clients' own regions: inputs read, outputs written in place

On a GPU on_gpu/batches takes the place of batches, and on_gpu/loop waits for messages and for the ends of batches alike; see "A
batch on a GPU" in docs/architecture.md.

Started by the broker as `python -m penstock.workers --fd N --parent PID`, or by hand through `attach`. It ends when it is told
to (Stop), when the link ends, or with its parent, whichever comes first.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Sequence

from ..ipc.addresses import parse_address
from ..ipc.codec import FrameDecoder
from ..ipc.cuda import CudaError, CudaUnavailable
from ..ipc.errors import PenstockError, invalid
from ..ipc.local import LocalLink, connect_local
from ..ipc.messages import Hello, ToWorker
from ..ipc.processes import die_with_parent
from .loop import WorkerLoop

EXIT_SERVED = 0  # told to stop, or the broker is gone
EXIT_LOAD_FAILED = 1  # the broker has been told why
EXIT_PROTOCOL = 2  # the broker sent what it must not send; also argparse's status for wrong arguments
EXIT_GPU_LOST = 3  # the CUDA context is lost, and can only be had again by a new process

CONNECT_TIMEOUT_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of a worker that the broker spawned. Returns the exit status."""
    parser = argparse.ArgumentParser("penstock.workers", description="A worker process; started by the broker.")
    parser.add_argument("--fd", type=int, required=True, help="an inherited unix stream socket, connected to the broker")
    parser.add_argument("--parent", type=int, required=True, help="the broker's pid: the worker dies with it")
    options = parser.parse_args(arguments)
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the broker decides what it means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until a GPU has work in flight, see DeviceLoop.terminate
    faulthandler.enable()  # a crash in native code says where, in the broker's log
    sock = socket.socket(fileno=options.fd)
    os.set_inheritable(sock.fileno(), False)  # a child that a model starts has no business with the broker
    return serve(sock)


def attach(address: str | None, model: str) -> int:
    """Serves `model` to a running broker from this process, started by hand (a debugger, a profiler, another Python).

    `address` is that of the broker's local socket. Returns the exit status when the broker is done with it.
    """
    target = parse_address(address)
    if target.kind != "local":
        raise invalid(f"a worker needs the broker's local socket, since it receives descriptors; {target} is not one")
    sock = connect_local(target.target, CONNECT_TIMEOUT_S)
    return serve(sock, Hello(role="worker", name=model, session=os.urandom(16), pid=os.getpid()))


def serve(sock: socket.socket, greeting: Hello | None = None) -> int:
    """Runs the loop on a connected socket, which it takes."""
    link: LocalLink[ToWorker] = LocalLink(sock, FrameDecoder(ToWorker))
    if greeting is not None:
        link.put(greeting)
        link.flush(block=True)
    try:
        return EXIT_SERVED if WorkerLoop(link).run() else EXIT_LOAD_FAILED
    except (CudaError, CudaUnavailable) as error:
        sys.stderr.write(f"worker stops: the GPU's context is lost: {error}\n")
        return EXIT_GPU_LOST
    except PenstockError as error:
        sys.stderr.write(f"worker stops: {error}\n")
        return EXIT_PROTOCOL
