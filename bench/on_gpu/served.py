# SPDX-License-Identifier: Apache-2.0
"""The served side: requests of one client, in memory of each kind, through the broker to a worker on the GPU and back."""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.clients import Client, CudaRegion, MemfdRegion, SystemRegion
from penstock.clients.regions import Region
from penstock.clients.slots import PlacedRequest

from .models import is_right

Array = npt.NDArray[np.float32]
KINDS = ("memfd", "system", "cuda")
POISON = np.float32(-1e30)
REGION_GRANULE = 4096


class WrongAnswerError(Exception):
    """An output is not what its input makes it."""


def make_region(kind: str, byte_size: int) -> Region:
    """Memory of one's own, not registered yet."""
    name = f"bench-{os.urandom(6).hex()}"
    if kind == "memfd":
        return MemfdRegion(name, byte_size)
    if kind == "system":
        return SystemRegion.create(name, f"penstock-{name}", byte_size)
    return CudaRegion.allocate(name, byte_size)


class Requests:
    """Requests with inputs in them, each with what should come out. A context manager: the region is given back in the end."""

    def __init__(self, client: Client, model: str, kind: str, inputs: Sequence[Array], expected: Sequence[Array]) -> None:
        self._client = client
        self._expected = expected
        self._kind = kind
        x_bytes, y_bytes = (-(-array.nbytes // REGION_GRANULE) * REGION_GRANULE for array in (inputs[0], expected[0]))
        self.region = make_region(kind, len(inputs) * (x_bytes + y_bytes))
        client.register(self.region)
        if kind == "system":
            self.region.unlink()
        self.slots: list[PlacedRequest] = []
        #: where in the region each one's output lies
        self._offsets: list[int] = []
        for number, (x, y) in enumerate(zip(inputs, expected, strict=True)):
            offset = number * (x_bytes + y_bytes)
            self._write(offset, x)
            self._offsets.append(offset + x_bytes)
            wanted = {"OUTPUT__0": self.region.tensor("FP32", y.shape, offset + x_bytes)}
            self.slots.append(PlacedRequest(model, -1, {"INPUT__0": self.region.tensor("FP32", x.shape, offset)}, wanted))

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.unregister(self.region.name)
        self.region.close()

    def poison(self, number: int) -> None:
        """The next answer is known from the last one."""
        self._write(self._offsets[number], np.full_like(self._expected[number], POISON))

    def check(self, number: int) -> None:
        """Raises WrongAnswerError unless the whole output is what it should be."""
        expected = self._expected[number]
        found = self._read(self._offsets[number], expected)
        if not is_right(found, expected):
            worst = float(np.abs(found - expected).max())
            raise WrongAnswerError(
                f"an output in {self._kind} memory differs by {worst}: {found.ravel()[:3]}, not {expected.ravel()[:3]}"
            )

    def _write(self, offset: int, array: Array) -> None:
        if isinstance(self.region, CudaRegion):
            self.region.write(array, offset)
        else:
            self.region.array[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)

    def _read(self, offset: int, like: Array) -> Array:
        if isinstance(self.region, CudaRegion):
            return self.region.read(offset, np.float32, like.shape)
        return self.region.array[offset : offset + like.nbytes].view(np.float32).reshape(like.shape)


def infer_ns(client: Client, model: str) -> tuple[int, int]:
    """How many executions there were, and how long all of them computed."""
    (row,) = client.statistics(model)["model_stats"]
    stage = row["inference_stats"]["compute_infer"]
    return int(stage["count"]), int(stage["ns"])


def one_by_one(client: Client, model: str, requests: Requests, seconds: float) -> dict[str, float]:
    """One request after the other: latency, and what is left of it without the model's own time."""
    clock, taken = time.perf_counter_ns, []
    count, before = infer_ns(client, model)
    end, turn = clock() + int(seconds * 1e9), 0
    while clock() < end or len(taken) < 3:
        number = turn % len(requests.slots)
        requests.poison(number)
        sent = clock()
        client.infer(requests.slots[number])
        taken.append(clock() - sent)
        requests.check(number)
        turn += 1
    count_after, after = infer_ns(client, model)
    inferred_us = (after - before) / max(count_after - count, 1) / 1e3
    p50, p99 = (float(value) / 1e3 for value in np.percentile(taken, (50, 99)))
    return {"p50_us": p50, "p99_us": p99, "infer_us": inferred_us, "beyond_infer_us": p50 - inferred_us}


def together(client: Client, requests: Requests, seconds: float) -> dict[str, float]:
    """All of them in flight for that long: batches per second."""
    clock = time.perf_counter_ns
    waiting: deque[tuple[int, Any]] = deque()
    begun, done = clock(), 0
    end = begun + int(seconds * 1e9)
    for number, slot in enumerate(requests.slots):
        requests.poison(number)
        waiting.append((number, client.submit(slot)))
    while waiting:
        number, future = waiting.popleft()
        future.result()
        done += 1
        if clock() < end:
            waiting.append((number, client.submit(requests.slots[number])))
    finished = clock()
    for number in range(len(requests.slots)):
        requests.check(number)
    return {"batches_per_s": done / (finished - begun) * 1e9}


def registering(client: Client, model: str, kind: str, byte_size: int, x: Array, y: Array) -> dict[str, Any]:
    """What a client pays for a new region: its making, its registration, the first request in it, and a later one."""
    clock, times = time.perf_counter_ns, [time.perf_counter_ns()]
    region = make_region(kind, byte_size)
    times.append(clock())
    client.register(region)
    times.append(clock())
    if kind == "system":
        region.unlink()
    wanted = {"OUTPUT__0": region.tensor("FP32", y.shape, x.nbytes)}
    slot = PlacedRequest(model, -1, {"INPUT__0": region.tensor("FP32", x.shape, 0)}, wanted)
    times.append(clock())
    client.infer(slot)
    times.append(clock())
    later = []
    for _ in range(5):
        started = clock()
        client.infer(slot)
        later.append(clock() - started)
    ended = clock()
    client.unregister(region.name)
    gone = clock()
    region.close()
    made, registered, first = (times[n + 1] - times[n] for n in (0, 1, 3))
    return {
        "kind": kind, "mib": byte_size >> 20, "make_us": made / 1e3, "register_us": registered / 1e3,
        "first_request_us": first / 1e3, "later_request_us": statistics.median(later) / 1e3,
        "unregister_us": (gone - ended) / 1e3,
    }  # fmt: skip
