# SPDX-License-Identifier: Apache-2.0
"""From a worker."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from .base import Message, Row
from .from_client import Hello
from .to_client import Copied
from .to_worker import TensorSpec


class Signature(Struct, frozen=True, omit_defaults=True, gc=False):
    """The model's own inputs and outputs. `dims` here are complete: what the model file says, batch dimension included.

    Of the inputs that the model has a value for (`optional`), those that the configuration names.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    max_batch_size: int = 0  # the largest batch that the model takes; 0: it does not say


class Loaded(Message, frozen=True):
    """The model is in memory. `signature` is None where the backend takes any configuration (identity, fake)."""

    pid: int
    signature: Signature | None = None


class LoadFailed(Message, frozen=True):
    """The model could not be loaded; the worker exits after this."""

    message: str
    fault: str = "model"
    code: str = "INTERNAL"


class RegionMapped(Message, frozen=True):
    """The answer to a MapRegion with `report`. A non-empty `code`: the region cannot be used here, and why.

    Without a code, `message` says why host memory is not pinned where it might be; copies from it are slower then.
    """

    region: int
    code: str = ""
    message: str = ""
    fault: str = "machine"
    pinned: bool = False


class RegionUnmapped(Message, frozen=True):
    """The answer to an UnmapRegion with `report`: this worker has closed it, and its exporter may free it."""

    region: int


class Ready(Message, frozen=True):
    """Warmed up: batches may be sent."""

    mps: bool = False  # the worker's context goes through an MPS daemon
    about: dict[str, Any] = {}  # how a GPU runs the model, as its backend tells: version, profiles, graphs
    on_host: bool = False  # it was given a GPU, and takes its tensors from host memory all the same (text)


class ItemOutput(Row, frozen=True):
    """An output as produced. `offset` counts from the start of the item's own memfd when the output was unplaced."""

    output: int
    shape: list[int]
    byte_size: int
    offset: int


class ItemResult(Row, frozen=True):
    """One request's result. A non-empty `code` is a failure of this request alone. `fds` 1: its unplaced outputs' memfd."""

    code: str = ""
    message: str = ""
    fault: str = "model"
    outputs: list[ItemOutput] = []
    fds: int = 0


class BatchDone(Message, frozen=True):
    """A batch ended. `started_ns` and `ended_ns` (the report is made) are CLOCK_MONOTONIC; the other times are durations.

    `items` is empty when every request succeeded with outputs placed and shaped just as its Placement says (all dims
    known); else one ItemResult per request, in order. A non-empty `message` fails every request of the batch.
    """

    batch: int
    started_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    items: list[ItemResult] = []
    copies: list[Copied] = []
    code: str = ""
    message: str = ""
    fault: str = "model"
    fds: int = 0
    ended_ns: int = 0  # 0 where the whole batch failed
    lane: int = 0  # that of the batch


FromWorker = BatchDone | RegionMapped | RegionUnmapped | Loaded | LoadFailed | Ready | Hello
