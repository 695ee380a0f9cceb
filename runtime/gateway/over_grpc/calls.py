# SPDX-License-Identifier: Apache-2.0
"""What every method of the gRPC service needs: who calls, and errors as Triton answers them."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import unquote

from ....ipc.errors import Code, PenstockError
from ....ipc.local_sockets import Address
from ..callers import Caller
from .schema import StatusCode

T = TypeVar("T")

STATUS = {
    Code.INTERNAL: StatusCode.INTERNAL, Code.NOT_FOUND: StatusCode.NOT_FOUND, Code.INVALID_ARG: StatusCode.INVALID_ARGUMENT,
    Code.UNAVAILABLE: StatusCode.UNAVAILABLE, Code.UNSUPPORTED: StatusCode.UNIMPLEMENTED,
    Code.ALREADY_EXISTS: StatusCode.ALREADY_EXISTS, Code.CANCELLED: StatusCode.CANCELLED,
    Code.OVERLOADED: StatusCode.UNAVAILABLE, Code.DEADLINE_EXCEEDED: StatusCode.UNAVAILABLE,
}  # fmt: skip


def answered(method: Callable[[Any, Any, Caller], Awaitable[T]]) -> Callable[[Any, Any, Any], Awaitable[T]]:
    """Makes a method of the service of one that takes the request and its caller, and raises PenstockError."""

    @functools.wraps(method)
    async def called(self: Any, request: Any, context: Any) -> T:
        try:
            return await method(self, request, caller_of(context, self.port))
        except PenstockError as error:
            await context.abort(STATUS[error.code], error.message)
            raise

    return called


def caller_of(context: Any, port: int) -> Caller:
    """Who is at the other end: gRPC says "ipv4:127.0.0.1:50412" or "ipv6:%5B::1%5D:50412", and not to which address of ours.

    A program of this machine reaches us from the same address as it calls, or from a loopback address: that of ours is taken to
    be the same.
    """
    peer = context.peer()
    _, _, name = unquote(peer).partition(":")
    host, _, remote_port = name.rpartition(":")
    if not remote_port.isdecimal():
        return Caller(f"grpc:{peer}"[:256], None, None)
    remote = Address.of(host.strip("[]"), int(remote_port))
    return Caller(f"grpc:{remote.host}:{remote.port}", remote, Address.of(remote.host, port))
