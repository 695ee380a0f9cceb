# SPDX-License-Identifier: Apache-2.0
"""A closed loop on one of front_ends.py: on each of so many connections a request like perf_analyzer's is in flight.

Over HTTP a socket each in one selector; over gRPC one channel each, which share no connection, with a future for what is in
flight. Prints one JSON object: requests, requests per second, and latencies in us.

usage: front_end_load.py http|grpc PORT --connections N --seconds S
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from front_ends import HOST, PATH, SHAPE
from measurement import Row, percentiles_us

WARM_UP = 0.2
"""Of the measurement, before it."""
CONNECTS_WITHIN_S = 20.0
NAMES = ("INPUT0", "INPUT1")


class Clock:
    """When it begins and ends to count, and what it has counted."""

    def __init__(self, seconds: float) -> None:
        now = time.monotonic_ns()
        self.start_ns = now + int(seconds * WARM_UP * 1e9)
        self.end_ns = self.start_ns + int(seconds * 1e9)
        self.latencies_ns: list[int] = []
        self.requests = 0  # the warm-up's too: the server's CPU time is theirs all

    def count(self, sent_ns: int) -> bool:
        """A request that was sent then is answered now; whether another is to be sent."""
        now = time.monotonic_ns()
        self.requests += 1
        if sent_ns >= self.start_ns and now <= self.end_ns:
            self.latencies_ns.append(now - sent_ns)
        return now < self.end_ns

    def figures(self) -> Row:
        seconds = (self.end_ns - self.start_ns) / 1e9
        counted = np.array(self.latencies_ns, np.int64)
        return {
            "requests": self.requests, "requests_per_s": round(len(counted) / seconds, 1), **percentiles_us(counted)
        }  # fmt: skip


def request_text() -> bytes:
    def tensor(name: str) -> Row:
        place = {"shared_memory_region": f"{name}_0_0", "shared_memory_byte_size": 64}
        return {"name": name, "datatype": "INT32", "shape": SHAPE, "parameters": place}

    outputs = [
        {"name": name, "parameters": {"shared_memory_region": name, "shared_memory_byte_size": 64}}
        for name in ("OUTPUT0", "OUTPUT1")
    ]
    body = json.dumps({"id": "", "inputs": [tensor(name) for name in NAMES], "outputs": outputs}).encode()
    lengths = "".join(f"{name}: {len(body)}\r\n" for name in ("Inference-Header-Content-Length", "Content-Length"))
    return f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\n{lengths}\r\n".encode() + body


class Connection:
    """One socket with one request in flight."""

    def __init__(self, port: int, text: bytes) -> None:
        self.socket = socket.create_connection((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._text = text
        self._received = b""
        self.sent_ns = 0

    def send(self) -> None:
        self._received = b""
        self.sent_ns = time.monotonic_ns()
        self.socket.sendall(self._text)

    def receive(self) -> bool:
        """Whether the answer is there. Raises ValueError where it is none."""
        content = self.socket.recv(65536)
        self._received += content
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not content or not self._received.startswith(b"HTTP/1.1 200"[: len(self._received)]):
            raise ValueError(f"answered {self._received[:200]!r}")
        if not blank:
            return False
        (length,) = (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return len(body) >= length


def over_http(port: int, connections: int, seconds: float) -> Clock:
    text, clock = request_text(), Clock(seconds)
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            connection = Connection(port, text)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send()
        while selector.get_map():
            for key, _ in selector.select():
                if key.data.receive():
                    if clock.count(key.data.sent_ns):
                        key.data.send()
                    else:
                        selector.unregister(key.data.socket)
                        key.data.socket.close()
    return clock


class Futures:
    """One request in flight on each of several channels, by futures: each is followed by the next until the time is over."""

    def __init__(self, content: bytes, clock: Clock, read: Callable[[bytes], Any]) -> None:
        self._content, self._clock, self._read = content, clock, read
        self._lock = threading.Lock()
        self._left = threading.Semaphore(0)
        self._failed: list[Exception] = []

    def keep(self, call: Any) -> None:
        sent_ns = time.monotonic_ns()
        call.future(self._content).add_done_callback(lambda future: self._ended(call, future, sent_ns))

    def _ended(self, call: Any, future: Any, sent_ns: int) -> None:
        goes_on = False
        try:
            response = self._read(future.result())
            if len(response.outputs) != len(NAMES):
                raise ValueError(f"answered {response}")
            with self._lock:
                goes_on = self._clock.count(sent_ns)
        except Exception as error:  # noqa: BLE001 - `wait` raises it
            self._failed.append(error)
        if goes_on:
            self.keep(call)
        else:
            self._left.release()

    def wait(self, channels: int) -> None:
        """Until all have ended. Raises what went wrong first."""
        for _ in range(channels):
            self._left.acquire()
        if self._failed:
            raise self._failed[0]


def over_grpc(port: int, connections: int, seconds: float) -> Clock:
    import grpc
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="simple")
    for name in NAMES:
        tensor = request.inputs.add(name=name, datatype="INT32", shape=SHAPE)
        tensor.parameters["shared_memory_region"].string_param = f"{name}_0_0"
        tensor.parameters["shared_memory_byte_size"].int64_param = 64
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(f"{HOST}:{port}", options=own) for _ in range(connections)]
    for channel in channels:
        grpc.channel_ready_future(channel).result(CONNECTS_WITHIN_S)
    clock = Clock(seconds)
    futures = Futures(request.SerializeToString(), clock, service_pb2.ModelInferResponse.FromString)
    for channel in channels:
        futures.keep(channel.unary_unary("/inference.GRPCInferenceService/ModelInfer"))
    futures.wait(connections)
    for channel in channels:
        channel.close()
    return clock


def main() -> int:
    parser = argparse.ArgumentParser(description="A closed loop on one of front_ends.py.")
    parser.add_argument("protocol", choices=("http", "grpc"))
    parser.add_argument("port", type=int)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    try:
        clock = {"http": over_http, "grpc": over_grpc}[options.protocol](options.port, options.connections, options.seconds)
    except Exception as error:  # noqa: BLE001 - whatever went wrong is told
        print(repr(error), file=sys.stderr)
        return 1
    if not clock.latencies_ns:
        print("no request began and ended in time", file=sys.stderr)
        return 1
    print(json.dumps(clock.figures()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
