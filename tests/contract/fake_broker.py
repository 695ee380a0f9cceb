# SPDX-License-Identifier: Apache-2.0
"""A broker that does as a test tells it, in a thread of the test's process, behind a real socket of either kind.

It has three models that double what they get: `echo` (FP32 x[4] to y[4], batches of 8), `varied` (FP32 x[-1] to y[-1], whose
size is not known beforehand) and `text` (BYTES s[-1] to t[-1], no batch dimension). With `hold` set it keeps requests instead,
and the test answers them one by one.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from penstock.ipc.codec import FrameDecoder, encode
from penstock.ipc.local import LinkClosed, LocalLink, LocalListener
from penstock.ipc.messages import (
    Answer,
    Cancel,
    Done,
    Failed,
    FromClient,
    Goodbye,
    Hello,
    Infer,
    InputTensor,
    OutputPlace,
    OutputTensor,
    Query,
    Register,
    Released,
    Result,
    Unregister,
    Welcome,
)
from penstock.ipc.regions import Mapping, create_memfd
from penstock.ipc.system_regions import open_system
from penstock.ipc.tensors import deserialize_bytes, serialize_bytes
from penstock.ipc.zeromq import RouterDoor

WAIT_S = 20.0
METADATA = {
    "echo": (8, [("x", "FP32", [-1, 4])], [("y", "FP32", [-1, 4])]),
    "varied": (8, [("x", "FP32", [-1, -1])], [("y", "FP32", [-1, -1])]),
    "text": (0, [("s", "BYTES", [-1])], [("t", "BYTES", [-1])]),
}


class Peer:
    """One connected client, as the broker sees it."""

    def __init__(self, link: Any) -> None:
        self.link = link
        self.hello: Hello | None = None
        self.memory: dict[str, Mapping] = {}


class FakeBroker:
    """Use as a context manager. Attributes are read by the test once `wait_for` says that what it waits for is so."""

    def __init__(self, address: str, identity: bytes = b"first") -> None:
        self.address = address
        self.is_local = address.startswith("unix://")
        self.identity = identity
        self.hold = False
        self.lease_s = 0.0
        self.inline_only = address.startswith("tcp://")
        self.peers: list[Peer] = []
        self.held: list[tuple[Peer, Infer, list[bytes]]] = []
        self.received: list[Any] = []
        self._changed = threading.Condition()
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._decoder: FrameDecoder[Any] = FrameDecoder(FromClient)
        self._listener = LocalListener(address.removeprefix("unix://")) if self.is_local else None
        self._door = None if self.is_local else RouterDoor(address, self._decoder)
        if self._door is not None:
            self.address = self._door.address
        self._by_router: dict[Any, Peer] = {}
        self._thread = threading.Thread(target=self._run, name="fake-broker")
        self.failure: BaseException | None = None
        self._stopped = False

    # --- what a test says -------------------------------------------------------------------------------------------------

    def __enter__(self) -> FakeBroker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
        if self.failure is not None:
            raise self.failure

    def die(self) -> None:
        """Ends at once, as if killed: sockets closed, nothing said."""
        if self._stopped:
            return
        self._stopped = True
        self._orders.put(None)
        os.eventfd_write(self._wake, 1)
        self._thread.join(WAIT_S)
        os.close(self._wake)

    def order(self, action: Callable[[], None]) -> None:
        """Runs `action` in the broker's thread, and waits until it is done and sent."""
        done = threading.Event()

        def act() -> None:
            action()
            self._flush()
            done.set()

        self._orders.put(act)
        os.eventfd_write(self._wake, 1)
        assert done.wait(WAIT_S), self.failure

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S), (self.received, self.failure)

    def wait_held(self, count: int) -> None:
        self.wait_for(lambda: len(self.held) >= count)

    def answer(self, *positions: int) -> None:
        """Executes and answers held requests, all in one frame, in this order."""

        def act() -> None:
            for position in positions:
                self._execute(*self.held[position])

        self.order(act)

    def send(self, make: Callable[[Infer], Any], position: int = 0) -> None:
        """Answers a held request with any message."""
        peer, message, _ = self.held[position]
        self.order(lambda: peer.link.put(make(message)))

    def fail(self, code: str = "INTERNAL", released: bool = True, position: int = 0) -> None:
        self.send(lambda message: Failed(code, "as the test wanted", "model", message.id, released), position)

    def release(self, position: int = 0) -> None:
        self.send(lambda message: Released(message.id), position)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.received if type(message) is kind]

    # --- the thread -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001 - told to the test, which raises it
            self.failure = error
        finally:
            self._close()

    def _serve(self) -> None:
        while True:
            links = [peer.link for peer in self.peers] if self.is_local else []
            source = self._listener if self._listener is not None else self._door
            assert source is not None
            readable, _, _ = select.select([source.fileno(), self._wake, *links], [], [], 0.05 if self._door else WAIT_S)
            if self._wake in readable:
                os.eventfd_read(self._wake)
                while not self._orders.empty():
                    action = self._orders.get()
                    if action is None:
                        return
                    action()
            self._accept()
            for peer in [peer for peer in self.peers if peer.link in readable]:
                self._receive_local(peer)
            self._receive_router()
            self._flush()
            self._receive_router()
            self._flush()
            with self._changed:
                self._changed.notify_all()

    def _accept(self) -> None:
        if self._listener is None:
            return
        while (accepted := self._listener.accept()) is not None:
            sock, who = accepted
            if who.pidfd is not None:
                os.close(who.pidfd)
            self.peers.append(Peer(LocalLink(sock, self._decoder)))

    def _receive_local(self, peer: Peer) -> None:
        try:
            messages = peer.link.receive()
        except LinkClosed:
            self._forget(peer)
            return
        for message in messages:
            self._handle(peer, message)

    def _receive_router(self) -> None:
        while self._door is not None and (arrived := self._door.receive()):
            for router_peer, messages in arrived:
                peer = self._by_router.get(router_peer)
                if peer is None:
                    peer = self._by_router[router_peer] = Peer(router_peer)
                    if router_peer.peer is not None and router_peer.peer.pidfd is not None:
                        os.close(router_peer.peer.pidfd)
                    self.peers.append(peer)
                for message in messages:
                    self._handle(peer, message)

    def _flush(self) -> None:
        for peer in list(self.peers):
            try:
                peer.link.flush()
            except LinkClosed:
                self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        self.peers.remove(peer)
        peer.link.close()
        for mapping in peer.memory.values():
            mapping.close()
        peer.memory.clear()

    def _close(self) -> None:
        for peer in list(self.peers):
            self._forget(peer)
        if self._listener is not None:
            self._listener.close()
        if self._door is not None:
            self._door.close()

    # --- what it does -----------------------------------------------------------------------------------------------------

    def _handle(self, peer: Peer, message: Any) -> None:
        self.received.append(message)
        if isinstance(message, Hello):
            peer.hello = message
            peer.link.put(Welcome(self.identity, os.getpid(), 256, 1 << 22, inline_only=self.inline_only, lease_s=self.lease_s))
        elif isinstance(message, Register):
            self._register(peer, message)
        elif isinstance(message, Unregister):
            peer.memory.pop(message.name)
            peer.link.put(Done(message.id))
        elif isinstance(message, Query):
            self._query(peer, message)
        elif isinstance(message, Infer):
            parts = peer.link.take_parts(message.parts)
            if self.hold:
                self.held.append((peer, message, parts))
            else:
                self._execute(peer, message, parts)
        elif isinstance(message, Goodbye):
            self._forget(peer)
        else:
            assert isinstance(message, Cancel) or type(message).__name__ == "Ping", message

    def _register(self, peer: Peer, message: Register) -> None:
        fd = peer.link.take_fds(1)[0] if message.kind == "memfd" else open_system(message.key)
        assert message.name not in peer.memory
        peer.memory[message.name] = Mapping(fd, message.byte_size, message.offset)
        os.close(fd)
        peer.link.put(Done(message.id))

    def _query(self, peer: Peer, message: Query) -> None:
        if message.what == "metadata" and message.model in METADATA:
            batch, inputs, outputs = METADATA[message.model]
            keys = ("name", "datatype", "shape")
            tensors = [[dict(zip(keys, row, strict=True)) for row in rows] for rows in (inputs, outputs)]
            document = {"name": message.model, "versions": ["1"], "version": "1", "platform": "fake", "max_batch_size": batch}
            peer.link.put(Answer(message.id, {**document, "inputs": tensors[0], "outputs": tensors[1]}))
        elif message.what == "regions":
            peer.link.put(Answer(message.id, [{"name": name} for name in peer.memory]))
        else:
            peer.link.put(Failed("NOT_FOUND", f"no {message.what} of '{message.model}'", "caller", message.id))

    def _execute(self, peer: Peer, message: Infer, parts: list[bytes]) -> None:
        inputs = msgspec.msgpack.decode(message.inputs, type=list[InputTensor])
        places = msgspec.msgpack.decode(message.outputs, type=list[OutputPlace])
        (tensor,) = inputs
        missing = [each.region for each in [*inputs, *places] if each.region and each.region not in peer.memory]
        if missing:
            peer.link.put(Failed("NOT_FOUND", f"Unable to find shared memory region: {missing}", "caller", message.id))
            return
        content = parts[0] if not tensor.region else _slice(peer, tensor).tobytes()
        name, output = _double(tensor, content)
        if places and places[0].region:
            place = places[0]
            _slice(peer, place)[: len(output)] = np.frombuffer(output, np.uint8)
            found = OutputTensor(name, tensor.datatype, tensor.shape, place.region, place.offset, len(output))
            peer.link.put(Result(message.id, msgspec.Raw(encode([found]))))
            return
        found = OutputTensor(name, tensor.datatype, tensor.shape, byte_size=len(output))
        if not self.is_local:
            peer.link.put(Result(message.id, msgspec.Raw(encode([found])), parts=1), (), [output])
            return
        fd = create_memfd("fake-output", max(len(output), 1))
        os.pwrite(fd, output, 0)
        peer.link.put(Result(message.id, msgspec.Raw(encode([found])), fds=1), [fd])
        os.close(fd)


def _slice(peer: Peer, tensor: InputTensor | OutputPlace) -> Any:
    return peer.memory[tensor.region].array[tensor.offset : tensor.offset + tensor.byte_size]


def _double(tensor: InputTensor, content: bytes) -> tuple[str, bytes]:
    if tensor.datatype == "BYTES":
        return "t", serialize_bytes(value * 2 for value in deserialize_bytes(content, tensor.shape, tensor.name))
    return "y", (np.frombuffer(content, np.float32) * 2).tobytes()
