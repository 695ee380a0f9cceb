# SPDX-License-Identifier: Apache-2.0
"""A whole client in plain zmq and msgpack, importing nothing of Penstock: the reference for other languages.

It keeps no state that the protocol does not ask for. Messages are maps as docs/protocol.md lists them; one ZeroMQ message is a
frame (a MessagePack array of messages) followed by the parts that its messages declare, in order.

usage: python -m penstock.clients.wire ADDRESS      (ipc://PATH or tcp://HOST:PORT) asks a broker how it is
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import zmq

PROTOCOL = 1


class WireError(Exception):
    """What the broker answered instead: its code, whose fault it is, and whether the request's memory is free again."""

    def __init__(self, failed: Mapping[str, Any]) -> None:
        super().__init__(f"{failed['code']}: {failed['message']}")
        self.code: str = failed["code"]
        self.fault: str = failed["fault"]
        self.released: bool = failed.get("released", True)  # fields that hold their default are left out


class WireClient:
    """One session. Not for more than one thread."""

    def __init__(self, address: str, timeout_s: float = 10.0) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 24 * 3600 * 1000)  # never: another connection is another session
        self._socket.setsockopt(zmq.RCVTIMEO, int(timeout_s * 1000))
        self._socket.connect(address)
        self._ids = itertools.count(1)
        #: id -> messages about it that nobody has asked for yet, each with its parts
        self._arrived: dict[int | None, list[tuple[dict[str, Any], list[bytes]]]] = {}
        self.send({"type": "hello", "session": os.urandom(16), "protocol": PROTOCOL, "pid": os.getpid(), "name": "wire"})
        try:
            self.welcome, _ = self.answer(None)
        except Exception:  # nobody answers
            self.close()
            raise

    def send(self, *messages: Mapping[str, Any], parts: Sequence[bytes] = ()) -> None:
        """Sends messages as one frame, and the parts that they declare."""
        self._socket.send_multipart([msgpack.packb(messages), *parts])

    def answer(self, number: int | None) -> tuple[dict[str, Any], list[bytes]]:
        """The next message about `number`, with its parts; reads until it is there. Raises WireError for a `failed`."""
        while not self._arrived.get(number):
            frame, *parts = self._socket.recv_multipart()
            for message in msgpack.unpackb(frame):
                count = message.get("parts", 0)
                self._arrived.setdefault(message.get("id"), []).append((message, parts[:count]))
                del parts[:count]
        message, brought = self._arrived[number].pop(0)
        if not self._arrived[number]:
            del self._arrived[number]
        if message["type"] == "failed":
            raise WireError(message)
        return message, brought

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a message under a fresh id and returns its answer."""
        number = next(self._ids)
        self.send({**message, "id": number})
        return self.answer(number)[0]

    def query(self, what: str, model: str = "", version: int = -1) -> Any:
        """A document: status, metadata, statistics, index, ..."""
        return self.ask({"type": "query", "what": what, "model": model, "version": version})["value"]

    def region(self, name: str, byte_size: int) -> mmap.mmap:
        """Makes a POSIX segment, registers it under `name`, and takes its key away: the memory dies with its last user."""
        key = f"penstock-wire-{os.getpid()}-{os.urandom(6).hex()}"
        path = f"/dev/shm/{key}"  # noqa: S108 - where Linux keeps POSIX shared memory, shm_overview(7)
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(fd, 0, byte_size)  # ftruncate alone would reserve nothing: SIGBUS when memory runs out
            memory = mmap.mmap(fd, byte_size)
            self.ask({"type": "register", "name": name, "kind": "system", "key": key, "byte_size": byte_size})
        finally:
            os.close(fd)
            os.unlink(path)
        return memory

    def unregister(self, name: str) -> None:
        """Forgets a region."""
        self.ask({"type": "unregister", "name": name})

    def start(
        self, model: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]] = (),
        parts: Sequence[bytes] = (), **options: Any,
    ) -> int:  # fmt: skip
        """Sends a request and returns its id, for `answer` and `cancel`.

        An input is {"name", "datatype", "shape"} and either {"region", "offset", "byte_size"} or, without these, the next of
        `parts`. An output is {"name"} and the same three, or nothing more: then it comes as a part of the answer.
        """
        number = next(self._ids)
        message = {"type": "infer", "id": number, "model": model, "inputs": inputs, "outputs": outputs, **options}
        self.send({**message, "parts": len(parts)}, parts=parts)
        return number

    def infer(
        self, model: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]] = (),
        parts: Sequence[bytes] = (), **options: Any,
    ) -> tuple[dict[str, Any], list[bytes]]:  # fmt: skip
        """As `start`, and waits: the `result`, and the outputs that have no place, in order."""
        return self.answer(self.start(model, inputs, outputs, parts, **options))

    def cancel(self, number: int) -> None:
        """Gives up on a request. `answer` then raises CANCELLED, unless it was too late; `released` says what to wait for."""
        self.send({"type": "cancel", "id": number})

    def close(self) -> None:
        """Says goodbye; what the session held is given back."""
        self.send({"type": "goodbye"})
        self._socket.close(linger=1000)  # ms in which the goodbye may still leave
        self._context.term()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m penstock.clients.wire ADDRESS")
    client = WireClient(sys.argv[1])
    print(json.dumps(client.query("status"), indent=1))  # noqa: T201
    client.close()
