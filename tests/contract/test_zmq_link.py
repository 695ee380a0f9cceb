# SPDX-License-Identifier: Apache-2.0
"""What only the ZeroMQ links do: message parts, many peers behind one socket, routing ids."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from link_pairs import LIMIT, PATIENCE_S, ZmqPair, client_receives, door_receives

from penstock.ipc.codec import BadMessage, FrameDecoder, encode
from penstock.ipc.errors import CallerError
from penstock.ipc.local import LinkClosed
from penstock.ipc.messages import Answer, Cancel, Done, FromClient, Ping, ToClient
from penstock.ipc.zeromq import DealerLink, RouterDoor


@pytest.fixture
def over_zmq(tmp_path: Path) -> Iterator[ZmqPair]:
    made = ZmqPair(f"ipc://{tmp_path}/zmq.sock")
    yield made
    made.close()


def test_parts_are_taken_in_order(over_zmq: ZmqPair) -> None:
    over_zmq.broker.put(Done(1), parts=[b"a", b"b"])
    over_zmq.broker.put(Done(2))
    over_zmq.broker.put(Done(3), parts=[b"c"])
    assert over_zmq.broker.flush()
    over_zmq.broker.put(Done(4), parts=[b"x" * 100_000])
    assert over_zmq.broker.flush()
    assert client_receives(over_zmq, 4) == [Done(1), Done(2), Done(3), Done(4)]
    assert over_zmq.client.take_parts(2) == [b"a", b"b"]
    assert over_zmq.client.take_parts(1) == [b"c"]
    assert over_zmq.client.take_parts(1) == [b"x" * 100_000]
    with pytest.raises(CallerError, match="1 message parts are declared, 0 arrived"):
        over_zmq.client.take_parts(1)


def test_parts_belong_to_the_frame_that_brought_them(over_zmq: ZmqPair) -> None:
    # Given a frame whose messages take fewer parts than it brings, and one behind it
    over_zmq.client.put(Cancel(1))
    over_zmq.client.flush()
    over_zmq.client.put(Cancel(2), parts=[b"mine", b"nobody's"])
    over_zmq.client.flush()
    over_zmq.client.put(Cancel(3), parts=[b"mine too"])
    over_zmq.client.flush()
    seen = []
    while len(seen) < 3:
        for peer, messages in door_receives(over_zmq.door):
            seen += messages
            if messages == [Cancel(2)]:
                assert peer.take_parts(1) == [b"mine"]
            if messages == [Cancel(3)]:
                assert peer.take_parts(1) == [b"mine too"]
    assert seen == [Cancel(1), Cancel(2), Cancel(3)]


def test_parts_that_nobody_took_are_not_the_next_frames(over_zmq: ZmqPair) -> None:
    over_zmq.client.put(Cancel(1), parts=[b"left"])
    over_zmq.client.flush()
    assert over_zmq.broker_receives() == [Cancel(1)]
    over_zmq.client.put(Cancel(2))
    over_zmq.client.flush()
    assert over_zmq.broker_receives() == [Cancel(2)]
    with pytest.raises(CallerError, match="1 message parts are declared, 0 arrived"):
        over_zmq.broker.take_parts(1)


def test_a_client_does_not_come_back_behind_its_users_back(over_zmq: ZmqPair) -> None:
    """A new broker at the same address knows nothing of its session: whoever wants one connects and says Hello."""
    address = over_zmq.door.address
    over_zmq.door.close()
    assert over_zmq.client.wait(PATIENCE_S)
    over_zmq.door = RouterDoor(address, FrameDecoder(FromClient))
    with pytest.raises(LinkClosed):
        over_zmq.client.receive()
    assert over_zmq.door.receive() == []  # takes the announcements of its own start away
    assert not select.select([over_zmq.door.fileno()], [], [], 0.2)[0], "ZeroMQ's own reconnecting takes 0.1 s"


def test_garbage_is_a_bad_message_and_the_next_frame_is_fine(over_zmq: ZmqPair) -> None:
    for garbage in (b"", b"\xc1", b"GET / HTTP/1.1\r\n\r\n", b"x" * (LIMIT + 1)):
        over_zmq.send_raw(garbage)
        (bad,) = over_zmq.broker_receives()
        assert isinstance(bad, BadMessage)
    over_zmq.send_raw(b"\x91" + encode(Ping()))
    assert over_zmq.broker_receives() == [Ping()]


def test_strangers_bytes_on_the_socket_disturb_nobody(over_zmq: ZmqPair) -> None:
    path = over_zmq.door.address.removeprefix("ipc://")
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" + b"\0" * 200, b"\x00" * 64, os.urandom(500)):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(path)
            stranger.sendall(garbage)
    over_zmq.client.put(Cancel(1))
    over_zmq.client.flush()
    messages: list[Any] = []
    while Cancel(1) not in messages:
        for peer, arrived in door_receives(over_zmq.door):
            messages += arrived
            if peer is not over_zmq.broker:
                assert all(isinstance(each, BadMessage) for each in arrived)
                if peer.peer is not None:
                    os.close(peer.peer.pidfd)


def test_a_full_peer_does_not_stall_another(over_zmq: ZmqPair) -> None:
    other: DealerLink[Any] = DealerLink(FrameDecoder(ToClient), LIMIT)
    other.connect(over_zmq.door.address)
    other.put(Ping())
    other.flush()
    ((broker_of_other, _),) = door_receives(over_zmq.door)
    while over_zmq.broker.backlog < 2_000_000:
        over_zmq.broker.put(Answer(1, "x" * 50_000))
        over_zmq.broker.flush()
    broker_of_other.put(Done(2))
    assert broker_of_other.flush()
    assert list(other.receive(block=True)) == [Done(2)]
    other.close()
    os.close(broker_of_other.peer.pidfd)


def test_a_peer_that_was_closed_comes_back_as_another(over_zmq: ZmqPair) -> None:
    over_zmq.broker.close()
    over_zmq.client.put(Cancel(1))
    over_zmq.client.flush()
    ((peer, messages),) = door_receives(over_zmq.door)
    assert messages == [Cancel(1)]
    assert peer is not over_zmq.broker
    os.close(peer.peer.pidfd)


CHOSEN_IDENTITY = """
import sys, zmq
with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
    dealer.linger = 5000
    dealer.routing_id = b"chosen"
    dealer.connect(sys.argv[1])
    dealer.send(b"\\x91\\x81\\xa4type\\xa4ping")
    dealer.recv()
"""


def test_an_identity_that_another_process_used_before_is_another_peer(over_zmq: ZmqPair) -> None:
    seen = []
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", CHOSEN_IDENTITY, over_zmq.door.address]) as process:
            ((peer, messages),) = door_receives(over_zmq.door)
            assert messages == [Ping()]
            assert peer.peer.pid == process.pid
            peer.put(Done(1))
            peer.flush()
            assert select.select([peer.peer.pidfd], [], [], PATIENCE_S)[0], "its death shows on the pidfd"
        seen.append(peer)
    first, second = seen
    assert first is not second
    assert first.closed
    assert not second.closed
    for peer in seen:
        os.close(peer.peer.pidfd)


def test_a_door_on_tcp_tells_the_port_it_got(tmp_path: Path) -> None:
    door: RouterDoor[Any] = RouterDoor("tcp://127.0.0.1:0", FrameDecoder(FromClient))
    try:
        assert int(door.address.rpartition(":")[2]) > 0
        with pytest.raises(CallerError, match="in use"):
            RouterDoor(door.address, FrameDecoder(FromClient))
    finally:
        door.close()
