# SPDX-License-Identifier: Apache-2.0
"""One client program under measurement: keeps so many requests in flight through the public Client, and checks every answer.

Each request has an input of its own, each output is poisoned before and verified after. For the identity model the first value
of the first and of the last row is new in every request and must come back; at the end all values are compared. For an ONNX
model every slot has its own images and the answers are compared with onnxruntime called in this process.

It is driven over its standard input: `run SECONDS FILE` is answered with one JSON object and leaves the latencies (ns) in FILE;
end of file ends it.

usage: load.py ADDRESS MODEL --batch B --in-flight N [--onnx FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.clients import Client

POISON = -1.0
STAMPS = 1 << 23  # whole numbers that float32 holds exactly
WARM_UP_S = 0.3

Array = npt.NDArray[np.float32]


class WrongAnswerError(Exception):
    """An output is not what this request's input makes it."""


class Lane(ABC):
    """One slot and the request that is in flight with it."""

    __slots__ = ("future", "io", "result", "sent_ns", "x", "y")

    def __init__(self, io: Any, seed: int) -> None:
        self.io = io
        (self.x,), (self.y,) = io.inputs.values(), io.outputs.values()
        np.random.default_rng(seed).random(out=self.x, dtype=np.float32)
        self.result = self.y.reshape(-1)
        self.sent_ns = 0
        self.future: Any = None

    @abstractmethod
    def prepare(self) -> None:
        """Makes the next request distinct and poisons the output."""

    @abstractmethod
    def check(self) -> None:
        """Verifies the answer cheaply. Raises WrongAnswerError."""

    @abstractmethod
    def check_all(self) -> None:
        """Verifies every value of the last answer. Raises WrongAnswerError."""


class IdentityLane(Lane):
    """Two stamps per request, where the first row begins and where the last does; a view of one element is cheap to use."""

    __slots__ = ("first_in", "first_out", "last_in", "last_out", "stamp")

    def __init__(self, io: Any, seed: int) -> None:
        super().__init__(io, seed)
        rows, results = self.x.reshape(len(self.x), -1), self.y.reshape(len(self.y), -1)
        self.first_in, self.first_out = memoryview(rows[0, :1]), memoryview(results[0, :1])
        self.last_in, self.last_out = memoryview(rows[-1, :1]), memoryview(results[-1, :1])
        self.stamp = seed

    def prepare(self) -> None:
        self.stamp = stamp = (self.stamp + 1) % STAMPS
        self.first_in[0] = self.last_in[0] = stamp
        self.first_out[0] = self.last_out[0] = POISON

    def check(self) -> None:
        if self.first_out[0] != self.stamp or self.last_out[0] != self.stamp:
            raise WrongAnswerError(f"expected {self.stamp}, got {self.first_out[0]} and {self.last_out[0]}")

    def check_all(self) -> None:
        expected = self.x.reshape(len(self.x), -1)[:, : self.y[0].size]
        if not np.array_equal(self.y.reshape(expected.shape), expected):
            raise WrongAnswerError(f"expected {expected}, got {self.y}")


class OnnxLane(Lane):
    """The answers of this slot's images, computed before by onnxruntime in this process."""

    __slots__ = ("expected", "first_expected")

    def __init__(self, io: Any, seed: int, session: Any) -> None:
        super().__init__(io, seed)
        self.expected = session.run(None, {session.get_inputs()[0].name: self.x})[0].reshape(-1)
        self.first_expected = float(self.expected[0])

    def prepare(self) -> None:
        self.result[0] = self.result[-1] = np.nan

    def check(self) -> None:
        if not abs(float(self.result[0]) - self.first_expected) <= 1e-3 * (1 + abs(self.first_expected)):
            raise WrongAnswerError(f"expected {self.first_expected}, got {self.result[0]}")

    def check_all(self) -> None:
        if not np.allclose(self.result, self.expected, rtol=1e-3, atol=1e-3):
            raise WrongAnswerError(f"largest difference {np.abs(self.result - self.expected).max()}")


def run_one(client: Client, lane: Lane, end_ns: int) -> list[int]:
    """One request after the other. The latencies, ns."""
    clock, infer, io, latencies = time.perf_counter_ns, client.infer, lane.io, []
    while clock() < end_ns:
        lane.prepare()
        sent_ns = clock()
        infer(io)
        latencies.append(clock() - sent_ns)
        lane.check()
    return latencies


def run_many(client: Client, lanes: list[Lane], end_ns: int) -> list[int]:
    """All lanes in flight: waits for the one sent first, sends all that have come back again. The latencies, ns."""
    clock, waiting, latencies = time.perf_counter_ns, deque(lanes), []
    send(client, lanes)
    while waiting:
        waiting[0].future.result()
        back = [waiting.popleft()]
        while waiting and waiting[0].future.done():
            back.append(waiting.popleft())
        now_ns = clock()
        for lane in back:
            lane.future.result()
            latencies.append(now_ns - lane.sent_ns)
            lane.check()
        if now_ns < end_ns:
            send(client, back)
            waiting.extend(back)
    return latencies


def send(client: Client, lanes: list[Lane]) -> None:
    """Sends a request for each of the lanes."""
    for lane in lanes:
        lane.prepare()
        lane.sent_ns = time.perf_counter_ns()
    for lane, future in zip(lanes, client.submit_many([lane.io for lane in lanes]), strict=True):
        lane.future = future


def run(client: Client, lanes: list[Lane], seconds: float) -> tuple[list[int], dict[str, Any]]:
    """Loads the broker for that long: the latencies, and what else there is to say."""
    started_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
    end_ns = started_ns + int(seconds * 1e9)
    latencies = run_one(client, lanes[0], end_ns) if len(lanes) == 1 else run_many(client, lanes, end_ns)
    elapsed_ns, cpu_ns = time.perf_counter_ns() - started_ns, time.process_time_ns() - cpu_ns
    for lane in lanes:
        lane.check_all()
    return latencies, {"requests": len(latencies), "elapsed_ns": elapsed_ns, "cpu_ns": cpu_ns}


def make_lanes(client: Client, args: argparse.Namespace) -> list[Lane]:
    model = client.model(args.model)
    slots = [client.buffers(model, batch=args.batch) for _ in range(args.in_flight)]
    seeds = range(args.seed, args.seed + len(slots))
    if not args.onnx:
        return [IdentityLane(io, seed) for io, seed in zip(slots, seeds, strict=True)]
    import onnxruntime

    session = onnxruntime.InferenceSession(args.onnx, providers=["CPUExecutionProvider"])
    return [OnnxLane(io, seed, session) for io, seed in zip(slots, seeds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="One client under measurement; see the file's head.")
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--onnx", help="the model's file, to check answers against onnxruntime")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with Client(args.address) as client:
        lanes = make_lanes(client, args)
        run(client, lanes, WARM_UP_S)
        print(json.dumps({"byte_size": lanes[0].x.nbytes}), flush=True)
        for line in sys.stdin:
            _, seconds, file = line.split()
            latencies, figures = run(client, lanes, float(seconds))
            np.save(file, np.array(latencies, np.int64))
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
