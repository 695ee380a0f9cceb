# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: aiohttp's, which parses and keeps connections; what is answered is routes.py's.

Its choice is docs/decisions/0017.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from typing import Any

from ....ipc.errors import PenstockError
from ....ipc.local_sockets import Address, LocalUsers
from ..callers import Caller
from ..lacking import lacking
from ..tracing import Passage, Tracing
from .bodies import UNSUPPORTED_CODING, coding_of, is_known, plain, too_large
from .exchange import Call, Response, of_error, of_message

try:
    from aiohttp import web
except ImportError as error:
    raise lacking(error) from error

log = logging.getLogger("penstock.gateway")

Answer = Callable[[Call], Awaitable[Response]]

READ_BYTES = 1 << 20
"""Bytes of a body that are taken in before its reader has to run."""
FEW_BYTES = 4096
"""A compressed body of more is inflated by another thread: a byte may become a thousand."""
LONG_BYTES = 256 * 1024
"""Pieces of a response that are so long together are not joined."""


class HttpServer:
    """Serves on a socket that listens already."""

    def __init__(self, answer: Answer, max_body_bytes: int, tracing: Tracing, users: LocalUsers) -> None:
        self._answer = answer
        self._tracing = tracing
        self._max_body_bytes = max_body_bytes
        server = _Server(
            users, self._handle,
            access_log=None, handler_cancellation=True, auto_decompress=False, read_bufsize=READ_BYTES, logger=log,
        )  # fmt: skip
        self._runner = web.ServerRunner(server)

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
        log.debug("HTTP request: %s %s", request.method, request.path)
        try:
            return await (self._traced(request) if self._tracing.on else self._respond(request, None))
        except asyncio.CancelledError:
            log.debug("Cancellation notification received for %s %s", request.method, request.path)
            raise

    async def _traced(self, request: web.BaseRequest) -> web.StreamResponse:
        passage = Passage("HTTP")
        try:
            with self._tracing.follow(passage):
                response = await self._respond(request, passage)
            if passage.trace is not None:  # aiohttp sends it when this returns, and does not say when it has
                await response.prepare(request)
                await response.write_eof()
                passage.sent()
            return response
        finally:
            self._tracing.done(passage)

    async def _respond(self, request: web.BaseRequest, passage: Passage | None) -> web.StreamResponse:
        body = b""
        if request.method == "POST":
            if not is_known(coding_of(request.headers)):
                return await _sent(request, UNSUPPORTED_CODING)
            try:
                body = await self._read(request)
            except PenstockError as error:
                return await _sent(request, of_error(error), keep_alive=None if request.content.is_eof() else False)
        connection = request.protocol
        assert isinstance(connection, _Connection)
        call = Call(request.method, request.rel_url.raw_path, request.headers, body, connection.caller)
        if passage is not None:
            passage.received()
        response = await self._answer(call)
        if passage is not None:
            passage.answers()
        del body, call  # a client that reads slowly holds its response, and not its request too
        return await _sent(request, response)

    async def _read(self, request: web.BaseRequest) -> bytes:
        limit = self._max_body_bytes
        announced = request.content_length
        if announced is not None and announced > limit:
            raise too_large(request.headers, announced, limit)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # of the response, nothing is sent yet
        pieces: list[bytes] = []
        size = 0
        while piece := await request.content.readany():
            size += len(piece)
            if size > limit:
                raise too_large(request.headers, f"more than {limit}", limit)
            pieces.append(piece)
        return await self._plain(pieces[0] if len(pieces) == 1 else b"".join(pieces), request.headers)

    async def _plain(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        coding = coding_of(headers)
        if coding == "identity":
            return body
        if len(body) <= FEW_BYTES:
            return plain(body, coding, headers, self._max_body_bytes)
        return await asyncio.get_running_loop().run_in_executor(None, plain, body, coding, headers, self._max_body_bytes)


async def _sent(request: web.BaseRequest, response: Response, keep_alive: bool | None = None) -> web.StreamResponse:
    """The response on its way: small pieces together, large ones one after the other, each as fast as the client takes it."""
    body = response.body
    size = sum(map(len, body))
    if len(body) <= 1 or size < LONG_BYTES:
        whole = body[0] if len(body) == 1 else b"".join(body)
        found: web.StreamResponse = web.Response(status=response.status, headers=response.headers, body=whole)
    else:
        found = web.StreamResponse(status=response.status, headers=response.headers)
        found.content_length = size
    if keep_alive is False:
        found.force_close()
    if isinstance(found, web.Response):
        return found
    await found.prepare(request)
    for piece in body:
        await found.write(piece)
    return found


class _Server(web.Server):
    def __init__(self, users: LocalUsers, handler: Callable[..., Awaitable[web.StreamResponse]], **options: Any) -> None:
        super().__init__(handler, **options)
        self._users = users

    def __call__(self) -> web.RequestHandler:
        return _Connection(self._users, self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """One connection, and who is at its other end."""

    __slots__ = ("_users", "caller")

    def __init__(self, users: LocalUsers, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._users = users

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.caller = _caller(transport, self._users)
        super().connection_made(transport)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What is no HTTP is the client's affair; a fault of ours is logged. Either ends the connection."""
        said = (
            (message or "the gateway failed; its log says why").partition("\n")[0].rstrip(":")
        )  # behind it the parser shows the place
        if status < 500:
            log.debug("%s sent what is no HTTP: %s", self.caller.principal, said)
        else:
            log.error("a request of %s could not be answered", self.caller.principal, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the response is on its way already")
        refusal = of_message(status, said)
        answer = web.Response(status=status, headers=refusal.headers, body=refusal.body[0])
        answer.force_close()
        return answer


def _caller(transport: asyncio.BaseTransport, users: LocalUsers) -> Caller:
    """Its user is asked for once: whatever comes by a connection comes from the socket that made it."""
    try:
        remote, local = (Address.of(*transport.get_extra_info(name)[:2]) for name in ("peername", "sockname"))
    except (TypeError, IndexError, ValueError):  # a connection that is gone has no names any more
        return Caller("http")
    return Caller(f"http:{remote.host}:{remote.port}", cache(partial(users.uid_of, remote, local)))
