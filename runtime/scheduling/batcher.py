# SPDX-License-Identifier: Apache-2.0
"""The rule that closes a batch: Triton's dynamic batcher, as functions of their arguments.

Source: `dynamic_batch_scheduler.cc`, GetDynamicBatch; in the words of the project's notes on it (triton_surface.md section 2,
"Dynamic batcher algorithm"):

    accumulate batch sizes; break & *send now* if the next request would exceed max_batch_size, or shapes of non-ragged inputs
    differ. Remember the last point where the sum equals a preferred size, or the last sum that stayed <= max preferred.
    If such a point exists and the oldest request's age < max_queue_delay -> execute that prefix; else if send_now, or
    sum >= max preferred, or delay exceeded, or delay == 0 -> execute all pending; else sleep until min(delay remaining,
    closest request timeout). Delay 0 => greedy.

`join` is one step of the walk. The walk is kept between events (it grows by the request that arrived, it is not repeated), so
a request costs the same however long the queue is. `decide` is the rest of the rule. Ours beyond Triton: a batch that is held
goes early where a deadline would be missed (DEADLINE), and a model that is being unloaded holds nothing back (DRAIN).
"""

from __future__ import annotations

from collections.abc import Hashable

from msgspec import Struct, field

from .policy import Policy
from .requests import Closed, Request

NEVER_NS = 2**63 - 1
"""Later than any time."""


class Sizes(Struct, frozen=True):
    """What the rule needs of a policy."""

    max_batch_size: int
    preferred: frozenset[int]
    max_preferred: int
    delay_ns: int


class Walk(Struct, eq=False):
    """The batch being formed: how far the walk through the queue has come."""

    #: The requests walked over, in order, all QUEUED; of one shape and never more than max_batch_size rows.
    requests: list[Request] = field(default_factory=list)
    rows: int = 0
    shape_key: Hashable | None = None
    oldest_ns: int = NEVER_NS  # arrival of the oldest
    deadline_ns: int = NEVER_NS  # the earliest deadline
    #: The prefix to send: requests and rows up to the last remembered point; 0 and 0: no such point yet.
    marked: int = 0
    marked_rows: int = 0
    #: Why the request that is next does not fit; None: it does, or there is none.
    stopped: Closed | None = None


class Decision(Struct, frozen=True, gc=False):
    """Send the first `count` requests because of `closed`; 0: hold until `until_ns` at the latest.

    `grows`: a later request could still join, so such a batch is worth keeping back from an instance that is busy.
    """

    count: int
    closed: Closed | None
    grows: bool
    until_ns: int = 0


def sizes_of(policy: Policy) -> Sizes:
    """The sizes of a policy that batches."""
    preferred = frozenset(policy.preferred_batch_sizes or (policy.max_batch_size,))
    return Sizes(policy.max_batch_size, preferred, max(preferred), policy.max_queue_delay_ns)


def join(walk: Walk, request: Request, sizes: Sizes) -> bool:
    """One step: the request joins the walk, or (False) does not fit and `walk.stopped` says why."""
    requests = walk.requests
    rows = walk.rows + request.rows
    if requests:
        if rows > sizes.max_preferred:
            if not walk.marked:
                walk.marked, walk.marked_rows = len(requests), walk.rows
            if rows > sizes.max_batch_size:
                walk.stopped = Closed.FULL
                return False
        if request.shape_key != walk.shape_key:
            walk.stopped = Closed.SHAPE
            return False
    else:
        walk.shape_key = request.shape_key
    requests.append(request)
    walk.rows = rows
    if rows in sizes.preferred:
        walk.marked, walk.marked_rows = len(requests), rows
    if request.arrived_ns < walk.oldest_ns:  # noqa: PLR1730 - min() would be a call per request
        walk.oldest_ns = request.arrived_ns
    if request.deadline_ns is not None and request.deadline_ns < walk.deadline_ns:
        walk.deadline_ns = request.deadline_ns
    return True


def overdue(walk: Walk, sizes: Sizes, now_ns: int) -> bool:
    """Whether the oldest request has waited for the delay. Never with a delay of 0, as in Triton: greedy is not late."""
    return sizes.delay_ns != 0 and now_ns >= walk.oldest_ns + sizes.delay_ns


def decide(walk: Walk, sizes: Sizes, now_ns: int, start_by_ns: int, final: bool) -> Decision:
    """What to do with a walk that is not empty. `start_by_ns`: for its earliest deadline. `final`: no request will come."""
    count = len(walk.requests)
    late = overdue(walk, sizes, now_ns)
    if walk.marked and not late:
        return Decision(walk.marked, _size_reason(walk, walk.marked, walk.marked_rows, sizes), False)
    if walk.stopped is not None:
        return Decision(count, walk.stopped, False)
    if walk.rows >= sizes.max_preferred:
        exact = walk.marked == count
        return Decision(count, _size_reason(walk, count, walk.rows, sizes) if exact else Closed.DELAY, False)
    if final:
        return Decision(count, Closed.DRAIN, False)
    if late:
        return Decision(count, Closed.DELAY, True)
    if sizes.delay_ns == 0:
        return Decision(count, Closed.IMMEDIATE, True)
    if now_ns >= start_by_ns:
        return Decision(count, Closed.DEADLINE, True)
    return Decision(0, None, True, min(walk.oldest_ns + sizes.delay_ns, start_by_ns))


def _size_reason(walk: Walk, count: int, rows: int, sizes: Sizes) -> Closed:
    """FULL where max_batch_size is what ended it, PREFERRED where the configuration asked for less."""
    exceeded = count == len(walk.requests) and walk.stopped is Closed.FULL
    return Closed.FULL if exceeded or rows == sizes.max_batch_size else Closed.PREFERRED


def walk_over(requests: list[Request], sizes: Sizes) -> Walk:
    """The walk over requests that are known to fit together: what is left when a prefix was sent or one was cancelled."""
    walk = Walk()
    for request in requests:
        joined = join(walk, request, sizes)
        assert joined, (walk, request)
    return walk


def check_walk(walk: Walk, sizes: Sizes) -> None:
    """Raises AssertionError where the comments of Walk do not hold."""
    again = walk_over(walk.requests, sizes)
    assert (again.rows, again.oldest_ns, again.deadline_ns) == (walk.rows, walk.oldest_ns, walk.deadline_ns), (again, walk)
    assert walk.rows <= sizes.max_batch_size or len(walk.requests) <= 1, walk
    assert walk.stopped is not None or (again.marked, again.marked_rows) == (walk.marked, walk.marked_rows), (again, walk)
    assert walk.marked <= len(walk.requests), walk
    assert walk.marked_rows == sum(request.rows for request in walk.requests[: walk.marked]), walk
