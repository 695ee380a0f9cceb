# SPDX-License-Identifier: Apache-2.0
"""A client that says exactly what it is told: single messages and raw bytes, right or wrong, over any link."""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from msgspec import Raw

from penstock.ipc.codec import FrameDecoder, encode
from penstock.ipc.local import LinkClosed, LocalLink, connect_local
from penstock.ipc.messages import (
    Answer,
    Done,
    Failed,
    Goodbye,
    Hello,
    Infer,
    InputTensor,
    Message,
    OutputPlace,
    Ping,
    Pong,
    Query,
    Register,
    Released,
    Result,
    ToClient,
    Welcome,
)
from penstock.ipc.regions import Mapping, create_memfd
from penstock.ipc.system_regions import create_system, unlink_system
from penstock.ipc.zeromq import DealerLink

PATIENCE_S = 10.0
REGION_BYTES = 4096
INPUT_AT, OUTPUT_AT = 0, 2048
ROW_BYTES = 8  # of the fake models of running.py: two FP32 values


class Speaker:
    """One connection to a broker. A context manager; `peer_closed` says that the broker has ended it."""

    def __init__(self, address: str, *, hello: bool = True) -> None:
        decoder: FrameDecoder[Any] = FrameDecoder(ToClient)
        self._address = address
        self._sock: socket.socket | None = None
        self.link: LocalLink[Any] | DealerLink[Any]
        if address.startswith("unix://"):
            self._sock = connect_local(address.removeprefix("unix://"), PATIENCE_S)
            self.link = LocalLink(self._sock, decoder)
        else:
            self.link = DealerLink(decoder)
            self.link.connect(address)
            self.link._socket.sndtimeo = int(PATIENCE_S * 1000)
        self._heard: deque[Any] = deque()
        self._regions: dict[str, Mapping] = {}
        self._count = 0
        self.welcome: Welcome | None = self.ask(Hello(os.urandom(16), pid=os.getpid()), Welcome) if hello else None

    def __enter__(self) -> Speaker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Over ZeroMQ only Goodbye says that a client has left whose process lives on."""
        if self._sock is None:
            with suppress(LinkClosed):
                self.say(Goodbye())
        self.link.close()
        for mapping in self._regions.values():
            mapping.close()

    # --- words -----------------------------------------------------------------------------------------------------------

    def say(self, message: Message, fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> None:
        """One message, alone in its frame."""
        self.link.put(message, fds, parts)
        self.link.flush(block=True)

    def say_frame(self, frame: bytes, *parts: bytes) -> None:
        """Bytes in the place of a frame."""
        if isinstance(self.link, DealerLink):
            self.link._socket.send_multipart([frame, *parts])
        else:
            self.say_bytes(struct.pack("<I", len(frame)) + frame)

    def say_bytes(self, content: bytes, *fds: int) -> None:
        """Bytes in the place of the length and the frame, on the local link; descriptors go with the first of them."""
        assert self._sock is not None
        if fds:
            content = content[socket.send_fds(self._sock, [content], fds) :]
        self._sock.sendall(content)

    def hear(self) -> Any:
        """The next message."""
        while not self._heard:
            assert self.link.wait(PATIENCE_S), "the broker says nothing"
            self._heard.extend(self.link.receive())
        return self._heard.popleft()

    def hear_all(self) -> list[Any]:
        """Everything said up to the answer to a Ping; also what is left unread."""
        self.say(Ping())
        found: list[Any] = []
        while not isinstance(message := self.hear(), Pong):
            found.append(message)
        return found

    def ask(self, message: Message, kind: type[Any], fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> Any:
        """Says it and returns the answer, which must be of that kind."""
        self.say(message, fds, parts)
        answer = self.hear()
        assert isinstance(answer, kind), answer
        return answer

    def query(self, what: str, model: str = "") -> Any:
        self._count += 1
        return self.ask(Query(self._count, what, model), Answer).value

    @property
    def is_over(self) -> bool:
        """Whether the broker has closed the connection (waits for it)."""
        try:
            while True:
                assert self.link.wait(PATIENCE_S), "the connection is still open"
                self._heard.extend(self.link.receive())
        except LinkClosed:
            return True

    # --- memory and requests ---------------------------------------------------------------------------------------------

    def register(self, name: str, byte_size: int = REGION_BYTES) -> Mapping:
        """Registers memory of the kind that the link can carry."""
        self._count += 1
        if self._sock is not None:
            fd = create_memfd(name, byte_size)
            self.ask(Register(self._count, name, "memfd", byte_size, fds=1), Done, fds=(fd,))
        else:
            key = f"penstock-speaker-{os.getpid()}-{id(self)}-{self._count}"
            fd = create_system(key, byte_size)
            try:
                self.ask(Register(self._count, name, "system", byte_size, key), Done)
            finally:
                unlink_system(key)
        self._regions[name] = Mapping(fd, byte_size)
        os.close(fd)
        return self._regions[name]

    def submit(
        self, message_id: int, rows: int = 1, model: str = "echo", region: str = "r", slot: int = 0,
        value: float | None = None, **fields: Any,
    ) -> None:  # fmt: skip
        """A good request: the rows hold the id (or the value) and its negative; input and output lie in the slot."""
        if region not in self._regions:
            self.register(region)
        given = message_id if value is None else value
        self._view(region, INPUT_AT, slot, rows)[:] = (given, -given)
        self._view(region, OUTPUT_AT, slot, rows)[:] = np.nan
        self.say(self.request(message_id, rows, model, region, slot, **fields))

    def request(
        self, message_id: int, rows: int = 1, model: str = "echo", region: str = "r", slot: int = 0, **fields: Any
    ) -> Infer:
        """The message for it."""
        size, at = rows * ROW_BYTES, slot * 4 * ROW_BYTES
        inputs = [InputTensor("x", "FP32", [rows, 2], region, INPUT_AT + at, size)]
        outputs = [OutputPlace("y", region, OUTPUT_AT + at, size)]
        return Infer(message_id, model, Raw(encode(inputs)), Raw(encode(outputs)), **fields)

    def outcomes(self, count: int) -> dict[int, str]:
        """The next outcomes and releases, by id: "ok", or the error's code."""
        found: dict[int, str] = {}
        for _ in range(count):
            message = self.hear()
            if isinstance(message, Released):
                found[message.id] += " released"
            else:
                assert isinstance(message, (Result, Failed)), message
                found[message.id if message.id is not None else -1] = message.code if isinstance(message, Failed) else "ok"
        return found

    def is_right(self, message_id: int, rows: int = 1, region: str = "r", slot: int = 0) -> bool:
        """Whether the output of such a request holds what its input held."""
        return bool((self._view(region, OUTPUT_AT, slot, rows) == (message_id, -message_id)).all())

    def _view(self, region: str, at: int, slot: int, rows: int) -> np.ndarray[Any, Any]:
        begin = at + slot * 4 * ROW_BYTES
        return self._regions[region].array[begin : begin + rows * ROW_BYTES].view(np.float32).reshape(rows, 2)

    def is_served(self, message_id: int = 999_999, model: str = "echo") -> bool:
        """Whether a good request gets the right answer."""
        self.submit(message_id, 2, model, region="served")
        result = self.hear()
        assert isinstance(result, Result), result
        return result.id == message_id and self.is_right(message_id, 2, region="served")
