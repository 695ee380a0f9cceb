# SPDX-License-Identifier: Apache-2.0
"""What both kinds of link promise: the same stories over unix sockets and over ZeroMQ's ipc:// and tcp://."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from link_pairs import LIMIT, PATIENCE_S, LocalPair, ZmqPair, broker_receives, client_receives, closing, make_pair
from msgspec import Raw

from penstock.ipc.codec import BadMessage, FrameDecoder, encode, encode_frame
from penstock.ipc.errors import BrokerError, CallerError
from penstock.ipc.local import LinkClosed, connect_local
from penstock.ipc.messages import Answer, Cancel, Done, Infer, Ping, Query, ToClient
from penstock.ipc.zeromq import DealerLink


@pytest.fixture(params=["local", "ipc", "tcp"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = make_pair(request.param, tmp_path)
    yield made
    made.close()


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


def test_fields_that_are_kept_encoded_survive_what_is_received_next(pair: Any) -> None:
    kept: list[Any] = []
    for number in range(3):
        pair.client.put(Infer(number, "m", Raw(encode([f"request {number}"]))))
        assert pair.client.flush()
        kept += broker_receives(pair)
    assert [msgpack.unpackb(bytes(message.inputs)) for message in kept] == [[f"request {number}"] for number in range(3)]


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


def test_a_message_comes_after_those_that_wait_already(pair: Any) -> None:
    # Given a client that let its link fill up, and then read so much that there is room again
    number = 0
    while pair.broker.backlog < 1_000_000:
        pair.broker.put(Answer(number, "x" * 50_000))
        pair.broker.flush()
        number += 1
    seen: list[Any] = list(client_receives(pair))
    # When the broker has something more to say, then it says it last
    pair.broker.put(Answer(number, "last"))
    pair.broker.flush()
    while len(seen) <= number:
        seen += client_receives(pair)
        pair.broker.flush()
    assert [answer.id for answer in seen] == list(range(number + 1))
    assert pair.broker.flush()


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
    rounds, answered = 200, threading.Event()
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
    closed = False
    while not closed:
        assert time.monotonic() < deadline
        pair.broker.put(Done(1))
        try:
            pair.broker.flush()
        except LinkClosed:
            closed = True
        if isinstance(pair, ZmqPair):
            pair.door.receive()  # ZeroMQ takes note of an end only while it is asked for input


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
        with pytest.raises(CallerError, match=r"only ZeroMQ|only the local link"):
            call()


def connect_and_close(kind: str, target: str, timeout_s: float) -> None:
    if kind == "local":
        connect_local(target, timeout_s).close()
        return
    link: DealerLink[Any] = DealerLink(FrameDecoder(ToClient))
    try:
        link.connect(f"ipc://{target}" if kind == "ipc" else target, timeout_s)
    finally:
        link.close()


@pytest.mark.parametrize("kind", ["local", "ipc", "tcp"])
def test_nobody_there_is_an_error_and_not_a_wait(kind: str, tmp_path: Path) -> None:
    target = "tcp://127.0.0.1:9" if kind == "tcp" else str(tmp_path / "none.sock")
    with pytest.raises(BrokerError, match="no broker at"):
        connect_and_close(kind, target, 5.0)


@pytest.mark.parametrize("kind", ["local", "ipc"])
def test_somebody_who_does_not_answer_is_given_up_in_time(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as first:
        silent.bind(path)
        silent.listen(0 if kind == "local" else 5)
        first.connect(path)  # fills a backlog of 0
        with pytest.raises(BrokerError, match=r"did not (accept|answer) within 0\.05 s"):
            connect_and_close(kind, path, 0.05)
