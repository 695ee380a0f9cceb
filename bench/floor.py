# SPDX-License-Identifier: Apache-2.0
"""The floor: the barest path over three processes, against which Penstock's own cost is stated.

Client, forwarder and worker pass one small message per request over the links that Penstock uses, coalesced into frames as it
does. Nothing is validated, scheduled, counted or promised. The worker reads one float32 [batch, 3, 224, 224] in shared memory
and writes ten floats per row. `local` is a pair of unix stream sockets with length-prefixed frames, `zmq` is DEALER and ROUTER.

usage: floor.py [--link local|zmq] [--concurrency N] [--batch B] [--seconds S]      prints one JSON object
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import msgspec
import numpy as np
import zmq
from measurement import cpu_ns, percentiles_us

ROW_BYTES = 3 * 224 * 224 * 4
RESULT_FLOATS = 10
RESULT_STRIDE = 4096
RECEIVE_BYTES = 256 * 1024
SETTLE_S = 0.3
"""Each process comes to rest before the next begins: where the kernel puts it depends on that (15 % of p50, measured)."""
LINKS = ("local", "zmq")

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder().decode


class StreamLink:
    """Frames with a 4-byte length on a stream socket: one receive per poll, one write per flush."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.unread, self.waiting = sock, bytearray(), []
        self.view = memoryview(bytearray(RECEIVE_BYTES))

    def receive(self) -> list[Any]:
        try:
            count = self.sock.recv_into(self.view)
        except BlockingIOError:
            return []
        unread = self.unread
        unread += self.view[:count]
        messages, at, end = [], 0, len(unread)
        while end - at >= 4:
            size = int.from_bytes(unread[at : at + 4], "little")
            if end - at - 4 < size:
                break
            messages += decode(unread[at + 4 : at + 4 + size])
            at += 4 + size
        del unread[:at]
        return messages

    def flush(self) -> None:
        if self.waiting:
            frame = encode(self.waiting)
            self.waiting.clear()
            self.sock.sendall(len(frame).to_bytes(4, "little") + frame)


class ZmqLink:
    """The same frames as ZeroMQ messages. A router answers whoever spoke last, and keeps what it has until somebody did."""

    def __init__(self, sock: zmq.Socket[bytes]) -> None:
        self.sock, self.waiting = sock, []
        self.is_router, self.peer = sock.type == zmq.ROUTER, b""

    def receive(self, flags: int = zmq.NOBLOCK) -> list[Any]:
        messages: list[Any] = []
        try:
            while True:
                parts = self.sock.recv_multipart(flags)
                if self.is_router:
                    self.peer = parts[0]
                messages += decode(parts[-1])
                flags = zmq.NOBLOCK
        except zmq.Again:
            return messages

    def receive_blocking(self) -> list[Any]:
        return self.receive(0)

    def flush(self) -> None:
        if self.waiting and (self.peer or not self.is_router):
            frame = encode(self.waiting)
            self.waiting.clear()
            self.sock.send_multipart([self.peer, frame] if self.is_router else [frame])


Link = StreamLink | ZmqLink


class Wiring:
    """The two connections, made before the processes part: client to forwarder (`front`), worker to forwarder (`back`)."""

    def __init__(self, link: str, folder: str) -> None:
        self.link = link
        self.pairs = {name: socket.socketpair() for name in ("front", "back")}
        self.addresses = {name: f"ipc://{folder}/{name}" for name in ("front", "back")}

    def close(self) -> None:
        for near, far in self.pairs.values():
            near.close()
            far.close()

    def forwarder_end(self, name: str, poller: select.epoll) -> Link:
        if self.link == "local":
            sock = self.pairs[name][0]
            sock.setblocking(False)
            poller.register(sock, select.EPOLLIN)
            return StreamLink(sock)
        router = _zmq_socket(zmq.ROUTER)
        router.bind(self.addresses[name])
        poller.register(router.fd, select.EPOLLIN | select.EPOLLET)
        return ZmqLink(router)

    def far_end(self, name: str) -> tuple[Link, Callable[[], list[Any]]]:
        """The link and its blocking receive."""
        if self.link == "local":
            stream = StreamLink(self.pairs[name][1])
            return stream, stream.receive
        dealer = _zmq_socket(zmq.DEALER)
        dealer.connect(self.addresses[name])
        link = ZmqLink(dealer)
        return link, link.receive_blocking


def _zmq_socket(kind: int) -> zmq.Socket[bytes]:
    sock = zmq.Context().socket(kind)
    sock.sndhwm = sock.rcvhwm = sock.linger = 0
    return sock


