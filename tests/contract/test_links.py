# SPDX-License-Identifier: Apache-2.0
"""What both kinds of link promise: the same stories over a pair of unix sockets and over ZeroMQ's ipc:// and tcp://."""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from penstock.ipc.codec import BadMessage, FrameDecoder, encode, encode_frame
from penstock.ipc.errors import BrokerError, CallerError, Code, MachineError
from penstock.ipc.local import MAX_FDS_PER_FRAME, LinkClosed, LocalLink, LocalListener, connect_local
from penstock.ipc.messages import Answer, Cancel, Done, FromClient, Ping, Query, Register, ToClient
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


@pytest.fixture(params=["local", "ipc", "tcp"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = make_pair(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalPair]:
    made = LocalPair(tmp_path)
    yield made
    made.close()


@pytest.fixture
def over_zmq(tmp_path: Path) -> Iterator[ZmqPair]:
    made = ZmqPair(f"ipc://{tmp_path}/zmq.sock")
    yield made
    made.close()


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


# --- both links -------------------------------------------------------------------------------------------------------------


def test_messages_arrive_in_order_both_ways(pair: Any) -> None:
    for start in range(0, 300, 100):
        for number in range(start, start + 100):
            pair.client.put(Cancel(number))
        assert pair.client.flush()
    assert broker_receives(pair, 300) == [Cancel(number) for number in range(300)]
    for number in range(300):
        pair.broker.put(Done(number))
        pair.broker.flush()
        if number % 100 == 99:  # small frames fill a socket, too
            assert client_receives(pair, 100) == [Done(each) for each in range(number - 99, number + 1)]


def test_everything_put_before_a_flush_is_one_frame(pair: Any) -> None:
    for number in range(50):
        pair.client.put(Cancel(number))
    assert pair.client.flush()
    assert pair.broker_receives() == [Cancel(number) for number in range(50)]


def test_nothing_is_sent_before_flush_and_nothing_by_a_flush_of_nothing(pair: Any) -> None:
    pair.broker.put(Done(1))
    assert not pair.client.wait(0.0)
    assert list(pair.client.receive()) == []
    assert pair.broker.flush()
    assert client_receives(pair) == [Done(1)]
    assert pair.broker.flush()
    assert not pair.client.wait(0.0)


def test_a_bad_message_costs_itself_and_not_its_frame(pair: Any) -> None:
    pair.send_raw(
        msgpack.packb([{"type": "cancel", "id": 1}, {"type": "cancel", "id": 2, "x": 0}, {"type": "cancel", "id": 3}])
    )
    first, bad, last = broker_receives(pair, 3)
    assert (first, last) == (Cancel(1), Cancel(3))
    assert isinstance(bad, BadMessage)
    assert bad.id == 2


def test_a_frame_that_would_be_too_large_is_cut_and_keeps_its_order(pair: Any) -> None:
    sent = [Query(number, "models", "m" * 250) for number in range(1000)]
    for message in sent:
        pair.client.put(message)
    assert len(encode_frame(sent)) > 4 * LIMIT
    pair.client.flush()
    messages: list[Any] = []
    while len(messages) < 1000:
        messages += broker_receives(pair)
        pair.client.flush()
    assert messages == sent


def test_one_message_that_is_too_large_is_refused_and_its_neighbours_are_sent(pair: Any) -> None:
    for message in (Done(1), Answer(2, "x" * (LIMIT + 1)), Done(3)):
        pair.broker.put(message)
    with pytest.raises(CallerError, match=f"Answer message exceeds the frame limit of {LIMIT} bytes"):
        pair.broker.flush()
    assert pair.broker.flush()
    assert client_receives(pair, 2) == [Done(1), Done(3)]


def test_a_reader_that_does_not_read_loses_nothing_and_the_backlog_says_how_much_waits(pair: Any) -> None:
    # Given a client that does not read, and a broker that writes until the link is full and far beyond
    text, number = "x" * 50_000, 0
    while pair.broker.backlog < 4_000_000:
        pair.broker.put(Answer(number, text))
        pair.broker.flush()
        number += 1
    assert not pair.broker.flush()
    assert 4_000_000 <= pair.broker.backlog < 4_200_000
    pair.broker.check_invariants()
    # When the client reads again
    seen: list[int] = []
    while len(seen) < number:
        seen += [answer.id for answer in client_receives(pair)]
        pair.broker.flush()
    # Then all is there, in order, and nothing waits any more
    assert seen == list(range(number))
    assert pair.broker.flush()
    assert pair.broker.backlog == 0


def test_a_blocking_flush_waits_for_the_reader(pair: Any) -> None:
    count, seen = 400, []

    def read() -> None:
        while len(seen) < count:
            seen.extend(message.id for message in broker_receives(pair) if isinstance(message, Query))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(count):
        pair.client.put(Query(number, "models", "m" * 256))
        for _ in range(200):
            pair.client.put(Ping())
        assert pair.client.flush(block=True)
        assert pair.client.backlog == 0
    reader.join(PATIENCE_S)
    assert seen == list(range(count))


def test_waiting_ends_when_a_message_comes_and_not_before(pair: Any) -> None:
    assert not pair.client.wait(0.0)
    waited: list[bool] = []
    waiter = threading.Thread(target=lambda: waited.append(pair.client.wait(PATIENCE_S)))
    waiter.start()
    pair.broker.put(Done(1))
    assert pair.broker.flush()
    waiter.join(PATIENCE_S)
    assert waited == [True]
    assert client_receives(pair) == [Done(1)]


def test_a_blocking_receive_returns_what_comes(pair: Any) -> None:
    pair.broker.put(Done(1))
    pair.broker.flush()
    assert list(pair.client.receive(block=True)) == [Done(1)]


def test_one_thread_may_wait_while_another_sends(pair: Any) -> None:
    """Sending must not take away the signal that the waiting thread needs (ZeroMQ's descriptor is edge-triggered)."""
    rounds, answered = 300, threading.Event()
    seen: list[int] = []

    def wait_and_read() -> None:
        while len(seen) < rounds:
            if not pair.client.wait(PATIENCE_S):
                return
            seen.extend(message.id for message in pair.client.receive())
        answered.set()

    waiter = threading.Thread(target=wait_and_read)
    waiter.start()
    got = 0
    for number in range(rounds):
        pair.client.put(Cancel(number))
        assert pair.client.flush()
        for message in broker_receives(pair):
            pair.broker.put(Done(message.id))
            got += 1
        pair.broker.flush()
    while got < rounds:
        for message in broker_receives(pair):
            pair.broker.put(Done(message.id))
            got += 1
        pair.broker.flush()
    assert answered.wait(PATIENCE_S)
    waiter.join(PATIENCE_S)
    assert seen == list(range(rounds))


def test_the_peer_is_who_the_kernel_says_it_is(pair: Any) -> None:
    if pair.peer is None:  # tcp://: nobody can say
        assert pair.broker.is_tcp
        return
    assert (pair.peer.pid, pair.peer.uid, pair.peer.gid) == (os.getpid(), os.getuid(), os.getgid())
    assert not select.select([pair.peer.pidfd], [], [], 0)[0], "this process lives"


def test_the_client_learns_that_the_broker_is_gone_after_it_has_read_everything(pair: Any) -> None:
    pair.broker.put(Done(1))
    assert pair.broker.flush()
    assert client_receives(pair) == [Done(1)]
    (pair.door if isinstance(pair, ZmqPair) else pair.broker).close()
    assert pair.client.wait(PATIENCE_S)
    assert select.select([pair.client.fileno()], [], [], PATIENCE_S)[0]
    assert "closed" in closing(pair.client.receive)
    pair.client.put(Ping())
    with pytest.raises(LinkClosed):
        pair.client.flush()


def test_the_broker_learns_that_a_client_is_gone_when_it_sends(pair: Any) -> None:
    pair.client.close()
    deadline = time.monotonic() + PATIENCE_S
    with pytest.raises(LinkClosed):  # noqa: PT012 - ZeroMQ notices a little later
        while time.monotonic() < deadline:
            pair.broker.put(Done(1))
            pair.broker.flush()


def test_a_closed_link_says_so_and_closing_again_does_nothing(pair: Any) -> None:
    pair.client.put(Ping())
    pair.client.close()
    pair.client.close()
    assert pair.client.wait(0.0)
    with pytest.raises(LinkClosed):
        pair.client.receive()
    pair.client.put(Ping())
    with pytest.raises(LinkClosed):
        pair.client.flush()
    pair.broker.close()
    pair.broker.close()


def test_a_link_says_which_kind_carries_what(pair: Any) -> None:
    assert pair.client.take_fds(0) == []
    assert pair.client.take_parts(0) == []
    if isinstance(pair, LocalPair):
        refused: tuple[Any, ...] = (lambda: pair.client.put(Ping(), parts=[b""]), lambda: pair.client.take_parts(1))
    else:
        refused = (lambda: pair.client.put(Ping(), fds=[0]), lambda: pair.client.take_fds(1), lambda: pair.broker.take_fds(1))
    for call in refused:
        with pytest.raises(CallerError, match="only ZeroMQ|only the local link"):
            call()


@pytest.mark.parametrize("kind", ["local", "ipc", "tcp"])
def test_nobody_there_is_an_error_and_not_a_wait(kind: str, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="no broker at"):
        if kind == "local":
            connect_local(tmp_path / "none.sock", 5.0)
        else:
            link: DealerLink[Any] = DealerLink(FrameDecoder(ToClient))
            try:
                link.connect(f"ipc://{tmp_path}/none.sock" if kind == "ipc" else "tcp://127.0.0.1:9", 5.0)
            finally:
                link.close()


@pytest.mark.parametrize("kind", ["local", "ipc"])
def test_somebody_who_does_not_answer_is_given_up_in_time(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as first:
        silent.bind(path)
        silent.listen(0 if kind == "local" else 5)
        first.connect(path)  # fills a backlog of 0
        with pytest.raises(BrokerError, match="did not accept within|did not answer within"):
            if kind == "local":
                connect_local(path, 0.05)
            else:
                link: DealerLink[Any] = DealerLink(FrameDecoder(ToClient))
                try:
                    link.connect(f"ipc://{path}", 0.05)
                finally:
                    link.close()


# --- the local link ---------------------------------------------------------------------------------------------------------


def test_frames_may_be_cut_anywhere(local: LocalPair) -> None:
    frames = [encode_frame([Cancel(number), Query(number, "models", "m" * number)]) for number in range(40)]
    stream = b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)
    messages: list[Any] = []
    for size in (1, 2, 3, 5, 7, 64, 4096):
        for at in range(0, len(stream), size):
            local.client._sock.sendall(stream[at : at + size])
            messages += local.broker.receive()
            local.broker.check_invariants()
    expected = [each for number in range(40) for each in (Cancel(number), Query(number, "models", "m" * number))]
    assert messages == expected * 7


def test_a_frame_larger_than_the_receive_buffer_arrives(tmp_path: Path) -> None:
    pair = LocalPair(tmp_path, 4 * 1024 * 1024)
    sent = [Query(number, "models", "m" * 256) for number in range(10_000)]
    for message in sent:
        pair.client.put(message)
    messages: list[Any] = []
    done = pair.client.flush()
    while len(messages) < len(sent):
        messages += pair.broker_receives()
        done = done or pair.client.flush()
    assert messages == sent
    pair.close()


def test_an_announced_oversized_frame_is_refused_before_it_is_read(local: LocalPair) -> None:
    local.client._sock.sendall(struct.pack("<I", 2**32 - 1))
    with pytest.raises(CallerError, match=f"4294967295 bytes was announced, at most {LIMIT}"):
        local.broker_receives()


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x80", b"\x2a"])
def test_a_frame_that_is_no_array_is_a_violation(local: LocalPair, garbage: bytes) -> None:
    local.send_raw(garbage)
    with pytest.raises(CallerError, match="array of messages"):
        local.broker_receives()


def test_the_end_within_a_frame_is_told_apart(local: LocalPair) -> None:
    local.client._sock.sendall(b"\x10\x00\x00\x00\x91")
    assert local.broker_receives() == []
    local.client.close()
    assert "within a frame" in closing(local.broker_receives)


def descriptor(content: str) -> int:
    fd = os.memfd_create("test")
    os.write(fd, content.encode())
    return fd


def contents(fds: list[int]) -> list[str]:
    texts = [os.pread(fd, 100, 0).decode() for fd in fds]
    for fd in fds:
        os.close(fd)
    return texts


def test_descriptors_are_taken_in_order_whatever_frame_and_call_brought_them(local: LocalPair) -> None:
    # Given frames with none, one and several descriptors, some of them in one frame
    counts = [0, 1, 3, 0, 2, 1]
    for position, count in enumerate(counts):
        fds = [descriptor(f"{position}.{each}") for each in range(count)]
        local.client.put(Register(position, "r", "memfd", 1, fds=min(count, 1)), fds=fds)
        for fd in fds:
            os.close(fd)  # the link has its own
        if position % 2:
            assert local.client.flush()
    # When the messages are received, then each takes its own
    messages = broker_receives(local, len(counts))
    for message in messages:
        taken = local.broker.take_fds(counts[message.id])
        assert all(not os.get_inheritable(fd) for fd in taken)
        assert contents(taken) == [f"{message.id}.{each}" for each in range(counts[message.id])]
    with pytest.raises(CallerError, match="1 descriptors are declared, 0 arrived"):
        local.broker.take_fds(1)


def test_descriptors_beyond_one_sendmsg_go_with_more_frames(local: LocalPair) -> None:
    fd = descriptor("x")
    for number in range(600):
        local.client.put(Register(number, "r", "memfd", 1, fds=1), fds=[fd])
    os.close(fd)
    assert local.client.flush()
    messages: list[Any] = []
    while len(messages) < 600:
        arrived = local.broker_receives()
        messages += arrived
        for _ in arrived:
            assert contents(local.broker.take_fds(1)) == ["x"]
    assert [message.id for message in messages] == list(range(600))


def test_a_message_with_more_descriptors_than_possible_is_refused(local: LocalPair) -> None:
    with pytest.raises(CallerError, match=f"at most {MAX_FDS_PER_FRAME}"):
        local.client.put(Ping(), fds=[0] * (MAX_FDS_PER_FRAME + 1))


def test_descriptors_survive_a_full_socket(local: LocalPair) -> None:
    fd, count = descriptor("x"), 0
    while local.client.flush():
        for _ in range(100):
            local.client.put(Query(count, "models", "m" * 256))
        local.client.put(Register(count, "r", "memfd", 1, fds=1), fds=[fd])
        count += 1
    os.close(fd)
    taken = 0
    while taken < count:
        for message in local.broker_receives():
            if isinstance(message, Register):
                assert message.id == taken
                assert contents(local.broker.take_fds(1)) == ["x"]
                taken += 1
        local.client.flush()
    assert local.client.backlog == 0


def test_descriptors_that_nobody_takes_are_closed_with_the_link(local: LocalPair) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fd = descriptor("x")
    local.client.put(Register(1, "r", "memfd", 1, fds=1), fds=[fd])
    local.client.flush()
    local.broker_receives()  # received, not taken
    local.client.put(Register(2, "r", "memfd", 1, fds=1), fds=[fd])
    local.client.flush()  # sent, not received
    local.client.put(Register(3, "r", "memfd", 1, fds=1), fds=[fd])  # put, not sent
    os.close(fd)
    local.client.close()
    local.broker.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_descriptors_that_no_message_declares_end_the_connection(local: LocalPair) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fd = descriptor("x")
    with pytest.raises(CallerError, match="descriptors arrived that no message declares"):  # noqa: PT012 - some calls later
        for _ in range(4):
            socket.send_fds(local.client._sock, [struct.pack("<I", 1) + b"\x90"], [fd] * 200)
            assert local.broker_receives() == []
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before


def test_too_many_open_files_at_the_receiver_is_said_and_leaks_none(tmp_path: Path) -> None:
    program = """
import os, resource, socket, struct, sys
from penstock.ipc.codec import FrameDecoder
from penstock.ipc.errors import CallerError
from penstock.ipc.local import LocalLink
from penstock.ipc.messages import FromClient
left, right = socket.socketpair()
link = LocalLink(right, FrameDecoder(FromClient))
socket.send_fds(left, [struct.pack("<I", 1) + b"\\x90"], [0] * 50)
before = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (before + 10, before + 10))
try:
    link.receive()
except CallerError as error:
    print(error.message, len(os.listdir("/proc/self/fd")) - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "MSG_CTRUNC" in done.stdout
    assert done.stdout.strip().endswith(" 0")


def test_a_descriptor_that_cannot_be_duplicated_is_the_machines_refusal(local: LocalPair) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fd = descriptor("x")
    with pytest.raises(MachineError, match="cannot duplicate descriptor 999999"):
        local.client.put(Ping(), fds=[fd, 999999])
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before
    assert local.client.flush()


# --- ZeroMQ -----------------------------------------------------------------------------------------------------------------


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


# --- addresses that belong to one ---------------------------------------------------------------------------------------------


def bind(kind: str, path: Path) -> Any:
    return LocalListener(path) if kind == "local" else RouterDoor(f"ipc://{path}", FrameDecoder(FromClient))


both_kinds = pytest.mark.parametrize("kind", ["local", "ipc"])


@both_kinds
def test_a_socket_is_its_owners_only_and_goes_with_the_listener(kind: str, tmp_path: Path) -> None:
    listener = bind(kind, tmp_path / "s")
    mode = os.lstat(tmp_path / "s").st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    listener.close()
    listener.close()
    assert list(tmp_path.iterdir()) == []


@both_kinds
def test_a_second_one_is_refused_by_the_pid_of_the_first_which_goes_on(kind: str, tmp_path: Path) -> None:
    made = make_pair(kind, tmp_path)
    with pytest.raises(CallerError, match=f"in use by process {os.getpid()}") as raised:
        bind(kind, tmp_path / ("local.sock" if kind == "local" else "zmq.sock"))
    assert raised.value.code is Code.ALREADY_EXISTS
    made.client.put(Ping())
    made.client.flush()
    assert broker_receives(made) == [Ping()]
    made.close()


@both_kinds
def test_what_a_killed_one_left_is_replaced(kind: str, tmp_path: Path) -> None:
    program = f"""
import os, signal
from penstock.ipc.codec import FrameDecoder
from penstock.ipc.local import LocalListener
from penstock.ipc.messages import FromClient
from penstock.ipc.zeromq import RouterDoor
path = {str(tmp_path / "s")!r}
kept = LocalListener(path) if {kind!r} == "local" else RouterDoor("ipc://" + path, FrameDecoder(FromClient))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert (tmp_path / "s").is_socket()
    bind(kind, tmp_path / "s").close()
    assert list(tmp_path.iterdir()) == []


@both_kinds
def test_a_listener_that_knows_nothing_of_our_lock_is_not_robbed(kind: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(tmp_path / "s"))
        stranger.listen()
        with pytest.raises(CallerError, match=f"in use by process {os.getpid()}"):
            bind(kind, tmp_path / "s")
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


@both_kinds
@pytest.mark.parametrize("what", ["file", "directory", "symlink", "file in the lock's place", "directory in the lock's place"])
def test_what_is_no_socket_is_never_removed(kind: str, what: str, tmp_path: Path) -> None:
    obstacle = tmp_path / ("s.lock" if "lock" in what else "s")
    if "directory" in what:
        obstacle.mkdir()
    elif what == "symlink":
        obstacle.symlink_to(tmp_path / "elsewhere")
    else:
        obstacle.write_text("precious data")
    with pytest.raises((CallerError, MachineError), match="left alone|cannot make"):
        bind(kind, tmp_path / "s")
    assert [entry.name for entry in tmp_path.iterdir()] == [obstacle.name]
    if obstacle.is_file():
        assert obstacle.read_text() == "precious data"


@both_kinds
def test_closing_leaves_a_successors_socket_alone(kind: str, tmp_path: Path) -> None:
    listener = bind(kind, tmp_path / "s")
    (tmp_path / "s").unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(tmp_path / "s"))
        listener.close()
        assert (tmp_path / "s").is_socket()


@both_kinds
def test_closing_after_the_directory_is_gone_is_fine(kind: str, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    listener = bind(kind, directory / "s")
    for entry in directory.iterdir():
        entry.unlink()
    directory.rmdir()
    listener.close()


@both_kinds
def test_a_path_that_is_too_long_says_how_long_it_may_be(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="at most 107"):
        bind(kind, tmp_path / ("s" * 108))


def test_nobody_waiting_is_no_connection(tmp_path: Path) -> None:
    listener = LocalListener(tmp_path / "s")
    assert listener.accept() is None
    listener.close()


def test_without_descriptors_left_a_connection_is_refused_and_does_not_spin(tmp_path: Path) -> None:
    program = f"""
import os, resource, select, socket
from penstock.ipc.local import LocalListener
listener = LocalListener({str(tmp_path / "s")!r})
client = socket.socket(socket.AF_UNIX)
client.connect(listener.path)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
kept = []
try:
    while True:
        kept.append(os.dup(0))
except OSError:
    print(listener.accept(), listener.refused, client.recv(1), select.select([listener], [], [], 0)[0])
while kept:
    os.close(kept.pop())
client = socket.socket(socket.AF_UNIX)
client.connect(listener.path)
print(listener.accept()[0].fileno() > 0)
listener.close()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["None 1 b'' []", "True"]


def test_pyzmq_is_new_enough_for_a_socket_that_we_bind() -> None:
    assert zmq.zmq_version_info() >= (4, 3)
