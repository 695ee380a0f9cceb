# SPDX-License-Identifier: Apache-2.0
"""The raw side: the same model in one process that serves nobody. Pinned input, to the device, model, from the device.

usage: raw.py NETWORK FILE

Says {"ready"} when it has loaded, then answers lines on standard input by lines of JSON. `prepare BATCH 0`: {"mode",
"outputs"}, those for the inputs of `inputs_of`. `wait BATCH SECONDS` (one batch after the other) and `stream BATCH SECONDS`
(two in flight): {"p50_us", "batches_per_s"}. What went wrong is answered by {"failed"}. Run by bench/gpu.py beside the broker.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
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
IN_FLIGHT = 2
WARM_UP_EXECUTIONS = 5
"""TorchScript compiles in the first executions of a shape."""
POISON = np.float32(-1e30)


class Slot(ABC):
    """A batch's memory and stream: brings `x` to the device, computes, and brings back `y`. Both are in pinned host memory.

    Copies and the wait are CUDA's own calls, whatever computes.
    """

    #: how it computes
    mode = "graph"

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
        """Puts everything into the stream."""
        copy_all(self._to, self.stream, CopyKind.TO_DEVICE)
        self.compute()
        copy_all(self._back, self.stream, CopyKind.FROM_DEVICE)
        self._done.record(self.stream)

    def wait(self) -> None:
        """Until all of it is done, spinning."""
        while not self._done.is_done():
            pass


class IdentitySlot(Slot):
    """Copies the first of each row."""

    mode = "copies"

    def __init__(self, device: Device, network: models.Network, batch: int) -> None:
        super().__init__(device, network, batch)
        row_in, row_out = self.x.nbytes // batch, self.y.nbytes // batch
        self._within = [
            Copy(self.there_out.address + n * row_out, self.there_in.address + n * row_in, row_out) for n in range(batch)
        ]

    def compute(self) -> None:
        copy_all(self._within, self.stream, CopyKind.WITHIN_DEVICE)


class PlanSlot(Slot):
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
    """A TorchScript module; as a CUDA graph where it can be captured. Its output is brought back from where torch has it."""

    def __init__(self, device: Device, network: models.Network, batch: int, module: Any, gpu: Any) -> None:
        super().__init__(device, network, batch)
        from penstock.workers.backends.on_device import DeviceTensor

        self._module = module
        self._gpu = gpu
        self._input = gpu.view(DeviceTensor(self.there_in.address, "FP32", self.x.shape, self.x.nbytes))
        self._output: Any = None
        self._graph: Any = None
        gpu.use(self.stream)
        for _ in range(WARM_UP_EXECUTIONS):
            self._execute()
        self.stream.synchronize()
        try:
            self._graph = gpu.capture(self._execute, self.stream, gpu.pool())
        except RuntimeError as error:
            print(f"not captured: {error}", file=sys.stderr)
            self.mode = "eager"
        self.stream.synchronize()

    def _execute(self) -> None:
        with _inference():
            self._output = self._module(self._input).contiguous()
        self._back = [Copy(self._pinned_out.address, self._output.data_ptr(), self.y.nbytes)]

    def compute(self) -> None:
        self._gpu.use(self.stream)
        if self._graph is None:
            self._execute()
        else:
            self._graph.replay()


def _inference() -> AbstractContextManager[None]:
    import torch

    mode: AbstractContextManager[None] = torch.inference_mode()
    return mode


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

    def __init__(self, network: models.Network, file: Path) -> None:
        self._network = network
        self._file = file
        self._device = Device(0, blocking=False)
        if network.backend == "pytorch":
            self._module()  # takes seconds, which the others that load meanwhile need anyway
        #: batch size -> its slots
        self._slots: dict[int, list[Slot]] = {}
        #: batch size -> what its slots compute
        self._outputs: dict[int, Array] = {}

    def answer(self, word: str, batch: int, seconds: float) -> dict[str, Any]:
        """To one command."""
        if word == "prepare":
            return self.prepare(batch)
        return self.measure(batch, seconds, 1 if word == "wait" else IN_FLIGHT)

    def prepare(self, batch: int) -> dict[str, Any]:
        """Makes the slots; how they compute, and the outputs for the inputs of `inputs_of`."""
        slots = self._slots[batch] = [self._made(batch) for _ in range(IN_FLIGHT)]
        outputs = []
        for x in models.inputs_of(self._network, batch):
            for slot in slots:
                slot.x[...] = x
                slot.y[...] = POISON
                slot.start()
                slot.wait()
            outputs.append(slots[0].y.tolist())
        self._outputs[batch] = slots[0].y.copy()
        return {"mode": slots[0].mode, "outputs": outputs}

    def _made(self, batch: int) -> Slot:
        if self._network is models.PLAN:
            return PlanSlot(self._device, self._network, batch, self._engine())
        if self._network.file:
            return TorchSlot(self._device, self._network, batch, self._module(), self._torch())
        return IdentitySlot(self._device, self._network, batch)

    @cache  # noqa: B019 - there is one of these, as long as the process lives
    def _engine(self) -> Any:
        import tensorrt

        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        return runtime.deserialize_cuda_engine(self._file.read_bytes())

    @cache  # noqa: B019 - see above
    def _module(self) -> Any:
        import torch

        module = torch.jit.load(str(self._file), map_location=self._torch().name).eval()
        torch.cuda.synchronize()
        return module

    @cache  # noqa: B019 - see above
    def _torch(self) -> Any:
        from penstock.workers.backends.torch_gpu import TorchGpu

        return TorchGpu(self._device.ordinal)

    def measure(self, batch: int, seconds: float, in_flight: int) -> dict[str, float]:
        """See the module's function. Raises RuntimeError for an output that is not what it was before."""
        slots = self._slots[batch][:in_flight]
        for slot in slots:
            slot.y[...] = POISON
        found = measure(slots, seconds)
        if not all(models.is_right(slot.y, self._outputs[batch]) for slot in slots):
            raise RuntimeError("the raw loop computed something else than at first")
        return found


def main() -> None:
    """Serves the commands on standard input."""
    network = {each.name: each for each in models.NETWORKS}[sys.argv[1]]
    side = Side(network, Path(sys.argv[2]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        word, batch, seconds = line.split()
        try:
            answer = side.answer(word, int(batch), float(seconds))
        except Exception as error:  # noqa: BLE001 - one batch size that cannot be had does not cost the others
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
