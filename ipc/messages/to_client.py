# SPDX-License-Identifier: Apache-2.0
"""From the broker, to a client."""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

from .base import PROTOCOL, Message, Row


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
    """The request with this id (Register, Unregister, Load, Unload) was carried out."""

    id: int


class Answer(Message, frozen=True):
    """Answers Query and Adjust."""

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
    """Copies made for a batch. `kind`: gather, scatter or snapshot by the CPU; h2d, d2h or d2d by a GPU."""

    kind: str
    count: int
    byte_size: int


class Explanation(Struct, frozen=True, omit_defaults=True, gc=False):
    """How one request was served, on request (`explain`). Durations in ns; copies are those of the whole batch."""

    instance: str
    batch_size: int  # total rows
    batch_requests: int
    closed: str  # why the batch was closed, see scheduling/batcher.py; cached: there was none, nor an instance
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


class Adjusted(Message, frozen=True):
    """Tells a gateway, unasked, of the settings that all gateways share: first before its query `gateway` is answered.

    `log` and the values of `trace` are maps with Triton's names. `trace` is by model; the empty name is for all that have no
    settings of their own. `trace_level` is empty where it is OFF, and `trace_count` is what is left of it.
    """

    log: dict[str, Any]
    trace: dict[str, dict[str, Any]]


class Pong(Message, frozen=True):
    """Answers Ping."""


ToClient = Result | Failed | Released | Done | Answer | Welcome | Adjusted | Pong
