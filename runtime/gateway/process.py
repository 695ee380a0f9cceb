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
from functools import partial

from ...ipc.errors import BrokerError
from ...ipc.local_sockets import authority
from ...ipc.processes import allow_descriptors, keep_freed_memory
from .lacking import lacking
from .memory import KEPT_BYTES
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

SETTLES_S = 1.0
"""What answers and everything but inference may take, once the last request in flight has its outcome."""
STOPPING = (signal.SIGTERM, signal.SIGINT)


async def serve(settings: GatewaySettings, say: Callable[[str], None], stopping_signals: Sequence[int]) -> None:
    """Serves until one of these signals; says where, when it is ready to. Raises BrokerError when an address cannot be had."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stopping_signals:
        loop.add_signal_handler(number, stopping.set)
    parts = Parts.of(settings)
    servers: list[HttpServer | GrpcServer] = []
    addresses: list[str] = []
    async with contextlib.AsyncExitStack() as held:
        held.callback(parts.users.close)
        held.push_async_callback(parts.link.close)
        await parts.link.connect()
        held.push_async_callback(parts.tracing.close)
        if settings.http_port >= 0 or settings.http_fd >= 0:
            http = HttpServer(make_routes(parts).answer, settings.http_max_input_size, parts.tracing, parts.users)
            sock = _listening(settings)
            addresses.append(f"http://{authority(*sock.getsockname()[:2])}")
            await http.start(sock)
            servers.append(http)
            held.push_async_callback(http.stop, SETTLES_S)
        if settings.grpc_port >= 0:
            grpc = GrpcServer(partial(InferenceService, parts), settings)
            addresses.append(f"grpc://{authority(settings.grpc_host, await grpc.start())}")
            servers.append(grpc)
            held.push_async_callback(grpc.stop, SETTLES_S)
        await parts.link.serve()
        say(f"ready: {', '.join(addresses)}; process {os.getpid()}")
        await stopping.wait()
        await _leave(parts, servers, settings.leaves_within_s, say)


async def _leave(parts: Parts, servers: list[HttpServer | GrpcServer], within_s: float, say: Callable[[str], None]) -> None:
    """Accepts no more, and answers what was accepted. Connections that are there are told meanwhile that it is leaving."""
    parts.documents.leave()
    for server in servers:
        await server.accept_no_more(within_s)
    if not await parts.link.in_flight.leave(within_s):
        say(f"leaves with {parts.link.in_flight!r} after {within_s} s")


def _listening(settings: GatewaySettings) -> socket.socket:
    if settings.http_fd >= 0:
        return socket.socket(fileno=settings.http_fd)
    host, port = settings.http_host, settings.http_port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, place = min(found, key=lambda each: each[0] != socket.AF_INET)  # in IPv4 where there are several
        dual = family == socket.AF_INET6
        return socket.create_server(place[:2], family=family, backlog=1024, reuse_port=True, dualstack_ipv6=dual)
    except (OSError, UnicodeError) as error:  # the latter of a name with a label that is empty or too long
        reason = getattr(error, "strerror", None) or error
        raise BrokerError(f"cannot serve HTTP at {authority(host, port)}: {reason}") from error


def run(settings: GatewaySettings, say: Callable[[str], None], stopping_signals: Sequence[int] = STOPPING) -> None:
    """Serves in this process until it is told to stop."""
    allow_descriptors()
    keep_freed_memory(KEPT_BYTES)
    uvloop.run(serve(settings, say, stopping_signals))
