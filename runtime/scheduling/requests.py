# SPDX-License-Identifier: Apache-2.0
"""A request and a batch as the scheduler sees them, with the one table of a request's states.

QUEUED --> SENT --> ENDED            served: outcome and release together
QUEUED ------------> ENDED           cancelled, timed out or refused before a worker saw it
SENT --> FINISHED_EARLY --> ENDED    cancelled or timed out at a worker: outcome now, release when its batch is over
SENT --> QUEUED                      its instance went away before its batch was started
SENT --> WITHHELD --> ENDED          executed, of a model that preserves order: its reply waits for those before it
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import Enum, IntEnum

from msgspec import Struct

from ...ipc.errors import BrokerError, Code

NO_GPU = -1
"""In place of a GPU's ordinal: of a request, that it may go to any instance; of an instance, that it computes on the CPU."""


class IllegalTransitionError(BrokerError):
    """A step that the lifecycles do not allow, told with the object's story: a defect of the broker, or of a worker's order."""

    default_code = Code.INTERNAL


class RequestState(IntEnum):
    """Where a request is. An IntEnum, because its members index TRANSITIONS on the hot path."""

    QUEUED = 0
    SENT = 1
    FINISHED_EARLY = 2  # it has its outcome, but a worker may still touch its memory
    ENDED = 3  # it has its outcome and its memory is free
    WITHHELD = 4  # it was executed; outcome and release wait for the requests before it (ordering.py)


# Members by themselves: looking one up in its class costs 60 ns on Python 3.11, several times per request.
QUEUED, SENT, FINISHED_EARLY, ENDED, WITHHELD = RequestState

#: What each state may become, indexed by state.
TRANSITIONS: tuple[tuple[RequestState, ...], ...] = (
    (SENT, ENDED),
    (ENDED, FINISHED_EARLY, QUEUED, WITHHELD),
    (ENDED,),
    (),
    (ENDED,),
)


class Request(Struct, eq=False):
    """One accepted request. `shape_key` None: the model's shapes are fixed.

    `batch` is the number of the batch it was last sent in; `drawn` is its place in the order in which the model's queue
    first let requests into a batch (0: not yet), which it keeps when it comes back unstarted. `priority` and `timeout_ns` are
    what it asked for; `rank` is which of the model's queues it belongs to (levels.py; -1: withdrawn). `gpu`: the one whose
    memory it uses, if its model has instances elsewhere too (spread.py).
    """

    number: int
    session: int
    principal: str
    model: int
    rows: int
    shape_key: Hashable | None
    deadline_ns: int | None
    arrived_ns: int
    state: RequestState = QUEUED
    batch: int | None = None
    drawn: int = 0
    priority: int = 0
    timeout_ns: int = 0
    rank: int = 0
    gpu: int = NO_GPU

    def become(self, state: RequestState) -> None:
        """Moves to `state`; raises IllegalTransitionError with the request's story where the table does not allow it."""
        become((self,), state)

    def __repr__(self) -> str:
        where = "" if self.batch is None else f", last in batch {self.batch}"
        return (
            f"<request {self.number} of session {self.session} ({self.principal!r}) for model {self.model}: "
            f"{self.rows} rows, {self.state.name}{where}>"
        )


def become(requests: Sequence[Request], state: RequestState) -> None:
    """Moves all of them to `state`, as Request.become does one."""
    for request in requests:
        if state not in TRANSITIONS[request.state]:
            raise IllegalTransitionError(f"{request!r} cannot become {state.name}")
        request.state = state


class Closed(str, Enum):
    """Why a batch was closed; the last column of `explain`."""

    FULL = "full"  # max_batch_size reached, or the next request would exceed it
    PREFERRED = "preferred"  # a preferred size, or the last size not above the largest preferred one
    DELAY = "delay"  # the oldest request waited max_queue_delay
    SHAPE = "shape"  # the next request has other shapes
    DEADLINE = "deadline"  # waiting longer would miss a queued request's deadline
    IMMEDIATE = "immediate"  # no delay configured and an instance free
    SINGLE = "single"  # the model does not batch
    DRAIN = "drain"  # the model is being unloaded: nothing more will join


class Batch(Struct, eq=False):
    """Requests that execute together at one instance. `requests` never changes."""

    number: int
    model: int
    instance: int
    requests: list[Request]
    rows: int
    closed: Closed
    sent_ns: int

    def __repr__(self) -> str:
        return (
            f"<batch {self.number} of model {self.model} at instance {self.instance}: {len(self.requests)} requests, "
            f"{self.rows} rows, closed by {self.closed.value}>"
        )
