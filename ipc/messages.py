# SPDX-License-Identifier: Apache-2.0
"""Every message of the protocol, grouped by its sender. This file is the specification; docs/protocol.md explains it.

A frame is a MessagePack array of messages; a message is a map with string keys whose `type` names it (the lower-case class
name, `Infer` is "infer"). Fields that hold their default are left out. Unknown fields are an error. Times are relative
(`_us`), except those between broker and worker on one machine, which are CLOCK_MONOTONIC nanoseconds (`_ns`).

Payload never travels in a message. A tensor lies in a region (name, offset, byte size), in descriptors that travel beside the
frame on the local link (a message says how many it brings: `fds`), or, over ZeroMQ only, in further message parts (`parts`);
both queue in order of arrival and are popped by that count.

Between broker and worker, names are replaced by positions: tensors are in the order of the model's configuration.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

PROTOCOL = 1

Unsigned = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(max_length=256)]
Shape = Annotated[list[Annotated[int, Meta(ge=0, le=2**63 - 1)]], Meta(max_length=32)]
FEW = 256
"""Upper bound on tensors per request and on other short lists."""


class Message(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag=str.lower, tag_field="type", gc=False):
    """What all messages share: immutable, tagged, small on the wire."""


class Row(Struct, frozen=True, array_like=True, gc=False):
    """A record between broker and worker, sent as an array."""


# --- from a client (or from a worker that was started by hand, in its first message) ---------------------------------------


class Hello(Message, frozen=True):
    """First message of every connection. `session` is 16 fresh random bytes per connection, never reused."""

    session: Annotated[bytes, Meta(min_length=16, max_length=16)]
    protocol: int = PROTOCOL
    role: Literal["client", "worker"] = "client"
    pid: Unsigned = 0
    name: Name = ""  # a client's name for logs; a worker's model


class Register(Message, frozen=True):
    """Registers memory under `name`. memfd: brings one sealed descriptor (local link). system: `key` of a POSIX segment."""

    id: Unsigned
    name: Name
    kind: Literal["memfd", "system"]
    byte_size: Unsigned
    key: Annotated[str, Meta(max_length=255)] = ""
    offset: Unsigned = 0
    fds: Annotated[int, Meta(ge=0, le=1)] = 0


class Unregister(Message, frozen=True):
    """Forgets one region, or all of the session's when `name` is empty. Always succeeds; memory goes when nothing uses it."""

    id: Unsigned
    name: Name = ""


