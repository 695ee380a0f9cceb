# SPDX-License-Identifier: Apache-2.0
"""The raw side: the same model in one process that serves nobody. Pinned input, to the device, model, from the device.

usage: raw.py NETWORK FILE [--eager]

Answers lines on standard input by lines of JSON. `prepare BATCH 0`: {"mode", "expected"}, the outputs for the inputs of
`inputs_of`. `wait BATCH SECONDS` (one batch after the other) and `stream BATCH SECONDS` (two in flight): {"p50_us",
"batches_per_s"}. Run by bench/gpu.py beside the broker.
"""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from on_gpu import models
from penstock.workers.devices.cuda import Copy, CopyKind, Device, DeviceBuffer, Event, Graph, PinnedBuffer, Stream, copy_all

Array = npt.NDArray[np.float32]
SEEDS = 4
IN_FLIGHT = 2


def inputs_of(network: models.Network, batch: int) -> list[Array]:
    """The requests that both sides send, by turns."""
    return [np.random.default_rng(seed).random((batch, *network.inputs), np.float32) for seed in range(SEEDS)]


class Slot(ABC):
    """A batch's memory and stream. `x` and `y` are in pinned host memory."""

    x: Array
    y: Array

    @abstractmethod
    def start(self) -> None:
        """Puts everything into the stream."""

    @abstractmethod
    def wait(self) -> None:
        """Until all of it is done, spinning."""


class DeviceSlot(Slot):
    """Brings the batch to the device, computes, and brings back what comes out. Without any framework."""

    def __init__(self, device: Device, network: models.Network, batch: int) -> None:
        self.stream = Stream(device)
        self._done = Event()
        shape_in, shape_out = (batch, *network.inputs), (batch, *network.outputs)
        in_bytes, out_bytes = 4 * int(np.prod(shape_in)), 4 * int(np.prod(shape_out))
        self._pinned_in, self._pinned_out = PinnedBuffer(in_bytes), PinnedBuffer(out_bytes)
        self.there_in, self.there_out = DeviceBuffer(in_bytes), DeviceBuffer(out_bytes)
        self.x = self._pinned_in.array[:in_bytes].view(np.float32).reshape(shape_in)
        self.y = self._pinned_out.array[:out_bytes].view(np.float32).reshape(shape_out)
        self._to = [Copy(self.there_in.address, self._pinned_in.address, in_bytes)]
        self._back = [Copy(self._pinned_out.address, self.there_out.address, out_bytes)]

    @abstractmethod
    def compute(self) -> None:
        """Puts the model into the stream."""

    def start(self) -> None:
        copy_all(self._to, self.stream, CopyKind.TO_DEVICE)
        self.compute()
        copy_all(self._back, self.stream, CopyKind.FROM_DEVICE)
        self._done.record(self.stream)

    def wait(self) -> None:
        while not self._done.is_done():
            pass


class IdentitySlot(DeviceSlot):
    """Copies the first of each row."""

    def __init__(self, device: Device, network: models.Network, batch: int) -> None:
        super().__init__(device, network, batch)
        row_in, row_out = self.x.nbytes // batch, self.y.nbytes // batch
        self._within = [
            Copy(self.there_out.address + n * row_out, self.there_in.address + n * row_in, row_out) for n in range(batch)
        ]

    def compute(self) -> None:
        copy_all(self._within, self.stream, CopyKind.WITHIN_DEVICE)


class PlanSlot(DeviceSlot):
    """A TensorRT plan with an execution context of its own, as a CUDA graph."""

    def __init__(self, device: Device, network: models.Network, batch: int, engine: Any) -> None:
        super().__init__(device, network, batch)
        self._context = engine.create_execution_context()
        self._context.set_input_shape("INPUT__0", self.x.shape)
        self._context.set_tensor_address("INPUT__0", self.there_in.address)
        self._context.set_tensor_address("OUTPUT__0", self.there_out.address)
        self._execute()  # what it puts off until the first time must not be in the graph
        self.stream.synchronize()
        self._graph = Graph.capture(self.stream, self._execute)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self.stream.address):
            raise RuntimeError("TensorRT does not execute the plan; its reason is above")

    def compute(self) -> None:
        self._graph.launch(self.stream)


