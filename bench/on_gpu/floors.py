# SPDX-License-Identifier: Apache-2.0
"""Raw floors: what the GPU, the bus and the driver take where nobody serves anything. One process, one stream.

usage: floors.py [--quick]     prints a line of JSON for each part, as it goes; run by bench/gpu.py in a process of its own
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from on_gpu.chains import KERNELS, kernel_chain
from penstock.ipc import cuda
from penstock.ipc.errors import PenstockError
from penstock.workers.devices.cuda import (
    Copy,
    CopyKind,
    Device,
    DeviceBuffer,
    Event,
    Graph,
    HostRegistration,
    PinnedBuffer,
    Stream,
    copy_all,
)

Row = dict[str, Any]
ROW_BYTES = 4 * 3 * 224 * 224
BATCHES = (1, 8, 64)
COPIES = (1, 4, 16, 64)
PINNED_MIB = (64, 512)
OPENS = 20


class Floors:
    """The measurements, on one device and stream. `repeats`: of each; figures are medians."""

    def __init__(self, stream: Stream, repeats: int, is_quick: bool) -> None:
        self.stream = stream
        self.repeats = repeats
        self.batches = BATCHES[:1] if is_quick else BATCHES
        self.pinned_mib = (1,) if is_quick else PINNED_MIB

    def __repr__(self) -> str:
        return f"<Floors on {self.stream!r}>"

    def median_us(self, work: Callable[[], Any]) -> float:
        """Until the stream has done it."""
        return round(statistics.median(self._times_us(work, self.stream.synchronize)), 2)

    def submit_us(self, work: Callable[[], Any]) -> float:
        """Until the call returns."""
        taken = []
        for _ in range(self.repeats):
            started = time.perf_counter_ns()
            work()
            taken.append((time.perf_counter_ns() - started) / 1e3)
            self.stream.synchronize()
        return round(statistics.median(taken), 2)

    def _times_us(self, work: Callable[[], Any], finish: Callable[[], Any]) -> list[float]:
        taken = []
        for _ in range(max(3, self.repeats // 10)):  # not measured
            work()
            finish()
        for _ in range(self.repeats):
            started = time.perf_counter_ns()
            work()
            finish()
            taken.append((time.perf_counter_ns() - started) / 1e3)
        return taken

    def chain(self) -> Row:
        """So many small kernels: launched one by one, and as a graph."""
        kind, run = kernel_chain(self.stream)
        run()
        self.stream.synchronize()
        row: Row = {
            "made_with": kind,
            "kernels": KERNELS,
            "eager_us": self.median_us(run),
            "eager_submit_us": self.submit_us(run),
        }
        with Graph.capture(self.stream, run) as graph:
            graph.upload(self.stream)
            row["graph_us"] = self.median_us(lambda: graph.launch(self.stream))
            row["graph_submit_us"] = self.submit_us(lambda: graph.launch(self.stream))
        return row

    def transfers(self) -> list[Row]:
        """Images to the device and back, from pinned memory and from memory that the driver must stage."""
        rows = []
        for batch in self.batches:
            byte_size = batch * ROW_BYTES
            unpinned = np.ones(byte_size, np.uint8)
            with DeviceBuffer(byte_size) as there, PinnedBuffer(byte_size) as pinned:
                pinned.array[:] = 1
                row: Row = {"batch": batch, "byte_size": byte_size}
                for name, address in (("pinned", pinned.address), ("unpinned", unpinned.ctypes.data)):
                    to, back = Copy(there.address, address, byte_size), Copy(address, there.address, byte_size)
                    row[f"to_device_{name}_us"] = self._copying([to], CopyKind.TO_DEVICE)
                    row[f"from_device_{name}_us"] = self._copying([back], CopyKind.FROM_DEVICE)
                row["to_device_pinned_gb_s"] = round(byte_size / row["to_device_pinned_us"] / 1e3, 1)
                rows.append(row)
        return rows

    def _copying(self, copies: list[Copy], kind: CopyKind) -> float:
        return self.median_us(lambda: copy_all(copies, self.stream, kind))

    def gathers(self) -> list[Row]:
        """Images that lie apart brought together: by a call each, and by one call for all."""
        rows = []
        count = COPIES[-1] if len(self.batches) > 1 else COPIES[1]
        with DeviceBuffer(count * ROW_BYTES) as there, PinnedBuffer(2 * count * ROW_BYTES) as pinned:
            copies = [Copy(there.address + n * ROW_BYTES, pinned.address + 2 * n * ROW_BYTES, ROW_BYTES) for n in range(count)]
            for n in (n for n in COPIES if n <= count):
                row: Row = {"copies": n}
                for name, way in (("loop", self._loop), ("batch", self._batch)):
                    with suppress(PenstockError, AttributeError):  # one call for all came with CUDA 12.8
                        put = way(copies[:n])
                        row[f"{name}_submit_us"], row[f"{name}_us"] = self.submit_us(put), self.median_us(put)
                rows.append(row)
        return rows

    def _loop(self, copies: list[Copy]) -> Callable[[], Any]:
        put, kind = cuda.bound("cudaMemcpyAsync"), cuda.runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        stream = self.stream.handle

        def run() -> None:
            for dst, src, byte_size in copies:
                put(dst, src, byte_size, kind, stream)

        return run

    def _batch(self, copies: list[Copy]) -> Callable[[], Any]:
        api = cuda.runtime()
        attributes = api.cudaMemcpyAttributes()
        attributes.srcAccessOrder = api.cudaMemcpySrcAccessOrder.cudaMemcpySrcAccessOrderStream
        put, stream = api.cudaMemcpyBatchAsync, self.stream.handle

        def run() -> None:
            destinations, sources, sizes = (list(column) for column in zip(*copies, strict=True))
            error = put(destinations, sources, sizes, len(sizes), [attributes], [0], 1, stream)[0]
            if error:
                raise cuda.failure("cudaMemcpyBatchAsync", error)

        run()  # raises where the driver does not take it
        return run

    def waits(self) -> Row:
        """How the end of a small copy is learned: by asking again and again, by spinning, by sleeping."""
        row: Row = {}
        with DeviceBuffer(256) as there, PinnedBuffer(256) as pinned, Event() as spins, Event(blocking=True) as sleeps:
            copies = [Copy(there.address, pinned.address, 256)]

            def marked(event: Event) -> Callable[[], Any]:
                def run() -> None:
                    copy_all(copies, self.stream, CopyKind.TO_DEVICE)
                    event.record(self.stream)

                return run

            def ask() -> None:
                while not spins.is_done():
                    pass

            row["poll_us"] = round(statistics.median(self._times_us(marked(spins), ask)), 2)
            row["spin_us"] = round(statistics.median(self._times_us(marked(spins), spins.synchronize)), 2)
            row["block_us"] = round(statistics.median(self._times_us(marked(sleeps), sleeps.synchronize)), 2)
        return row

    def pinning(self) -> list[Row]:
        """cudaHostRegister of a memfd whose pages are there."""
        rows = []
        for mib in self.pinned_mib:
            with _memfd(mib << 20) as address:
                taken = []
                for _ in range(3):
                    started = time.perf_counter_ns()
                    with HostRegistration(address, mib << 20):
                        taken.append((time.perf_counter_ns() - started) / 1e9)
            seconds = statistics.median(taken)
            rows.append({"mib": mib, "ms": round(seconds * 1e3, 2), "s_per_gb": round(seconds / (mib << 20) * 1e9, 4)})
        return rows

    def opening(self) -> Row:
        """cudaIpcOpenMemHandle and close of another process's memory."""
        with _exporter() as handle:
            opened, closed = [], []
            for _ in range(OPENS):
                started = time.perf_counter_ns()
                address = cuda.open_ipc(handle)
                between = time.perf_counter_ns()
                cuda.close_ipc(address)
                opened.append((between - started) / 1e3)
                closed.append((time.perf_counter_ns() - between) / 1e3)
        return {
            "first_open_us": round(opened[0], 1), "open_us": round(statistics.median(opened), 1),
            "close_us": round(statistics.median(closed), 1),
        }  # fmt: skip

    def all(self) -> Iterator[tuple[str, Any]]:
        """Every part with what it found; what cannot be had here says why."""
        parts: dict[str, Callable[[], Any]] = {
            "chain": self.chain, "transfers": self.transfers, "gathers": self.gathers, "waits": self.waits,
            "pinning": self.pinning, "opening": self.opening,
        }  # fmt: skip
        for name, measure in parts.items():
            try:
                yield name, measure()
            except Exception as error:  # noqa: BLE001 - one figure that cannot be had does not cost the others
                yield name, {"failed": f"{type(error).__name__}: {error}"}


@contextmanager
def _memfd(byte_size: int) -> Iterator[int]:
    """The address of so much shared memory."""
    fd = os.memfd_create("penstock-bench")
    try:
        os.posix_fallocate(fd, 0, byte_size)
        with mmap.mmap(fd, byte_size) as mapping:
            view = np.frombuffer(mapping, np.uint8)
            view[:: mmap.PAGESIZE] = 1  # every page is mapped, not only there
            yield view.ctypes.data
            del view
    finally:
        os.close(fd)


@contextmanager
def _exporter() -> Iterator[bytes]:
    """The handle of memory in another process, which lives until the block ends."""
    command = [sys.executable, "-m", "penstock.clients.cli.checks.gpu_probe", "export"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield bytes.fromhex(json.loads(process.stdout.readline())["handle"])


def main() -> None:
    is_quick = "--quick" in sys.argv[1:]
    with Device(0, blocking=False) as device, Stream(device) as stream:
        for name, found in Floors(stream, 5 if is_quick else 200, is_quick).all():
            print(json.dumps({name: found}), flush=True)


if __name__ == "__main__":
    main()
