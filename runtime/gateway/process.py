# SPDX-License-Identifier: Apache-2.0
"""A gateway process: KServe v2 over HTTP and gRPC at one side, a client of the broker at the other.

    tritonclient, perf_analyzer, curl --HTTP, gRPC--> gateway --local link--> broker
                                                         |                      |
                           their regions are named only; +--- inline tensors ---+--> workers
                           the broker has opened them         (memfd, written once)

Its servers are there before it tells the broker that it is up. What it holds ends with it; what clients registered does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence

from ...ipc.errors import BrokerError
from .lacking import lacking
from .over_grpc.server import GrpcServer
from .over_grpc.service import InferenceService
from .over_http.server import HttpServer
from .over_http.service import make_routes
from .parts import Parts
from .settings import GatewaySettings

try:
    import uvloop
except ImportError as error:
    raise lacking(error) from error

STOPPING = (signal.SIGTERM, signal.SIGINT)


async def serve(settings: GatewaySettings, say: Callable[[str], None], stopping_signals: Sequence[int]) -> None:
    """Serves until one of these signals; says where, when it is ready to. Raises BrokerError when an address cannot be had."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stopping_signals:
        loop.add_signal_handler(number, stopping.set)
    parts = Parts.of(settings)
    addresses: list[str] = []
    async with contextlib.AsyncExitStack() as held:
        held.push_async_callback(parts.link.close)
        await parts.link.connect()
        if settings.http_port >= 0 or settings.http_fd >= 0:
            http = HttpServer(make_routes(parts).answer, settings.http_max_input_size)
            sock = _listening(settings)
            addresses.append("http://{}:{}".format(*sock.getsockname()[:2]))
            await http.start(sock)
            held.push_async_callback(http.stop, settings.leaves_within_s)
        if settings.grpc_port >= 0:
            servicer = InferenceService(parts, settings.grpc_port)
            grpc = GrpcServer(servicer, settings.grpc_host, settings.grpc_port)
            await grpc.start()
            servicer.port = grpc.port
            addresses.append(f"grpc://{settings.grpc_host}:{grpc.port}")
            held.push_async_callback(grpc.stop, settings.leaves_within_s)
        await parts.link.query("gateway")
        say(f"ready: {', '.join(addresses)}; process {os.getpid()}")
        await stopping.wait()
        parts.documents.leave()


def _listening(settings: GatewaySettings) -> socket.socket:
    if settings.http_fd >= 0:
        return socket.socket(fileno=settings.http_fd)
    try:
        return socket.create_server((settings.http_host, settings.http_port), backlog=1024, reuse_port=True)
    except OSError as error:
        raise BrokerError(f"cannot serve HTTP at {settings.http_host}:{settings.http_port}: {error.strerror}") from error


def run(settings: GatewaySettings, say: Callable[[str], None], stopping_signals: Sequence[int] = STOPPING) -> None:
    """Serves in this process until it is told to stop."""
    uvloop.run(serve(settings, say, stopping_signals))
