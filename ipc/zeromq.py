# SPDX-License-Identifier: Apache-2.0
"""The ZeroMQ links: a ROUTER in the broker, a DEALER in a client. The only importer of zmq.

One multipart message is one frame and the parts (inline tensors) that its messages declare, in order. The rules that keep
ZeroMQ honest are from its own issue tracker: ROUTER_MANDATORY, or messages to a full or unknown peer vanish (libzmq 2037);
never a blocking send, which may wait for ever for a peer that left (libzmq 4665); a queue of our own per peer; LINGER 0,
or the process hangs at its end (pyzmq 537); no reconnecting behind our back, for a new connection is a new session.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import threading
import time
from collections.abc import Sequence
from typing import Generic, TypeVar

import zmq

from .codec import MAX_FRAME_BYTES, BadMessage, FrameDecoder
from .errors import BrokerError, CallerError, Code, MachineError, invalid
from .local import LinkClosed
from .multiparts import MultipartLink
from .readiness import Readiness
from .router_peers import RouterPeer
from .socket_paths import ListeningPath

__all__ = ["DealerLink", "RouterDoor", "RouterPeer"]

M = TypeVar("M")
Frame = Sequence[M | BadMessage]

MAX_PART_BYTES = 64 * 1024 * 1024
"""Largest inline tensor taken. libzmq drops the connection of a peer that announces more, before it reads it."""
RECEIVE_QUEUE_FRAMES = 64
SEND_QUEUE_FRAMES = 256
NEVER_MS = 24 * 3600 * 1000
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 2_000, 10_000
BLOCKED_POLL_S = 0.01

_NOW = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)  # plain integers: the enums cost microseconds to combine
_CONNECTED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_ENDED = int(
    zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_GENERATED_ID = 0  # first byte of the routing ids that a ROUTER makes up; a peer cannot choose such a one (zmq_setsockopt(3))


class RouterDoor(Generic[M]):
    """A bound ROUTER: where ZeroMQ clients come in. Not for more than one thread.

    `fileno` says when to call `receive`, but ZeroMQ's descriptor is edge-triggered, and sending may take the edge away: call
    `receive` until it returns nothing, once more after peers were flushed.
    """

    def __init__(self, address: str, decoder: FrameDecoder[M], max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.address = address
        self._decoder = decoder
        self._max_frame_bytes = max_frame_bytes
        self.is_tcp = address.startswith("tcp://")
        #: routing id -> peer that has sent something and was not closed
        self._peers: dict[bytes, RouterPeer[M]] = {}
        #: the peer whose parts are still to be taken
        self._with_parts: RouterPeer[M] | None = None
        #: a frame with parts that came behind others: returned alone, next time
        self._held: tuple[RouterPeer[M], Frame[M], list[bytes]] | None = None
        self._listening = None if self.is_tcp else ListeningPath(_ipc_path(address))
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        try:
            self._bind(address)
            self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")  # tcp port 0 is another one now
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<RouterDoor {self.address} {len(self._peers)} peers>"

    def check_invariants(self) -> None:
        """Peers are known by their own routing id."""
        assert all(peer.routing_id == routing_id and not peer.closed for routing_id, peer in self._peers.items()), self

    def _bind(self, address: str) -> None:
        socket = self._socket
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, max(self._max_frame_bytes, MAX_PART_BYTES))
        socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_FRAMES)
        socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_FRAMES)
        if self._listening is not None:
            # Bound by us, with the right mode and our lock; libzmq closes its descriptor, and leaves the file alone.
            socket.setsockopt(zmq.USE_FD, os.dup(self._listening.sock.fileno()))
        else:
            socket.setsockopt(zmq.IPV6, int("[" in address))
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE:
                raise CallerError(f"address {address} is in use", Code.ALREADY_EXISTS) from error
            raise MachineError(f"cannot bind {address}: {error.strerror}") from error

    def fileno(self) -> int:
        """ZeroMQ's descriptor, to be polled for input only."""
        return int(self._socket.getsockopt(zmq.FD))

    # --- receiving -------------------------------------------------------------------------------------------------------

    def receive(self, limit: int = 256) -> list[tuple[RouterPeer[M], Frame[M]]]:
        """At most `limit` frames that have arrived, each with who sent it; none, when nothing is left.

        A frame that is no frame is one BadMessage. Parts last until the next call; so a frame that has some comes last.
        """
        if self._with_parts is not None:
            self._with_parts.parts.clear()  # what no message declared
            self._with_parts = None
        deliveries: list[tuple[RouterPeer[M], Frame[M]]] = []
        held, self._held = self._held, None
        if held is not None and not held[0].closed:
            return self._alone(*held)
        recv, peers = self._socket.recv, self._peers
        while len(deliveries) < limit and (len(deliveries) > 2 or self._has_input()):
            try:
                routing_id = recv(_NOW)
            except zmq.Again:
                break
            frame = recv(_NOW, copy=False)
            parts = _rest(self._socket) if frame.more else []
            peer = peers.get(routing_id)
            if peer is None or routing_id[0] != _GENERATED_ID:
                peer = self._peer(routing_id, frame)
            messages = self._decode(frame)
            if parts and not deliveries:
                return self._alone(peer, messages, parts)
            if parts:
                self._held = (peer, messages, parts)
                break
            deliveries.append((peer, messages))
        return deliveries

    def _has_input(self) -> bool:
        """Asked for the first few frames: cheaper than the exception when there is none (2 us against 5), dearer than none."""
        return bool(int(self._socket.getsockopt(_EVENTS)) & _POLLIN)

    def _alone(self, peer: RouterPeer[M], messages: Frame[M], parts: list[bytes]) -> list[tuple[RouterPeer[M], Frame[M]]]:
        peer.parts = parts
        self._with_parts = peer
        return [(peer, messages)]

    def _peer(self, routing_id: bytes, frame: zmq.Frame) -> RouterPeer[M]:
        """The peer of a routing id that is new, or that its owner chose: another process may choose the same one later."""
        address = _peer_address(frame)
        known = self._peers.get(routing_id)
        if known is not None and known.peer_address == address:
            return known
        peer: RouterPeer[M] = RouterPeer(self, routing_id, address, self._max_frame_bytes)
        self._peers[routing_id] = peer
        if known is not None:
            known.close()
        return peer

    def _decode(self, frame: zmq.Frame) -> Frame[M]:
        if len(frame) > self._max_frame_bytes:
            return [BadMessage(f"a frame of {len(frame)} bytes, at most {self._max_frame_bytes} are taken")]
        try:
            return self._decoder.decode(frame.bytes)
        except CallerError as error:
            return [BadMessage(error.message)]

    # --- sending ---------------------------------------------------------------------------------------------------------

    def send(self, routing_id: bytes, multipart: Sequence[bytes]) -> bool:
        """Hands one multipart message to ZeroMQ; for RouterPeer. False: the peer's pipe is full. Raises LinkClosed."""
        return _send(self._socket, [routing_id, *multipart])

    def forget(self, peer: RouterPeer[M]) -> None:
        """Takes a closed peer out; for RouterPeer."""
        if self._peers.get(peer.routing_id) is peer:
            del self._peers[peer.routing_id]

    def close(self) -> None:
        """Stops listening, removes its socket file, forgets all peers. Idempotent."""
        for peer in list(self._peers.values()):
            peer.close()
        self._socket.close(0)
        self._context.term()
        if self._listening is not None:
            self._listening.close()


