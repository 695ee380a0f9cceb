# SPDX-License-Identifier: Apache-2.0
"""From the broker, to a worker."""

from __future__ import annotations

from msgspec import Raw, Struct

from .base import Message, Row


class TensorSpec(Struct, frozen=True, omit_defaults=True, gc=False):
    """A tensor of a model as clients see it. `dims` leaves the batch dimension out; -1 is a variable dimension.

    The rest says what the model sees instead. It has a default for the usual tensor, which is the same on both sides.
    """

    name: str
    datatype: str  # KServe: FP32, INT64, BYTES, ...
    dims: list[int]
    reshape: list[int] | None = None  # the model's own dims, of as many elements; nil: `dims`
    optional: bool = False  # an input that a request may leave out
    ragged: bool = False  # an input that the model gets as one dimension: all elements of all requests
    shaped_as: str = ""  # an output that is split by the shapes of this input, each request getting its own


class BatchInput(Struct, frozen=True, omit_defaults=True, gc=False):
    """Inputs of the model that no client sends: the worker computes them from the shapes of `source` in each execution."""

    kind: str  # Triton's BatchInput.Kind: BATCH_ELEMENT_COUNT, ...
    targets: list[str]  # the model's inputs that get the value
    datatype: str  # INT32 or FP32
    source: str  # an input


class ModelSpec(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a worker must know of a model: the part of its configuration that execution needs."""

    name: str
    version: int
    backend: str  # Triton's backend name: onnxruntime, identity, fake, ...
    max_batch_size: int
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    parameters: dict[str, str] = {}
    batch_inputs: list[BatchInput] = []


class LoadModel(Message, frozen=True):
    """First message to a worker. `spec` may be incomplete (no inputs or outputs): the worker reports the model's own."""

    spec: ModelSpec
    instance: str  # e.g. digits_0_1, used in logs and errors
    directory: str  # the version directory, absolute; "" where the model has none
    filename: str = ""  # default_model_filename within it
    threads: int = 0  # intra-op threads this instance may use; 0: the backend decides
    isolate_system_regions: bool = False


class Start(Message, frozen=True):
    """The completed and checked spec. The worker warms up and answers Ready."""

    spec: ModelSpec


class MapRegion(Message, frozen=True):
    """Brings the descriptor of a region. `offset` is where the region begins in the object."""

    region: int
    byte_size: int
    offset: int = 0
    sealed: bool = True  # cannot shrink; False: a `system` segment, see --isolate-system-regions
    fds: int = 1


class UnmapRegion(Message, frozen=True):
    """No later batch refers to this region."""

    region: int


class InputSlice(Row, frozen=True):
    """An input of one request: bytes of a region, and the full shape (with the batch dimension where the model has one).

    An optional input that was left out has `region` -1 and an empty shape.
    """

    region: int
    offset: int
    byte_size: int
    shape: list[int]


class OutputSlice(Row, frozen=True):
    """An output wanted: `output` is its position in the spec. `region` -1: unplaced, the worker allocates a memfd."""

    output: int
    region: int
    offset: int
    byte_size: int  # capacity


class Placement(Row, frozen=True):
    """One request of a batch: its rows (1 for a model without batching), all inputs in spec order, the outputs wanted."""

    rows: int
    inputs: list[InputSlice]
    outputs: list[OutputSlice]


class Batch(Message, frozen=True):
    """Requests to execute together. `items`: each an encoded Placement (equal bytes mean an equal placement)."""

    batch: int
    items: list[Raw]


class Stop(Message, frozen=True):
    """Finish what was sent, then exit."""


ToWorker = Batch | MapRegion | UnmapRegion | LoadModel | Start | Stop
