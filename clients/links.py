# SPDX-License-Identifier: Apache-2.0
"""Opening a connection to a broker: the link its address calls for, and the first words on it.

Nothing here knows of threads: until the connection is handed over it belongs to who opens it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ..ipc.addresses import Address
from ..ipc.codec import BadMessage, FrameDecoder
from ..ipc.errors import BrokerError, Code, PenstockError, from_wire
from ..ipc.local import LinkClosed, LocalLink, connect_local
from ..ipc.messages import PROTOCOL, Done, Failed, Hello, Message, ToClient, Welcome
from .regions import Region


class Link(Protocol):
    """What the client needs of ipc.local.LocalLink and ipc.zeromq.DealerLink, or of a test's fake."""

    def fileno(self) -> int: ...
    def wait(self, timeout_s: float | None) -> bool: ...
    def receive(self) -> Sequence[Any]: ...
    def put(self, message: Message, fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> None: ...
    def flush(self) -> bool: ...
    def take_fds(self, count: int) -> list[int]: ...
    def take_parts(self, count: int) -> list[bytes]: ...
    def close(self) -> None: ...


def open_link(address: Address, timeout_s: float) -> Link:
    """A link to the broker at `address`. Raises BrokerError when nobody answers there."""
    decoder: FrameDecoder[ToClient] = FrameDecoder(ToClient)
    if address.kind == "local":
        return LocalLink(connect_local(address.target, timeout_s), decoder)
    from ..ipc.zeromq import DealerLink  # here, so that who uses the local link does not pay for loading ZeroMQ

    link = DealerLink(decoder)
    try:
        link.connect(address.target, timeout_s)
    except BaseException:
        link.close()
        raise
    return link


def greet(link: Link, address: Address, name: str, deadline_s: float) -> Welcome:
    """Says Hello, with a session id never used before. Raises BrokerError, or what the broker answers instead of Welcome."""
    link.put(Hello(os.urandom(16), pid=os.getpid(), name=name))
    answer = _answer(link, address, deadline_s)
    if not isinstance(answer, Welcome):
        raise BrokerError(f"the broker at {address} answered Hello with {answer!r:.200}", Code.INTERNAL)
    if answer.protocol != PROTOCOL:
        raise BrokerError(f"the broker at {address} speaks protocol {answer.protocol}, not {PROTOCOL}", Code.UNSUPPORTED)
    return answer


def register_again(link: Link, address: Address, regions: Iterable[Region], deadline_s: float) -> dict[str, PenstockError]:
    """Registers regions with a broker that does not know them. Returns what was refused, by name; raises BrokerError."""
    refused: dict[str, PenstockError] = {}
    for region in regions:
        message, fds = region.registration(0)
        link.put(message, fds)
        try:
            answer = _answer(link, address, deadline_s)
        except PenstockError as error:
            if isinstance(error, BrokerError):
                raise
            refused[region.name] = error
            continue
        if not isinstance(answer, Done):
            raise BrokerError(f"the broker at {address} answered Register with {answer!r:.200}", Code.INTERNAL)
    return refused


def _answer(link: Link, address: Address, deadline_s: float) -> Any:
    """Sends what was put, and returns the one message that answers it; raises what a Failed says."""
    try:
        while not link.flush():
            _check_time(address, deadline_s)
            link.wait(0.001)
        while not (messages := link.receive()):
            _check_time(address, deadline_s)
            link.wait(max(0.0, deadline_s - time.monotonic()))
    except LinkClosed as error:
        raise BrokerError(f"the broker at {address} closed the connection: {error}") from error
    answer = messages[0]
    if isinstance(answer, Failed):
        raise from_wire(answer.code, answer.message, answer.fault)
    if isinstance(answer, BadMessage):
        raise BrokerError(f"the broker at {address} cannot be understood: {answer.reason}", Code.INTERNAL)
    return answer


def _check_time(address: Address, deadline_s: float) -> None:
    if time.monotonic() >= deadline_s:
        raise BrokerError(f"the broker at {address} does not answer: it may be stopped or overloaded")