class DealerLink(MultipartLink, Generic[M]):
    """A client's ZeroMQ connection, with LocalLink's interface; it never reconnects by itself.

    One thread may wait and receive while another puts and flushes. `fileno` is honest, unlike ZeroMQ's own: readable whenever
    `receive` has something to say; only after `wait` has said so, it is quiet until `receive`.
    """

    def __init__(self, decoder: FrameDecoder[M], max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        super().__init__(max_frame_bytes)
        self._decoder = decoder
        #: around every use of the ZeroMQ sockets, which are for one thread at a time
        self._lock = threading.Lock()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(_CONNECTED | _ENDED)
        self._ready = Readiness(int(each.getsockopt(zmq.FD)) for each in (self._socket, self._monitor))
        #: `wait` has seen input, which `receive` has not taken yet
        self._found = False
        self._gone = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "gone" if self._gone else "open"
        return f"<DealerLink {state}, {self.outbox!r}, {len(self.parts)} parts received>"

    def connect(self, address: str, timeout_s: float = 5.0) -> None:
        """Connects to a broker's ZeroMQ address. Raises BrokerError when nobody answers there."""
        socket = self._socket
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_PART_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)  # -1 would also say never, but throws received messages away
        if address.startswith("tcp://"):
            socket.setsockopt(zmq.IPV6, int("[" in address))
            socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise BrokerError(f"no broker at {address}: {error.strerror}") from error
        deadline = time.monotonic() + timeout_s
        while (event := self._next_event(deadline)) != zmq.EVENT_HANDSHAKE_SUCCEEDED:
            if event is None:
                raise BrokerError(f"the broker at {address} did not answer within {timeout_s} s")
            if event & _ENDED:
                raise BrokerError(f"no broker at {address}: the connection was refused or broken off")
        # ZeroMQ signals only what comes after somebody looked and found nothing.
        gone = self._is_gone()
        self._ready.set_left(self._has_input() or gone)

    def _next_event(self, deadline: float) -> int | None:
        """The next thing that the monitor reports; None when the time is over."""
        if not self._monitor.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            return None
        return _event_of(self._monitor.recv_multipart())

    def fileno(self) -> int:
        """A descriptor to be polled for input, level-triggered."""
        return self._ready.fileno()

    # --- receiving -------------------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float | None) -> bool:
        """Whether `receive` has something to say (messages, or that the link is closed) within that time; None: whenever."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not (self.closed or self._found):
            remaining_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._ready.poll(remaining_s):
                return False
            with self._lock:
                if self.closed:
                    break
                self._found = self._has_input()
                gone = not self._found and self._is_gone()
                self._ready.set_left(gone)
                if self._found or gone:
                    break
        return True

    def receive(self, block: bool = False) -> Frame[M]:
        """The messages of the frames that have arrived (RECEIVE_QUEUE_FRAMES at most). Raises LinkClosed, CallerError."""
        if block:
            self.wait(None)
        messages: list[M | BadMessage] = []
        with self._lock:
            self._raise_if_closed()
            frames = 0
            while frames < RECEIVE_QUEUE_FRAMES and (self._found or self._has_input()):
                self._found = False
                frame = self._socket.recv(_NOW, copy=False)
                if frame.more:
                    self.parts += _rest(self._socket)
                messages += self._decoder.decode(frame.bytes)
                frames += 1
            gone = self._gone if frames else self._is_gone()
            self._ready.set_left(gone or frames == RECEIVE_QUEUE_FRAMES)
            if gone and not frames:
                raise LinkClosed("the broker closed the connection")
        return messages

    def _has_input(self) -> bool:
        return bool(int(self._socket.getsockopt(_EVENTS)) & _POLLIN)

    def _is_gone(self) -> bool:
        """Whether the connection has ended: what the monitor reports after the handshake is nothing else."""
        if not self._gone and int(self._monitor.getsockopt(_EVENTS)) & _POLLIN:
            self._gone = True
        return self._gone

    def _raise_if_closed(self) -> None:
        if self.closed:
            raise LinkClosed("this link was closed")

    # --- sending ---------------------------------------------------------------------------------------------------------

    def flush(self, block: bool = False) -> bool:
        """Sends everything put, as one frame. False: ZeroMQ's queue is full, try again later; `block` waits instead.

        Raises LinkClosed; TooLargeError for messages that by themselves exceed the frame limit.
        """
        self._raise_if_closed()
        self.outbox.seal()
        while self.outbox.multiparts:
            if self._send_first():
                continue
            if not block:
                return False
            select.select([], [], [], BLOCKED_POLL_S)  # room is not signalled: the receiving thread may take that signal
        return True

    def _send_first(self) -> bool:
        with self._lock:
            self._raise_if_closed()
            sent = _send(self._socket, self.outbox.multiparts[0])
            if sent:
                self.outbox.sent()
            if self._has_input():
                self._ready.set_left(True)
            if self._gone or (not sent and self._is_gone()):
                raise LinkClosed("the broker closed the connection")
        return sent

    def close(self) -> None:
        """Ends the connection; what was put and not sent is dropped. Idempotent."""
        with self._lock:
            if self.closed:
                return
            self._drop_all()
            self._socket.disable_monitor()
            self._monitor.close(0)
            self._socket.close(0)
            self._context.term()
            self._ready.close()  # last: whoever waits in another thread wakes up, and finds it closed


def _send(socket: zmq.Socket[bytes], multipart: Sequence[bytes]) -> bool:
    """Whether ZeroMQ took it. Only the first part can be refused: with it ZeroMQ picks the pipe and asks it for room."""
    try:
        for part in multipart[:-1]:
            socket.send(part, _MORE)
        socket.send(multipart[-1], _NOW)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno == errno.EHOSTUNREACH:
            raise LinkClosed("the peer is gone") from error
        raise MachineError(f"ZeroMQ: {error.strerror}") from error
    return True


def _rest(socket: zmq.Socket[bytes]) -> list[bytes]:
    """The parts that follow the one just received."""
    parts: list[bytes] = []
    more = True
    while more:
        frame = socket.recv(_NOW, copy=False)
        parts.append(frame.bytes)
        more = frame.more
    return parts


def _peer_address(frame: zmq.Frame) -> str:
    """The address of the connection that brought it; "" where libzmq knows none."""
    try:
        return str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return ""


def _event_of(report: Sequence[bytes]) -> int:
    """A monitor's report begins with the event's number and a value, zmq_socket_monitor(3)."""
    event: int = struct.unpack_from("=H", report[0])[0]
    return event


def _ipc_path(address: str) -> str:
    path = address.removeprefix("ipc://")
    if not address.startswith("ipc://") or not path.startswith("/"):
        raise invalid(f"cannot bind {address}: it must be ipc:///PATH or tcp://HOST:PORT")
    return path
