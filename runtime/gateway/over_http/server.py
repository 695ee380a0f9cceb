# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: aiohttp's, which parses and keeps connections; what is answered is routes.py's.

Its choice is docs/decisions/0017.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ....ipc.local_sockets import Address
from ..callers import Caller
from ..lacking import lacking
from .exchange import Call, Response

try:
    from aiohttp import web
except ImportError as error:
    raise lacking(error) from error

Answer = Callable[[Call], Awaitable[Response]]


class HttpServer:
    """Serves on a socket that listens already."""

    def __init__(self, answer: Answer, max_body_bytes: int) -> None:
        self._answer = answer
        self._max_body_bytes = max_body_bytes
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None, handler_cancellation=True))

    def __repr__(self) -> str:
        return f"<HttpServer at {self._runner.addresses}>"

    async def start(self, sock: socket.socket) -> None:
        """Accepts connections from now on."""
        await self._runner.setup()
        await web.SockSite(self._runner, sock, backlog=1024).start()

    async def accept_no_more(self, _within_s: float) -> None:
        """Takes no more connections; those that are there go on, until `stop`."""
        for site in list(self._runner.sites):
            await site.stop()

    async def stop(self, within_s: float) -> None:
        """Ends all connections; what is being answered has so much time. Idempotent."""
        self._runner._shutdown_timeout = within_s  # noqa: SLF001 - an argument of its constructor, before that is known
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read() if request.can_read_body else b""
        response = await self._answer(Call(request.method, request.path, request.headers, body, _caller(request)))
        if len(response.body) <= 1:
            return web.Response(
                status=response.status, headers=response.headers, body=response.body[0] if response.body else b""
            )
        return web.Response(status=response.status, headers=response.headers, body=b"".join(response.body))


def _caller(request: web.BaseRequest) -> Caller:
    transport = request.transport
    remote = local = None
    if transport is not None:
        with suppress(TypeError, IndexError):  # a connection that is gone has no names any more
            remote = Address.of(*transport.get_extra_info("peername")[:2])
            local = Address.of(*transport.get_extra_info("sockname")[:2])
    return Caller(f"http:{remote.host}:{remote.port}" if remote else "http", remote, local)
