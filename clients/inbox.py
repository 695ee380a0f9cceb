# SPDX-License-Identifier: Apache-2.0
"""The reading side of a connection: what each message of the broker means for the requests that are pending."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ..ipc.codec import BadMessage
from ..ipc.errors import BrokerError, CallerError, Code, PenstockError, from_wire
from ..ipc.messages import Adjusted, Answer, Done, Failed, Pong, Released, Result
from ..ipc.regions import Mapping
from .links import Link
from .pending import Entry, Pending

OnRefusal = Callable[[PenstockError], None]
"""Told of every error that the broker answers, before who asked is. Must take no lock: the connection's is held."""
OnAdjusted = Callable[[Adjusted], None]
"""Told, in order, of the settings that the broker tells its gateways. Must take no lock either."""


class Inbox:
    """Not thread-safe: the leader of the readers uses it, with the connection's lock held."""

    def __init__(self, link: Link, pending: Pending, on_refusal: OnRefusal, on_adjusted: OnAdjusted | None) -> None:
        self.strays = 0  # messages that belong to nothing that is pending
        self._link = link
        self._pending = pending
        self._on_refusal = on_refusal
        self._on_adjusted = on_adjusted  # None: this client is no gateway, and is not told

    def __repr__(self) -> str:
        return f"<Inbox {self.strays} strays>"

    def take(self, messages: Sequence[Any], answered: list[Entry]) -> None:
        """Books the messages; `answered` gets the entries whose callers are to be told.

        Raises PenstockError when the broker is not to be understood: nothing after that could be relied on.
        """
        for message in messages:
            kind = type(message)
            if kind is Result:
                self._take_result(message, answered)
            elif kind is Failed:
                if message.id is None:
                    raise BrokerError(f"the broker cannot read this client: {message.message}", Code.INTERNAL)
                error = from_wire(message.code, message.message, message.fault)
                self._on_refusal(error)
                self._settle(message.id, None, error, None, message.released, answered)
            elif kind is Released:
                self.strays += not self._pending.release(message.id)
            elif kind is Done or kind is Answer:
                self._settle(message.id, message, None, None, True, answered)
            elif kind is BadMessage:
                self._take_bad(message, answered)
            elif kind is Adjusted and self._on_adjusted is not None:
                self._on_adjusted(message)
            elif kind is not Pong:
                self.strays += 1

    def _take_result(self, message: Result, answered: list[Entry]) -> None:
        brought: Any = None
        error: PenstockError | None = None
        if message.fds or message.parts:
            try:
                brought = self._brought(message.fds, message.parts)
            except OSError as refused:
                error = BrokerError(f"the outputs cannot be taken: {refused}", Code.INTERNAL)
        if message.final:
            self._settle(message.id, None if error else message, error, brought, True, answered)
            return
        text = "the model gives many responses to one request, which this client does not take"
        self._give_up(self._pending.get(message.id), CallerError(text, Code.UNSUPPORTED), answered)

    def _brought(self, fds: int, parts: int) -> Any:
        """What came beside a Result: parts, or memory (mapped for as long as an array on it lives)."""
        if parts:
            return self._link.take_parts(parts)
        if fds != 1:
            raise BrokerError(f"a result brings one descriptor at most, this one claims {fds}", Code.INTERNAL)
        (fd,) = self._link.take_fds(1)
        try:
            with Mapping(fd, os.fstat(fd).st_size) as mapping:
                return mapping.array
        finally:
            os.close(fd)

    def _take_bad(self, message: BadMessage, answered: list[Entry]) -> None:
        """An answer that makes no sense is an error for its request. Where it names none, somebody would wait for ever."""
        for fd in self._link.take_fds(message.fds):
            os.close(fd)
        self._link.take_parts(message.parts)
        error = BrokerError(f"the broker's answer cannot be understood: {message.reason}", Code.INTERNAL)
        entry = self._pending.get(message.id)
        if entry is None:
            raise error
        self._give_up(entry, error, answered)  # not settled: what it said of the memory is not known either

    def _give_up(self, entry: Entry | None, error: PenstockError, answered: list[Entry]) -> None:
        if entry is not None and self._pending.abandon(entry, error):
            answered.append(entry)

    def _settle(
        self,
        number: int,
        message: Any,
        error: PenstockError | None,
        brought: Any,
        released: bool,
        answered: list[Entry],
    ) -> None:
        entry = self._pending.get(number)
        if entry is None:
            self.strays += 1
        elif self._pending.settle(entry, message, error, brought, released):
            answered.append(entry)