def forward(wiring: Wiring) -> NoReturn:
    poller = select.epoll()
    front, back = wiring.forwarder_end("front", poller), wiring.forwarder_end("back", poller)
    while True:
        poller.poll()
        for _ in range(2):  # again, for what came meanwhile: ZeroMQ's descriptor reports changes only
            back.waiting += front.receive()
            front.waiting += back.receive()
            back.flush()
            front.flush()


def work(wiring: Wiring, memory: mmap.mmap, batch: int) -> NoReturn:
    link, receive = wiring.far_end("back")
    if wiring.link == "zmq":
        link.waiting.append((-1, 0))  # makes the router know where the worker is
        link.flush()
    flat = np.frombuffer(memory, np.uint8)
    result_bytes = batch * RESULT_FLOATS * 4
    while True:
        for number, offset, byte_size, result_offset in receive():
            image = flat[offset : offset + byte_size].view(np.float32).reshape(batch, 3, 224, 224)
            result = flat[result_offset : result_offset + result_bytes].view(np.float32).reshape(batch, RESULT_FLOATS)
            result[:] = image.reshape(batch, -1)[:, :RESULT_FLOATS]
            link.waiting.append((number, result_bytes))
        link.flush()


class Floor:
    """A running forwarder and worker, and the client's side of them in this process."""

    def __init__(self, wiring: Wiring, pids: dict[str, int], slots: int, batch: int) -> None:
        self.wiring, self.pids, self.slots, self.batch = wiring, pids, slots, batch
        self.link, self.receive = wiring.far_end("front")
        self.sent = [0] * slots

    def submit(self, slot: int) -> None:
        input_bytes = self.batch * ROW_BYTES
        self.sent[slot] = time.perf_counter_ns()
        self.link.waiting.append((slot, slot * input_bytes, input_bytes, self.slots * input_bytes + slot * RESULT_STRIDE))

    def measure(self, seconds: float) -> dict[str, Any]:
        """Keeps every slot busy for that long; one row of figures. The first twentieth of the requests is warm-up."""
        latencies: list[int] = []
        for slot in range(self.slots):
            self.submit(slot)
        self.link.flush()
        before = {name: cpu_ns(pid) for name, pid in self.pids.items()}
        started, end = time.perf_counter_ns(), time.perf_counter_ns() + int(seconds * 1e9)
        while (now := time.perf_counter_ns()) < end:
            for slot, _ in self.receive():
                if slot >= 0:
                    latencies.append(time.perf_counter_ns() - self.sent[slot])
                    self.submit(slot)
            self.link.flush()
        used = {
            f"{name}_cpu_us": round((cpu_ns(pid) - before[name]) / 1e3 / len(latencies), 2) for name, pid in self.pids.items()
        }
        row = {"link": f"floor_{self.wiring.link}", "concurrency": self.slots, "clients": 1, "in_flight": self.slots}
        row |= {"batch": self.batch, "byte_size": self.batch * ROW_BYTES}
        row |= {"requests_per_s": round(len(latencies) / (now - started) * 1e9, 1)}
        return row | percentiles_us(np.array(latencies[len(latencies) // 20 :])) | used


@contextmanager
def running(link: str, concurrency: int, batch: int) -> Iterator[Floor]:
    """Starts forwarder and worker, by forking; ends them on the way out."""
    byte_size = concurrency * (batch * ROW_BYTES + RESULT_STRIDE * -(-batch * RESULT_FLOATS * 4 // RESULT_STRIDE))
    fd = os.memfd_create("floor")
    os.posix_fallocate(fd, 0, byte_size)
    memory = mmap.mmap(fd, byte_size)
    with tempfile.TemporaryDirectory() as folder:
        wiring = Wiring(link, folder)
        pids = {"broker": _fork(lambda: forward(wiring)), "worker": _fork(lambda: work(wiring, memory, batch))}
        try:
            yield Floor(wiring, pids | {"client": os.getpid()}, concurrency, batch)
        finally:
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            wiring.close()
            os.close(fd)


def _fork(run: Callable[[], NoReturn]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(1)
    time.sleep(SETTLE_S)
    return pid


def measured(link: str, concurrency: int, batch: int, seconds: float) -> dict[str, Any]:
    """One row of figures, measured in processes of its own, so that the caller's threads and sockets are not forked."""
    options = ["--link", link, "--concurrency", concurrency, "--batch", batch, "--seconds", seconds]
    done = subprocess.run([sys.executable, __file__, *map(str, options)], capture_output=True, check=True, text=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="The barest path over three processes.")
    parser.add_argument("--link", choices=LINKS, default="local")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    with running(args.link, args.concurrency, args.batch) as floor:
        print(json.dumps(floor.measure(args.seconds)))


if __name__ == "__main__":
    main()
