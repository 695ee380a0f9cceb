# SPDX-License-Identifier: Apache-2.0
"""From a client (or from a worker that was started by hand, in its first message)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from .base import FEW, PROTOCOL, Message, Name, Shape, Uid, Unsigned


class Hello(Message, frozen=True):
    """First message of every connection. `session` is 16 fresh random bytes per connection, never reused."""

    session: Annotated[bytes, Meta(min_length=16, max_length=16)]
    protocol: int = PROTOCOL
    role: Literal["client", "worker"] = "client"
    pid: Unsigned = 0
    name: Name = ""  # a client's name for logs; a worker's model


class Register(Message, frozen=True):
    """Registers memory under `name`.

    memfd: brings one sealed descriptor (local link). system: `key` of a POSIX segment. cuda: `handle`, the 64 bytes of a
    cudaIpcMemHandle_t, and the GPU by `device_id`, or by `uuid`, which does not depend on who sees which GPUs.

    `on_behalf` of a user the region goes into that user's shared scope: it outlives the session, and the segment must be that
    user's. For the broker's own user only, whose gateways say so of those who they serve.
    """

    id: Unsigned
    name: Name
    kind: Literal["memfd", "system", "cuda"]
    byte_size: Unsigned
    key: Annotated[str, Meta(max_length=255)] = ""
    offset: Unsigned = 0
    handle: Annotated[bytes, Meta(max_length=64)] = b""
    device_id: Unsigned = 0
    uuid: Annotated[str, Meta(max_length=64)] = ""
    fds: Annotated[int, Meta(ge=0, le=1)] = 0
    on_behalf: Uid = -1


class Unregister(Message, frozen=True):
    """Forgets one region, or all of the session's when `name` is empty. Always succeeds; memory goes when nothing uses it.

    Done comes at once, but for CUDA memory when no worker has it open: its exporter may free it then.

    `on_behalf` of a user: that user's shared regions, of this `kind` (empty: of any). One that is in use keeps its name until
    its last request has ended, and can be used till then; Done comes at once. That is Triton's rule.
    """

    id: Unsigned
    name: Name = ""
    on_behalf: Uid = -1
    kind: Literal["", "system", "cuda"] = ""


class InputTensor(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """An input of a request: in a region, or (no region) the next of the message's parts.

    `shared`: the region is one of those shared for the user whose request it is, not one of the session's own.
    """

    name: Name
    datatype: Annotated[str, Meta(max_length=16)]
    shape: Shape
    region: Name = ""
    offset: Unsigned = 0
    byte_size: Unsigned = 0
    shared: bool = False


class OutputPlace(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """Where an output is wanted: in a region, with `byte_size` as its capacity, or (no region) wherever the broker puts it.

    One with a region of the session's own and no name is room: outputs that have no place, and whose size is known before
    execution, come to lie in it one after the other, as far as it goes. Once per request; it asks for no output.
    """

    name: Name
    region: Name = ""
    offset: Unsigned = 0
    byte_size: Unsigned = 0
    classification: Unsigned = 0  # Triton's: not the output, but its best that many classes, as BYTES; not with a region
    shared: bool = False  # as in InputTensor


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
    priority: Unsigned = 0  # Triton's: 1 is the highest level; 0, or a level that the model does not have, is its default
    timeout_us: Unsigned = 0  # Triton's: in the queue, and only where the model's queue policy allows to override its own
    on_behalf: Uid = -1  # whose shared regions it may name; -1: those of who sends it. As in Register


class Cancel(Message, frozen=True):
    """Cancels the request with this id, at whatever stage it is. Its outcome is CANCELLED unless it already has one."""

    id: Unsigned


class Query(Message, frozen=True):
    """Asks for a document; answered by Answer. `what` is one of runtime/queries.py's names."""

    id: Unsigned
    what: Annotated[str, Meta(max_length=32)]
    model: Name = ""
    version: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1
    on_behalf: Uid = -1  # whose shared regions are asked for; as in Register


class Load(Message, frozen=True):
    """Loads a model, or loads it again; answered by Done or Failed when that is over. For the broker's own user only.

    `config`, unless it is empty, replaces config.pbtxt: Triton's JSON, or text of that form. `files` are Triton's parameters
    file:VERSION/NAME, whose contents come in this order as descriptors (local link) or as parts; with them the directory in
    the repository is ignored, and `config` is needed.
    """

    id: Unsigned
    model: Name
    config: Annotated[str, Meta(max_length=1 << 20)] = ""
    files: Annotated[list[Annotated[str, Meta(max_length=1024)]], Meta(max_length=FEW)] = []
    fds: Annotated[int, Meta(ge=0, le=FEW)] = 0
    parts: Annotated[int, Meta(ge=0, le=FEW)] = 0


class Unload(Message, frozen=True):
    """Unloads a model; answered by Done when nothing is left of it: no request, no worker. For the broker's own user only."""

    id: Unsigned
    model: Name
    unload_dependents: bool = False  # Triton's, for ensembles: no model depends on another in this release


class Adjust(Message, frozen=True):
    """Changes settings that the broker and all its gateways share; answered by Answer: what holds then.

    log: the settings of Triton's logging extension. trace: those of its trace extension, for `model` or (empty) for all models
    that have none of their own. `values`: name -> value, as they are in an Adjusted; nil clears a trace setting. Without any
    nothing is changed. For the broker's own user only.
    """

    id: Unsigned
    what: Literal["log", "trace"]
    model: Name = ""
    values: Annotated[dict[str, Any], Meta(max_length=FEW)] = {}


class Ping(Message, frozen=True):
    """Keeps the lease of a tcp:// session; answered by Pong."""


class Goodbye(Message, frozen=True):
    """The client closes: everything it held is given back at once."""


FromClient = Infer | Cancel | Register | Unregister | Query | Load | Unload | Adjust | Ping | Hello | Goodbye
