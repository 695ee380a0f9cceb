# SPDX-License-Identifier: Apache-2.0
"""Pairs of links for the contract tests: a client and the broker's end of its connection, over unix sockets and ZeroMQ."""

from __future__ import annotations

import os
import select
import struct
import time
from pathlib import Path
from typing import Any

from penstock.ipc.codec import FrameDecoder
from penstock.ipc.local import LinkClosed, LocalLink, LocalListener, connect_local
from penstock.ipc.messages import FromClient, Ping, ToClient
from penstock.ipc.zeromq import DealerLink, RouterDoor, RouterPeer

LIMIT = 64 * 1024
PATIENCE_S = 20.0


class LocalPair:
    """A client and the broker's end of its connection, over a unix socket."""

    def __init__(self, directory: Path, max_frame_bytes: int = LIMIT) -> None:
        self.listener = LocalListener(directory / "local.sock")
        self.client: Any = LocalLink(connect_local(self.listener.path, 5.0), FrameDecoder(ToClient), max_frame_bytes)
        accepted = self.listener.accept()
        assert accepted is not None
        sock, self.peer = accepted
        self.broker: Any = LocalLink(sock, FrameDecoder(FromClient), max_frame_bytes)

    def broker_receives(self) -> list[Any]:
        assert self.broker.wait(PATIENCE_S)
        return list(self.broker.receive())

    def send_raw(self, frame: bytes) -> None:
        self.client._sock.sendall(struct.pack("<I", len(frame)) + frame)

    def close(self) -> None:
        for end in (self.client, self.broker):
            end.check_invariants()
            end.close()
            end.check_invariants()
        if self.peer.pidfd is not None:
            os.close(self.peer.pidfd)
        self.listener.close()


class ZmqPair:
    """The same over ZeroMQ. The broker knows a client from its first frame on."""

    def __init__(self, address: str, max_frame_bytes: int = LIMIT) -> None:
        self.door: RouterDoor[Any] = RouterDoor(address, FrameDecoder(FromClient), max_frame_bytes)
        self.client: Any = DealerLink(FrameDecoder(ToClient), max_frame_bytes)
        self.client.connect(self.door.address)
        self.client.put(Ping())
        assert self.client.flush()
        ((broker, messages),) = door_receives(self.door)
        assert messages == [Ping()]
        self.broker: Any = broker
        self.peer = broker.peer

    def broker_receives(self) -> list[Any]:
        arrived = door_receives(self.door)
        assert all(peer is self.broker for peer, _ in arrived)
        return [message for _, messages in arrived for message in messages]

    def send_raw(self, frame: bytes) -> None:
        self.client._socket.send(frame)

    def close(self) -> None:
        for end in (self.client, self.broker):
            end.check_invariants()
            end.close()
            end.check_invariants()
        if self.peer is not None:
            os.close(self.peer.pidfd)
        self.door.check_invariants()
        self.door.close()


def door_receives(door: RouterDoor[Any]) -> list[tuple[RouterPeer[Any], Any]]:
    """What the next call that returns something returns."""
    deadline = time.monotonic() + PATIENCE_S
    while not (arrived := door.receive()):
        assert time.monotonic() < deadline, "nothing arrived"
        select.select([door.fileno()], [], [], PATIENCE_S)
    return arrived


def make_pair(kind: str, directory: Path, max_frame_bytes: int = LIMIT) -> Any:
    if kind == "local":
        return LocalPair(directory, max_frame_bytes)
    return ZmqPair(f"ipc://{directory}/zmq.sock" if kind == "ipc" else "tcp://127.0.0.1:0", max_frame_bytes)


def client_receives(pair: Any, count: int = 1) -> list[Any]:
    messages: list[Any] = []
    while len(messages) < count:
        assert pair.client.wait(PATIENCE_S)
        messages += pair.client.receive()
    return messages


def broker_receives(pair: Any, count: int = 1) -> list[Any]:
    messages: list[Any] = []
    while len(messages) < count:
        messages += pair.broker_receives()
    return messages


def closing(receive: Any) -> str:
    """Receives until the link says why it is closed."""
    while True:
        try:
            receive()
        except LinkClosed as error:
            return str(error)
