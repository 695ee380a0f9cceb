# SPDX-License-Identifier: Apache-2.0
"""What a worker is an instance of: a model on the CPU, or on a GPU. Which of the two is decided once, by LoadModel.

What only a GPU needs is imported then: a worker on the CPU starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ..ipc.messages import LoadModel, ModelSpec, Signature, Start
from .backends import computes_on_device, make_backend
from .backends.base import Backend
from .batches import BatchRunner
from .classification import read_labels
from .region_table import RegionTable
from .warm_up import run_samples

if TYPE_CHECKING:
    from .devices.cuda import Device
    from .on_gpu.batches import DeviceRunner


class Instance(Protocol):
    """A model in one worker."""

    @property
    def device(self) -> Device | None:
        """The GPU that it computes on."""

    def load(self, order: LoadModel) -> Signature | None:
        """Brings the model into memory; see Backend.load."""

    def start(self, message: Start, regions: RegionTable, directory: str) -> BatchRunner | DeviceRunner:
        """Gets ready for batches, with the samples of `message`. Raises whatever keeps it from that."""

    def describe(self) -> dict[str, Any]:
        """How the model is run, once it is started; see DeviceBackend.describe."""

    def close(self) -> None:
        """Gives the model and its memory back; the runner is closed by then. Idempotent."""


class HostInstance:
    """A model that takes its tensors from host memory."""

    device = None

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __repr__(self) -> str:
        return f"<HostInstance {self._backend!r}>"

    def load(self, order: LoadModel) -> Signature | None:
        """See Instance."""
        return self._backend.load(order)

    def start(self, message: Start, regions: RegionTable, directory: str) -> BatchRunner:
        """See Instance."""
        labels = read_labels(message.spec, directory)
        self._backend.warm_up(message.spec, samples_follow=bool(message.samples))
        runner = BatchRunner(message.spec, self._backend, regions, labels)
        run_samples(message, runner, regions, directory)
        return runner

    def describe(self) -> dict[str, Any]:
        """See Instance."""
        return {}

    def close(self) -> None:
        """See Instance."""
        self._backend.close()


def make_instance(order: LoadModel) -> Instance:
    """The instance that is to be loaded. Raises PenstockError: no such backend, no such GPU."""
    spec = order.spec
    if order.gpu is None or not computes_on_device(spec.backend) or has_text_on_host(spec):
        return HostInstance(make_backend(spec.backend))
    from .on_gpu.instance import open_instance

    return open_instance(spec.backend, order.gpu, spec)


def has_text_on_host(spec: ModelSpec) -> bool:
    """Whether it has text and a backend that takes that from host memory also on a GPU: onnxruntime computes it on the CPU."""
    is_text = any(tensor.datatype == "BYTES" for tensor in [*spec.inputs, *spec.outputs])
    return is_text and spec.backend in ("onnxruntime", "onnxruntime_onnx")