class TorchSlot(Slot):
    """A TorchScript module; as a CUDA graph where it can be captured, unless that is not wanted."""

    def __init__(self, file: Path, network: models.Network, batch: int, is_eager: bool) -> None:
        import torch

        self._torch = torch
        self._module = torch.jit.load(str(file), map_location="cuda").eval()
        self._stream, self._done = torch.cuda.Stream(), torch.cuda.Event()
        self._pinned_in = torch.empty((batch, *network.inputs), pin_memory=True)
        self._pinned_out = torch.empty((batch, *network.outputs), pin_memory=True)
        self._there_in = torch.zeros((batch, *network.inputs), device="cuda")
        self.x, self.y = self._pinned_in.numpy(), self._pinned_out.numpy()
        self._graph: Any = None
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(5):  # TorchScript compiles in the first calls
                self._there_out = self._module(self._there_in)
        self._stream.synchronize()
        if not is_eager:
            self._capture()

    def _capture(self) -> None:
        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.inference_mode(), self._torch.cuda.graph(graph, stream=self._stream):
                self._there_out = self._module(self._there_in)
        except RuntimeError as error:
            print(f"not captured: {error}", file=sys.stderr)
            return
        self._graph = graph

    @property
    def is_graph(self) -> bool:
        """Whether it could be captured."""
        return self._graph is not None

    def start(self) -> None:
        with self._torch.inference_mode(), self._torch.cuda.stream(self._stream):
            self._there_in.copy_(self._pinned_in, non_blocking=True)
            if self._graph is None:
                self._there_out = self._module(self._there_in)
            else:
                self._graph.replay()
            self._pinned_out.copy_(self._there_out, non_blocking=True)
            self._done.record()

    def wait(self) -> None:
        while not self._done.query():
            pass


def measure(slots: list[Slot], seconds: float) -> dict[str, float]:
    """Batches for that long, as many in flight as there are slots."""
    taken, clock = [], time.perf_counter_ns
    begun = clock()
    started = []
    for slot in slots:
        started.append(clock())
        slot.start()
    turn = 0
    while (now := clock()) < begun + seconds * 1e9 or len(taken) < 3:
        slot = slots[turn]
        slot.wait()
        taken.append(clock() - started[turn])
        started[turn] = clock()
        slot.start()
        turn = (turn + 1) % len(slots)
    for slot in slots:
        slot.wait()
    return {"p50_us": float(np.median(taken)) / 1e3, "batches_per_s": len(taken) / (now - begun) * 1e9}


class Side:
    """One network, at any batch size. What a size needs is made when it is first asked for, and kept."""

    def __init__(self, network: models.Network, file: Path, is_eager: bool) -> None:
        self._network = network
        self._file = file
        self._is_eager = is_eager
        self._device = Device(0, blocking=False)
        #: batch size -> its slots
        self._slots: dict[int, list[Slot]] = {}

    def prepare(self, batch: int) -> dict[str, Any]:
        """Makes the slots; how they compute, and the outputs for the inputs of `inputs_of`."""
        mode = "copies"
        if self._network is models.PLAN:
            self._slots[batch] = [PlanSlot(self._device, self._network, batch, self._engine()) for _ in range(IN_FLIGHT)]
            mode = "graph"
        elif self._network.file:
            slots = [TorchSlot(self._file, self._network, batch, self._is_eager) for _ in range(IN_FLIGHT)]
            mode = "graph" if all(slot.is_graph for slot in slots) else "eager"
            self._slots[batch] = list(slots)
        else:
            self._slots[batch] = [IdentitySlot(self._device, self._network, batch) for _ in range(IN_FLIGHT)]
        slot, expected = self._slots[batch][0], []
        for x in inputs_of(self._network, batch):
            slot.x[...] = x
            slot.start()
            slot.wait()
            expected.append(slot.y.tolist())
        return {"mode": mode, "expected": expected}

    @cache  # noqa: B019 - there is one of these, as long as the process lives
    def _engine(self) -> Any:
        import tensorrt

        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        return runtime.deserialize_cuda_engine(self._file.read_bytes())

    def measure(self, batch: int, seconds: float, in_flight: int) -> dict[str, float]:
        """See the module's function."""
        return measure(self._slots[batch][:in_flight], seconds)


def main() -> None:
    """Serves the commands on standard input."""
    network = {each.name: each for each in models.NETWORKS}[sys.argv[1]]
    side = Side(network, Path(sys.argv[2]), "--eager" in sys.argv)
    for line in sys.stdin:
        word, batch, seconds = line.split()
        if word == "prepare":
            answer: Any = side.prepare(int(batch))
        else:
            answer = side.measure(int(batch), float(seconds), 1 if word == "wait" else IN_FLIGHT)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
