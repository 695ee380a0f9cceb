# SPDX-License-Identifier: Apache-2.0
"""What only the local link does: frames on a byte stream, and descriptors in order."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from link_pairs import LIMIT, LocalPair, broker_receives, closing

from penstock.ipc.codec import encode_frame
from penstock.ipc.descriptors import MAX_FDS_PER_FRAME
from penstock.ipc.errors import CallerError, MachineError
from penstock.ipc.messages import Cancel, Ping, Query, Register


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalPair]:
    made = LocalPair(tmp_path)
    yield made
    made.close()


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
    for _ in range(2):
        socket.send_fds(local.client._sock, [struct.pack("<I", 1) + b"\x90"], [fd] * 200)
        assert local.broker_receives() == []
    socket.send_fds(local.client._sock, [struct.pack("<I", 1) + b"\x90"], [fd] * 200)
    with pytest.raises(CallerError, match="600 descriptors arrived that no message declares"):
        local.broker_receives()
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
