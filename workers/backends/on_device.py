# SPDX-License-Identifier: Apache-2.0
"""The seam between a worker and what computes on a device: as base.py, with device addresses, and nothing is waited for.

The worker's side brings inputs into device memory, and outputs from there to where they are wanted; a backend only puts its
computation into a stream. What it is given lives until the stream has passed it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...ipc.errors import PenstockError
from ...ipc.messages import LoadModel, ModelSpec, Signature
from ...ipc.tensors import elements

if TYPE_CHECKING:
    from ..devices.cuda import Device, Stream

ALIGNMENT = 256
"""Device tensors begin at a multiple of so many bytes (TensorRT: setTensorAddress in NvInferRuntime.h)."""


class DeviceTensor(NamedTuple):
    """A dense tensor in device memory. `shape` has the batch dimension where the model has one."""

    address: int
    datatype: str
    shape: tuple[int, ...]
    byte_size: int

    @property
    def size(self) -> int:
        """Elements."""
        return elements(self.shape)


class Lane(NamedTuple):
    """One instance within a worker: what a backend makes one execution context for. Work of a lane never runs at once."""

    index: int  # type: ignore[assignment]  # mypy: tuples have a method of this name, which nobody calls here
    stream: Stream


class Slot(NamedTuple):
    """The memory that batches of a lane use in turn: a batch uses one slot, and the next one another.

    `inputs` in the order of Work.inputs and `outputs` in that of the spec: room for the largest batch, with -1 for variable
    dims; None where no size is known beforehand, and there was no batch yet. Addresses stay the same as long as the worker
    lives, which is what a CUDA graph needs, but for those of tensors that outgrow their room: then there is another Slot.
    """

    lane: Lane
    index: int  # type: ignore[assignment]  # mypy: tuples have a method of this name, which nobody calls here
    inputs: tuple[DeviceTensor | None, ...]
    outputs: tuple[DeviceTensor | None, ...]


class DeviceWork:
    """One execution on a device."""

    __slots__ = ("failures", "inputs", "places", "rows_of", "slot", "wanted")

    def __init__(
        self, rows_of: Sequence[int], inputs: Sequence[DeviceTensor | None], wanted: tuple[int, ...],
        places: Sequence[DeviceTensor | None], slot: Slot,
    ) -> None:  # fmt: skip
        #: rows of each request, in the order in which they lie in the tensors
        self.rows_of = rows_of
        #: every input in the order of the spec, None for one that was left out, then the targets of its batch inputs. In the
        #: slot's memory, or where a client has them
        self.inputs = inputs
        #: positions in the spec of the outputs that are wanted
        self.wanted = wanted
        #: for each of them the memory that should receive it; None where its size is not known
        self.places = places
        self.slot = slot
        #: position in rows_of -> why this request alone failed; set by the backend
        self.failures: dict[int, PenstockError] = {}


class DeviceBackend(ABC):
    """A way to run models on a device. One object serves all lanes of one worker; calls come from one thread."""

    #: False: no element of an input is ever used as an index or a length, so clients may as well change them meanwhile
    needs_snapshots = True

    @abstractmethod
    def load(self, order: LoadModel, device: Device) -> Signature | None:
        """Brings the model onto the device; its own signature, or None when any configuration suits it.

        Raises PenstockError with a message that names the file and the reason.
        """

    @abstractmethod
    def warm_up(self, spec: ModelSpec, slots: Sequence[Slot], samples_follow: bool = False) -> None:
        """Gets ready for `spec`, complete now: contexts for the lanes, graphs for the slots. Ends synchronised.

        Raises PenstockError when the model cannot serve it. With `samples_follow` nothing need be executed for its own sake.
        """

    @abstractmethod
    def enqueue(self, work: DeviceWork) -> Sequence[DeviceTensor | None]:
        """Puts the computation of the wanted outputs into the lane's stream, and returns at once.

        Each result is its place (then of the same address), or memory of the backend's own, with its true shape, which
        stays untouched until the slot is used again. When every place was taken, `work.places` itself is to be returned. The
        inputs may be changed by nobody until the stream is past them. What it raises fails all requests of the work.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives everything back; the streams are idle by then. Idempotent; also called after a failed load."""

    def largest(self, name: str) -> int | None:  # noqa: ARG002 - what is known of no model
        """Bytes of the largest tensor of this name that the model takes or gives, where its dims are variable; None: no bound.

        Asked before warm_up, so that its slots have room for it from the beginning.
        """
        return None

    def replays(self, rows: int) -> bool:  # noqa: ARG002 - see `largest`
        """Whether a batch of so many rows is a CUDA graph's, which is lost where tensors lie outside of the slot."""
        return False

    def describe(self) -> dict[str, Any]:
        """How the model is run, for `penstock status --json`: version, profiles, graphs. Asked after warm_up."""
        return {}
