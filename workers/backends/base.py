# SPDX-License-Identifier: Apache-2.0
"""The seam between a worker and what computes: four steps (load, warm_up, execute, close) and the unit of work.

The worker's side does everything that concerns memory: it finds views, gathers, checks what comes back, and scatters. A
backend sees whole tensors and, where an output's place is known, the memory to compute into.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from ...ipc.errors import PenstockError
from ...ipc.messages import LoadModel, ModelSpec, Signature

Tensor = npt.NDArray[Any]


class Work:
    """One execution. Tensors have the batch dimension where the model has one; BF16 is raw uint16, BYTES objects of bytes.

    A tensor may begin at any byte address: numpy and onnxruntime take that, a backend that does not must copy.
    """

    __slots__ = ("failures", "inputs", "is_kept", "places", "prepared", "rows_of", "wanted")

    def __init__(
        self, rows_of: Sequence[int], inputs: Sequence[Tensor | None], wanted: tuple[int, ...], places: list[Tensor | None],
        is_kept: bool,
    ) -> None:  # fmt: skip
        #: rows of each request, in the order in which they lie in the tensors
        self.rows_of = rows_of
        #: every input in the order of the spec, None for an optional one that was left out, then the targets of its batch
        #: inputs; shaped as the model takes them (workers/shapes.py). Never to be written to
        self.inputs = inputs
        #: positions in the spec of the outputs that are wanted
        self.wanted = wanted
        #: for each of them the memory that should receive it, of exactly its datatype and shape; None where unknown
        self.places = places
        #: True: the same object will come again, with other content in the same memory; see `prepared`
        self.is_kept = is_kept
        #: whatever the backend derives from the above and wants to find again; dies with this object
        self.prepared: Any = None
        #: position in rows_of -> why this request alone failed; set by the backend, emptied by the worker
        self.failures: dict[int, PenstockError] = {}


class Backend(ABC):
    """A way to run models. One object serves one instance of one model; calls come from one thread."""

    #: True: execution copies, so batches are executed request by request, each on its own memory, and nothing is packed
    is_scattered = False
    #: False: no element of an input is ever used as an index or a length, so clients may as well change them meanwhile
    needs_snapshots = True

    @abstractmethod
    def load(self, order: LoadModel) -> Signature | None:
        """Brings the model into memory; its own signature, or None when any configuration suits it.

        Raises PenstockError with a message that names the file and the reason.
        """

    @abstractmethod
    def warm_up(self, spec: ModelSpec, samples_follow: bool = False) -> None:
        """Gets ready for `spec`, complete now. Raises PenstockError when the model cannot serve it.

        With `samples_follow` the configuration has warm-up samples of its own, which come through `execute`: nothing need
        be executed here.
        """

    @abstractmethod
    def execute(self, work: Work) -> Sequence[Tensor | None]:
        """Computes the wanted outputs, in the order of `work.wanted`.

        Each is either its place, filled, or memory of the backend's own, which is checked and copied out. When every
        place was filled, `work.places` itself is to be returned. What it raises fails all requests of the work.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives everything back. Idempotent; also called after a failed load."""
