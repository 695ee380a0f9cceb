# SPDX-License-Identifier: Apache-2.0
"""What is measured: a model of a server, over one link, from one thread. The load generators know no more of either than this.

    penstock perf -> a Plan -> Measurer -> ClosedLoop, OpenLoop -> Requests <- Target <- open_target(TargetSpec)

Over the links `local` and `zmq` a target is a broker (`Client`); over `http` and `grpc` any server that speaks KServe v2 with
Triton's extensions (`tritonclient`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from ...ipc.errors import PenstockError
from ..models import ModelInfo
from .plan import Link, Plan, Point
from .stages import ServerCounts


class TargetSpec(Struct, frozen=True, kw_only=True):
    """Enough for another process to open the same target."""

    link: Link
    address: str  # of a broker (unix://, ipc://, tcp://), or the host and port of a server that speaks KServe v2
    model: str
    version: int = -1  # -1: the newest


class ServerInfo(NamedTuple):
    """Who answers."""

    name: str  # "penstock", "triton", ...
    version: str
    notes: tuple[str, ...] = ()  # what a reader must know of everything that is measured there


class Answer(NamedTuple):
    """The end of a request."""

    number: int  # of the prepared request
    read_ns: int  # when its answer was read, CLOCK_MONOTONIC
    ended_ns: int  # when its result was built
    error: PenstockError | None  # it has failed with this; its moments belong to no latency


class Requests(Protocol):
    """The prepared requests of one point, 0 to `len() - 1`: at least as many as a closed loop has in flight.

    An open loop has no more in flight than there are.

    Where the plan says verify, `take` compares every result with what it must be, once all that it returns have been timed, and
    raises ModelError for one that is wrong.
    """

    one_message: bool  # those that are sent together go as one, and not one after the other

    def __len__(self) -> int: ...

    def send(self, numbers: Sequence[int]) -> None:
        """Sends these, none of which is in flight, and returns as soon as they are sent."""
        ...

    def take(self, timeout_ns: int | None = None) -> Iterable[Answer]:
        """Waits for the first answer, and returns all that came with it; none where the time has passed (None: no limit).

        Whatever it has returned can be sent again.
        """
        ...


class Target(Protocol):
    """One connection to one model. Used by one thread, and closed by it."""

    spec: TargetSpec
    model: ModelInfo
    server: ServerInfo
    max_in_flight: int  # requests that one connection may have in flight

    def prepare(self, plan: Plan, point: Point) -> AbstractContextManager[Requests]:
        """Inputs made and placed in the plan's memory; given back when the block ends. Raises PenstockError."""
        ...

    def counts(self, answered: int) -> ServerCounts:
        """What the server has counted of the model, `answered` requests having succeeded since the last call.

        A server that counts a moment after it has answered is asked again until it has counted them, for a second at most.
        """
        ...

    def configuration(self) -> Mapping[str, Any]:
        """The model's configuration as the server has it, in Triton's JSON."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...
