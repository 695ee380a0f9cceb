# SPDX-License-Identifier: Apache-2.0
"""What every method of the gRPC service needs: who calls, and errors as Triton answers them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial, wraps
from typing import Any, TypeVar
from urllib.parse import unquote

from ....ipc.errors import BrokerError, Code, PenstockError
from ....ipc.local_sockets import Address, LocalUsers
from ..callers import Caller
from ..tracing import Passage, Tracing
from .schema import UNREADABLE, StatusCode

log = logging.getLogger("penstock.gateway")

T = TypeVar("T")

STATUS = {
    Code.INTERNAL: StatusCode.INTERNAL, Code.NOT_FOUND: StatusCode.NOT_FOUND, Code.INVALID_ARG: StatusCode.INVALID_ARGUMENT,
    Code.UNAVAILABLE: StatusCode.UNAVAILABLE, Code.UNSUPPORTED: StatusCode.UNIMPLEMENTED,
    Code.ALREADY_EXISTS: StatusCode.ALREADY_EXISTS, Code.CANCELLED: StatusCode.CANCELLED,
    Code.OVERLOADED: StatusCode.UNAVAILABLE, Code.DEADLINE_EXCEEDED: StatusCode.UNAVAILABLE,
}  # fmt: skip
LONGEST_DETAILS = 2600
"""Bytes. They travel in a header, at worst three for one; clients take 8 KiB of headers, and of a larger one see nothing."""


def answered(method: Callable[[Any, Any, Caller], Awaitable[T]]) -> Callable[[Any, Any, Any], Awaitable[T]]:
    """Makes a method of the service of one that takes the request and its caller, and raises PenstockError."""

    @wraps(method)
    async def called(self: Any, request: Any, context: Any) -> T:
        async def answer() -> T:
            return await method(self, check_readable(request), caller_of(context.peer(), self.listening, self.users))

        return await answer_call(answer(), context, method.__name__, self.tracing)

    return called


async def answer_call(answering: Awaitable[T], context: Any, name: str, tracing: Tracing) -> T:
    """Has a call of that name answered, or ended with its error; it may be traced, and is told to the log."""
    log.debug("gRPC request: %s", name)
    try:
        return await (_traced(tracing, answering, context) if tracing.on else answering)
    except asyncio.CancelledError:
        log.debug("Cancellation notification received for %s", name)
        raise
    except Exception as error:
        await abort(context, error, name)
        raise


async def _traced(tracing: Tracing, answering: Awaitable[T], context: Any) -> T:
    """Lets a call be answered whose request may be sampled. The library says when the call is over, not when it began."""
    passage = Passage("GRPC")

    def over(_context: Any) -> None:
        passage.sent()
        tracing.done(passage)

    context.add_done_callback(over)
    with tracing.follow(passage):
        answer = await answering
    passage.answers()
    return answer


def check_readable(request: Any) -> Any:
    """The request. Raises BrokerError, in Triton's words, for what is no message."""
    if request is UNREADABLE:
        raise BrokerError("Unable to parse request", Code.INTERNAL)
    return request


async def abort(context: Any, error: Exception, what: str) -> None:
    """Ends a call with an error; `what` was called. One that nobody meant to be raised is logged, and INTERNAL."""
    said = meant(error, what)
    await context.abort(STATUS[said.code], details_of(said))


def meant(error: Exception, what: str) -> PenstockError:
    """The error that is answered; one that nobody meant to be raised is logged."""
    if isinstance(error, PenstockError):
        return error
    log.error("%s over gRPC failed", what, exc_info=error)
    return BrokerError(f"{type(error).__name__}: {error}", Code.INTERNAL)


def details_of(error: PenstockError) -> str:
    """The error's text, as much of it as reaches the client."""
    text = error.message.encode()
    return error.message if len(text) <= LONGEST_DETAILS else text[:LONGEST_DETAILS].decode(errors="ignore") + "..."


@lru_cache(maxsize=4096)
def caller_of(peer: str, listening: Address, users: LocalUsers) -> Caller:
    """Who is at the other end: gRPC says "ipv4:127.0.0.1:50412" or "ipv6:%5B::1%5D:50412", and not to which address of ours.

    That is the one where it was accepted, and not known ("") where that was any. It must not be guessed: one user's socket may
    have the very same address and port as another's that is connected to another address of ours. Its user is asked for anew
    each time: ports are used again, by other users too, and gRPC does not tell a connection from the next of the same port.
    """
    _, _, name = unquote(peer).partition(":")
    host, _, remote_port = name.rpartition(":")
    if not remote_port.isdecimal():
        return Caller(f"grpc:{peer}"[:256])
    remote = Address.of(host.strip("[]"), int(remote_port))
    principal = f"grpc:{remote.host}:{remote.port}"
    return Caller(principal, partial(users.uid_of, remote, listening)) if listening.host else Caller(principal)
