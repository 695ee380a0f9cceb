# SPDX-License-Identifier: Apache-2.0
"""What workers said of batches whose replies wait for their turn: models that preserve order (scheduling/ordering.py)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from msgspec import Struct

from ..ipc.messages import BatchDone, ItemResult
from .scheduling.requests import Batch, Request


class Answered(Struct, frozen=True):
    """A batch and what its worker said of it, complete: the worker may be gone when the last request hears of it."""

    batch: Batch
    report: BatchDone
    instance: str  # its name
    known_ns: int  # when the report was here
    #: request number -> its own result and the descriptor that it brought; None: as the placements promised.
    found: dict[int, tuple[ItemResult, int | None]] | None


class Kept(Struct, eq=False):
    """One report. The descriptors are the broker's own, and closed with the last request."""

    answered: Answered
    fds: list[int]
    waiting: set[int]  # numbers of the requests that have no outcome yet; never empty


class WithheldReports:
    """The reports that are kept, each for as long as one of its requests waits."""

    def __init__(self) -> None:
        #: number of a batch -> its report
        self._kept: dict[int, Kept] = {}

    def __repr__(self) -> str:
        waiting = {batch: sorted(kept.waiting) for batch, kept in self._kept.items()}
        return f"<WithheldReports of batches, with the requests that wait: {waiting}>"

    def check_invariants(self) -> None:
        """Nothing is kept that nobody waits for, and each of those who wait was in the batch."""
        for number, kept in self._kept.items():
            batch = kept.answered.batch
            assert batch.number == number, self
            assert kept.waiting and kept.waiting <= {request.number for request in batch.requests}, self

    def keep(self, requests: Sequence[Request], answered: Answered, fds: list[int]) -> None:
        """Keeps a report for those requests of its batch, if any, and takes the descriptors out of the caller's list."""
        if requests:
            waiting = {request.number for request in requests}
            self._kept[answered.batch.number] = Kept(answered, fds.copy(), waiting)
            fds.clear()

    def find(self, batch: int) -> Answered:
        """What was said of that batch."""
        return self._kept[batch].answered

    def drop(self, request: Request) -> None:
        """The request has its outcome. Nothing, where nothing is kept for it."""
        kept = self._kept.get(request.batch) if request.batch is not None else None
        if kept is None:
            return
        kept.waiting.discard(request.number)
        if not kept.waiting:
            del self._kept[kept.answered.batch.number]
            for fd in kept.fds:
                os.close(fd)
