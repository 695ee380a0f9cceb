# SPDX-License-Identifier: Apache-2.0
"""Whether copies gain by streams of their own: one lane of a worker kept busy, with each way of dividing its work into streams.

usage: overlap.py FOLDER SECONDS ROUNDS BATCH... [--torch]     run by bench/gpu.py

Prints a line of JSON per network and batch size. The lane is that of workers/on_gpu/lanes.py, without broker and client: two
batches in flight, from and to a pinned region. `echo` has as many bytes out as in; `convnet`, where torch can be had, has few.
Each side measures by turns; outputs are verified.
"""

from __future__ import annotations

import json
import mmap
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from msgspec import Raw

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measurement import Row, alternate, median_row

from on_gpu import models
from penstock.ipc.codec import encode
from penstock.ipc.messages import (
    Batch,
    Gpu,
    GraphSpec,
    InputSlice,
    LoadModel,
    MapRegion,
    ModelSpec,
    Optimization,
    OutputSlice,
    Placement,
    Start,
    TensorSpec,
)
from penstock.ipc.regions import create_memfd
from penstock.workers.backends import make_device_backend
from penstock.workers.devices.cuda import Device
from penstock.workers.on_gpu.instance import DeviceInstance
from penstock.workers.on_gpu.lanes import Overlap
from penstock.workers.region_table import RegionTable

WAYS = {
    "one_stream": Overlap(False, False), "inputs_apart": Overlap(True, False), "outputs_apart": Overlap(False, True),
    "both_apart": Overlap(True, True),
}  # fmt: skip
REQUESTS = 2
POISON = np.float32(-1e30)
ECHO = models.Network("echo", "identity", "", models.IMAGE, models.IMAGE)


class Lane:
    """One lane that divides its work in one way, with requests in a region of its own. A context manager."""

    def __init__(self, device: Device, network: models.Network, batch: int, folder: Path, overlap: Overlap) -> None:
        self._held = ExitStack()
        self._network, self._batch, self._folder = network, batch, folder
        #: in the order in which they are sent, by turns
        self._items: list[Raw] = []
        self._outputs: list[models.Array] = []
        with ExitStack() as given_back:  # where the GPU has no memory for all of it
            given_back.callback(self._held.close)
            self._fill(self._start(device, overlap))
            given_back.pop_all()

    def _start(self, device: Device, overlap: Overlap) -> RegionTable:
        network, folder = self._network, str(self._folder)
        backend, gpu = make_device_backend(network.backend), Gpu(device.uuid, device.ordinal)
        instance = DeviceInstance(backend, device, gpu, overlap)
        self._held.callback(instance.close)
        spec = _spec(network, self._batch)
        instance.load(LoadModel(spec, network.name, folder, network.file, gpu=gpu))
        regions = RegionTable(device=device)
        self._held.callback(regions.close)
        self._runner = instance.start(Start(spec), regions, folder)
        self._held.callback(self._runner.close)
        return regions

    def _fill(self, regions: RegionTable) -> None:
        """Puts the requests into a region."""
        network, batch = self._network, self._batch
        shapes = ((batch, *network.inputs), (batch, *network.outputs))
        sizes = [-(-4 * int(np.prod(shape)) // mmap.PAGESIZE) * mmap.PAGESIZE for shape in shapes]
        fd = create_memfd("bench-overlap", REQUESTS * sum(sizes))
        memory = np.frombuffer(mmap.mmap(fd, REQUESTS * sum(sizes)), np.uint8)
        regions.map(MapRegion(1, memory.size), fd)
        for number, x in zip(range(REQUESTS), models.inputs_of(network, batch), strict=False):
            source, target = number * sum(sizes), number * sum(sizes) + sizes[0]
            memory[source : source + x.nbytes] = x.reshape(-1).view(np.uint8)
            y_bytes = 4 * int(np.prod(shapes[1]))
            self._outputs.append(memory[target : target + y_bytes].view(np.float32).reshape(shapes[1]))
            inputs, outputs = [InputSlice(1, source, x.nbytes, list(x.shape))], [OutputSlice(0, 1, target, y_bytes)]
            self._items.append(Raw(encode(Placement(batch, inputs, outputs))))

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def measure(self, seconds: float) -> Row:
        """Batches per second with as many in flight as there is room for. Raises RuntimeError for a wrong output."""
        for output in self._outputs:
            output[...] = POISON
        clock, begun, sent, done = time.perf_counter_ns, time.perf_counter_ns(), 0, 0
        while clock() < begun + seconds * 1e9 or sent < REQUESTS:
            if self._runner.has_room(0):
                self._runner.submit(Batch(sent, [self._items[sent % REQUESTS]]))
                sent += 1
            done += self._ended()
        self._runner.drain()
        done += self._ended()
        taken_ns = clock() - begun
        expected = models.expected_of(self._network, self._batch, self._folder)
        if not all(models.is_right(found, right) for found, right in zip(self._outputs, expected, strict=False)):
            raise RuntimeError("an output is not what its input makes it")
        return {"batches_per_s": done / taken_ns * 1e9}

    def _ended(self) -> int:
        ended = self._runner.finished()
        for each in ended:
            problem = each.report.message or next((item.message for item in each.report.items if item.code), "")
            if problem:
                raise RuntimeError(problem)
        return len(ended)


def _spec(network: models.Network, batch: int) -> ModelSpec:
    return ModelSpec(
        network.name, 1, network.backend, batch,
        [TensorSpec("INPUT__0", "FP32", list(network.inputs))], [TensorSpec("OUTPUT__0", "FP32", list(network.outputs))],
        optimization=Optimization(cuda_graphs=True, graph_specs=[GraphSpec(batch)]),
    )  # fmt: skip


def compare(device: Device, network: models.Network, batch: int, folder: Path, seconds: float, rounds: int) -> Row:
    """Batches per second of every way."""
    with ExitStack() as held:
        sides: dict[str, Callable[[], Row]] = {}
        for name, overlap in WAYS.items():
            lane = held.enter_context(Lane(device, network, batch, folder, overlap))
            lane.measure(seconds / 4)  # not counted
            sides[name] = partial(lane.measure, seconds)
        measured = {name: median_row(found)["batches_per_s"] for name, found in alternate(sides, rounds).items()}
    best = max(measured, key=lambda name: float(measured[name]))
    return {"model": network.name, "batch": batch, **{f"{name}_per_s": value for name, value in measured.items()}, "best": best}


def main(words: Sequence[str]) -> None:
    folder, seconds, rounds = Path(words[0]), float(words[1]), int(words[2])
    batches = [int(word) for word in words[3:] if word != "--torch"]
    networks = [ECHO, models.CONVNET] if "--torch" in words else [ECHO]
    with Device(0, blocking=True) as device:
        for network in networks:
            for batch in batches:
                try:
                    row = compare(device, network, batch, folder, seconds, rounds)
                except Exception as error:  # noqa: BLE001 - one that cannot be had does not cost the others
                    traceback.print_exc()
                    row = {"failed": f"{network.name}, batch {batch}: {type(error).__name__}: {error}"}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
