# SPDX-License-Identifier: Apache-2.0
"""Traces: which batch ran where and when, and what each of its requests waited for, for a client that asks to watch.

A session starts a recorder, takes what it has recorded as often as it likes, and stops it; the end of the session stops it too.
Nobody watches as a rule, and then an ended batch costs one look at an empty list. All times are CLOCK_MONOTONIC nanoseconds,
which every process of a machine shares.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ..ipc.errors import CallerError, invalid

if TYPE_CHECKING:
    from ..ipc.messages import BatchDone
    from .scheduling.requests import Batch, Request
    from .sessions import Session

KEPT_REQUESTS = 200_000
KEPT_RECORDS = 50_000
"""Per recorder: at 1 kB for a record and 100 bytes for a request of a batch at most 70 MB. Older ones are dropped, and their
number told."""
TAKEN_REQUESTS = 20_000
"""Per answer: in full batches, about 1 MB of a frame."""
TAKEN_RECORDS = 2_000
"""Per answer: 1 to 2 MB of a frame beside the requests, with the longest names and errors."""
ERROR_CHARACTERS = 200
"""Of an error; its requests' clients got all of it."""


class Recorder:
    """What one session watches. `model` "": every model."""

    def __init__(self, session: Session, model: str) -> None:
        self.session = session
        self.model = model
        #: batches that ended, and requests that ended without one, oldest first; each with how many requests it is about
        self._kept: deque[tuple[int, dict[str, Any]]] = deque()
        self._requests = 0  # in _kept
        self._dropped = 0  # requests, since they were last told

    def __repr__(self) -> str:
        return f"<Recorder of {self.session!r} for {self.model or 'every model'}: {self._requests} requests>"

    def check_invariants(self) -> None:
        """No more is kept than may be."""
        assert self._requests == sum(count for count, _ in self._kept) <= KEPT_REQUESTS, self
        assert len(self._kept) <= KEPT_RECORDS, self

    def keep(self, requests: int, record: dict[str, Any]) -> None:
        """One more record, about that many requests."""
        self._kept.append((requests, record))
        self._requests += requests
        while self._requests > KEPT_REQUESTS or len(self._kept) > KEPT_RECORDS:
            count, _ = self._kept.popleft()
            self._requests -= count
            self._dropped += count

    def take(self) -> dict[str, Any]:
        """The oldest records, which are forgotten with this; `more`: there are others. `dropped` requests were lost."""
        records: list[dict[str, Any]] = []
        taken = 0
        while self._kept and taken < TAKEN_REQUESTS and len(records) < TAKEN_RECORDS:
            count, record = self._kept.popleft()
            taken += count
            records.append(record)
        self._requests -= taken
        dropped, self._dropped = self._dropped, 0
        return {"records": records, "dropped": dropped, "more": bool(self._kept)}


class Traces:
    """The recorders of all sessions that watch."""

    def __init__(self) -> None:
        self.recorders: list[Recorder] = []

    def __repr__(self) -> str:
        return f"<Traces {self.recorders}>"

    def check_invariants(self) -> None:
        """At most one recorder for a session."""
        assert len({recorder.session.number for recorder in self.recorders}) == len(self.recorders), self
        for recorder in self.recorders:
            recorder.check_invariants()

    def start(self, session: Session, model: str) -> None:
        """The session watches from now on. Raises CallerError where it does already."""
        if any(recorder.session is session for recorder in self.recorders):
            raise CallerError("this session records a trace already: take it, or stop it first")
        self.recorders.append(Recorder(session, model))

    def take(self, session: Session) -> dict[str, Any]:
        """What was recorded for it since it last asked. Raises CallerError where nothing was started."""
        return self._of(session).take()

    def stop(self, session: Session) -> dict[str, Any]:
        """The same for the last time; what does not fit into one answer is lost, and `more` says that there was some."""
        recorder = self._of(session)
        self.recorders.remove(recorder)
        return recorder.take()

    def _of(self, session: Session) -> Recorder:
        for recorder in self.recorders:
            if recorder.session is session:
                return recorder
        raise invalid("this session records no trace: ask for trace_start first")

    def forget(self, session: Session) -> None:
        """The session has ended."""
        self.recorders[:] = [recorder for recorder in self.recorders if recorder.session is not session]

    # --- what happens ----------------------------------------------------------------------------------------------------

    def batch_ended(self, batch: Batch, model: str, version: int, instance: str, report: BatchDone, now_ns: int) -> None:
        """A batch was answered."""
        record = {
            "batch": batch.number, "model": model, "version": version, "instance": instance, "rows": batch.rows,
            "closed": batch.closed.value, "sent_ns": batch.sent_ns, "started_ns": report.started_ns,
            "input_ns": report.input_ns, "infer_ns": report.infer_ns, "output_ns": report.output_ns, "ended_ns": now_ns,
            "requests": [[request.number, request.rows, request.arrived_ns] for request in batch.requests],
            "error": report.message[:ERROR_CHARACTERS],
        }  # fmt: skip
        self._keep(model, len(batch.requests), record)

    def ended_early(self, request: Request, model: str, version: int, code: str, now_ns: int) -> None:
        """A request ended before, or without, its batch: cancelled, timed out, refused, or its worker died."""
        record = {
            "request": request.number, "model": model, "version": version, "rows": request.rows,
            "arrived_ns": request.arrived_ns, "ended_ns": now_ns, "code": code,
        }  # fmt: skip
        self._keep(model, 1, record)

    def _keep(self, model: str, requests: int, record: dict[str, Any]) -> None:
        for recorder in self.recorders:
            if recorder.model in ("", model):
                recorder.keep(requests, record)