class InputTensor(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """An input of a request: in a region, or (no region) the next of the message's parts."""

    name: Name
    datatype: Annotated[str, Meta(max_length=16)]
    shape: Shape
    region: Name = ""
    offset: Unsigned = 0
    byte_size: Unsigned = 0


class OutputPlace(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """Where an output is wanted: in a region, with `byte_size` as its capacity, or (no region) wherever the broker puts it."""

    name: Name
    region: Name = ""
    offset: Unsigned = 0
    byte_size: Unsigned = 0


class Infer(Message, frozen=True):
    """One inference request. `inputs`: array of InputTensor. `outputs`: array of OutputPlace; empty asks for all outputs.

    Both are kept encoded: a client that reuses a slot sends the same bytes again, and the broker then reuses what it
    checked the first time (runtime/bindings.py).
    """

    id: Unsigned
    model: Name
    inputs: Raw
    outputs: Raw = Raw(b"\x90")
    version: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1
    deadline_us: Unsigned = 0  # over queue and execution, from acceptance; 0: none
    principal: Name = ""
    explain: bool = False
    parts: Annotated[int, Meta(ge=0, le=FEW)] = 0


class Cancel(Message, frozen=True):
    """Cancels the request with this id, at whatever stage it is. Its outcome is CANCELLED unless it already has one."""

    id: Unsigned


class Query(Message, frozen=True):
    """Asks for a document; answered by Answer. `what` is one of runtime/queries.py's names."""

    id: Unsigned
    what: Annotated[str, Meta(max_length=32)]
    model: Name = ""
    version: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1


class Ping(Message, frozen=True):
    """Keeps the lease of a tcp:// session; answered by Pong."""


class Goodbye(Message, frozen=True):
    """The client closes: everything it held is given back at once."""


FromClient = Infer | Cancel | Register | Unregister | Query | Ping | Hello | Goodbye


# --- from the broker, to a client ------------------------------------------------------------------------------------------


class Welcome(Message, frozen=True):
    """Answers Hello. A request beyond `max_in_flight` is OVERLOADED. `lease_s` > 0: be heard at least that often."""

    broker: bytes  # fresh per broker start
    pid: int
    max_in_flight: int
    max_frame_bytes: int
    protocol: int = PROTOCOL
    inline_only: bool = False  # the peer's uid is unknown: it may register nothing
    lease_s: float = 0.0


class Done(Message, frozen=True):
    """The request with this id (Register, Unregister) was carried out."""

    id: int


class Answer(Message, frozen=True):
    """Answers Query."""

    id: int
    value: Any


class OutputTensor(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """An output of a result. No region: in the descriptor that the result brings (at `offset`), or the next of its parts."""

    name: str
    datatype: str
    shape: list[int]
    region: str = ""
    offset: int = 0
    byte_size: int = 0


class Copied(Row, frozen=True):
    """Copies made for a batch: `kind` is gather, scatter or snapshot."""

    kind: str
    count: int
    byte_size: int


class Explanation(Struct, frozen=True, omit_defaults=True, gc=False):
    """How one request was served, on request (`explain`). Durations in ns; copies are those of the whole batch."""

    instance: str
    batch_size: int  # total rows
    batch_requests: int
    closed: str  # why the batch was closed, see scheduling/batcher.py
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    copies: list[Copied] = []


class Result(Message, frozen=True):
    """The outcome of a request that succeeded. `outputs`: array of OutputTensor."""

    id: int
    outputs: Raw
    version: int = 1
    explain: Explanation | None = None
    fds: int = 0
    parts: int = 0
    index: int = 0
    final: bool = True


class Failed(Message, frozen=True):
    """The outcome of any request that failed. `released` false: its memory is still in use, Released follows.

    `id` is absent when the message it answers had none that could be read.
    """

    code: str
    message: str
    fault: str
    id: int | None = None
    released: bool = True


class Released(Message, frozen=True):
    """No worker can touch this request's memory any more."""

    id: int


class Pong(Message, frozen=True):
    """Answers Ping."""


ToClient = Result | Failed | Released | Done | Answer | Welcome | Pong


# --- from the broker, to a worker ------------------------------------------------------------------------------------------


class TensorSpec(Struct, frozen=True, omit_defaults=True, gc=False):
    """A tensor of a model. `dims` leaves the batch dimension out; -1 is a variable dimension."""

    name: str
    datatype: str  # KServe: FP32, INT64, BYTES, ...
    dims: list[int]


class ModelSpec(Struct, frozen=True, omit_defaults=True, gc=False):
    """What a worker must know of a model: the part of its configuration that execution needs."""

    name: str
    version: int
    backend: str  # Triton's backend name: onnxruntime, identity, fake, ...
    max_batch_size: int
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    parameters: dict[str, str] = {}


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
    """An input of one request: bytes of a region, and the full shape (with the batch dimension where the model has one)."""

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


# --- from a worker ---------------------------------------------------------------------------------------------------------


class Signature(Struct, frozen=True, omit_defaults=True, gc=False):
    """The model's own inputs and outputs. `dims` here are complete: what the model file says, batch dimension included."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]


class Loaded(Message, frozen=True):
    """The model is in memory. `signature` is None where the backend takes any configuration (identity, fake)."""

    pid: int
    signature: Signature | None = None


class LoadFailed(Message, frozen=True):
    """The model could not be loaded; the worker exits after this."""

    message: str
    fault: str = "model"
    code: str = "INTERNAL"


class Ready(Message, frozen=True):
    """Warmed up: batches may be sent."""


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
    """A batch ended. `started_ns` is CLOCK_MONOTONIC; the other times are durations.

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


FromWorker = BatchDone | Loaded | LoadFailed | Ready | Hello
