# SPDX-License-Identifier: Apache-2.0
"""A batch, from the message to its report.

Two ways: requests whose memory can be computed on directly (all placed, nothing to be copied) are executed on the views that
their placements keep; all others are ordered, packed, executed together and delivered.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from time import monotonic_ns
from typing import Protocol

from ..ipc.errors import ModelError, PenstockError
from ..ipc.messages import Batch, BatchDone, ItemResult, ModelSpec
from .account import Account
from .backends.base import Backend, Tensor, Work
from .classification import NO_LABELS, Labels
from .devices.host import Scratch
from .inputs import InputPacker, Job
from .outputs import OutputWriter, failure
from .placements import PlacementCache, Prepared
from .region_table import RegionTable


class Runner(Protocol):
    """What executes a batch to its end: on the host (BatchRunner) or on a device, while nothing else is in flight there."""

    def run(self, batch: Batch) -> tuple[BatchDone, list[int]]:
        """Executes a batch. The report, and the descriptors that go with it, which the caller closes."""

    def forget_region(self, number: int) -> None:
        """Lets go of every view on a region; to be called before it is unmapped."""


class BatchRunner:
    """Executes batches of one model on one backend, one at a time."""

    def __init__(self, spec: ModelSpec, backend: Backend, regions: RegionTable, labels: Labels = NO_LABELS) -> None:
        self._spec = spec
        self._backend = backend
        self._placements = PlacementCache(spec, regions, backend.needs_snapshots)
        self._scratch = Scratch()
        self._packer = InputPacker(spec, regions, self._placements, self._scratch)
        self._writer = OutputWriter(spec, regions, self._placements, labels)
        #: a model without a batch dimension cannot execute two requests at once
        self._one_by_one = backend.is_scattered or spec.max_batch_size == 0

    def __repr__(self) -> str:
        return f"<BatchRunner of '{self._spec.name}': {self._placements!r}, {self._scratch!r}>"

    def check_invariants(self) -> None:
        """Raises AssertionError when a part contradicts itself."""
        self._placements.check_invariants()
        self._scratch.check_invariants()

    def forget_region(self, number: int) -> None:
        """Lets go of every view on a region; to be called before it is unmapped."""
        self._placements.forget_region(number)

    def close(self) -> None:
        """Lets go of all memory."""
        self._placements.clear()
        self._scratch.clear()

    def run(self, batch: Batch) -> tuple[BatchDone, list[int]]:
        """Executes a batch. The report, and the descriptors that go with it, which the caller closes. Never raises."""
        started_ns = monotonic_ns()
        kept = self._placements.kept
        found = [kept.get(bytes(item)) for item in batch.items]
        ready: Sequence[Prepared | PenstockError | None] = found
        if None in found:
            ready = [known or self._prepare(bytes(item)) for known, item in zip(found, batch.items, strict=True)]
        if len(ready) == 1 or self._one_by_one:
            works = [prepared.work if type(prepared) is Prepared else None for prepared in ready]
            if None not in works:
                return self._run_direct(batch, ready, works, started_ns), []  # type: ignore[arg-type]
        return self._run_packed(batch, ready, started_ns)

    def _prepare(self, encoded: bytes) -> Prepared | PenstockError:
        try:
            return self._placements.get(encoded)
        except PenstockError as error:
            return error

    # --- on the requests' own memory -------------------------------------------------------------------------------------

    def _run_direct(self, batch: Batch, ready: Sequence[Prepared], works: Sequence[Work], started_ns: int) -> BatchDone:
        execute = self._backend.execute
        errors: dict[int, PenstockError] = {}
        mapped_ns = monotonic_ns()
        for at, work in enumerate(works):
            try:
                results = execute(work)
                if results is not work.places or work.failures:
                    self._take_in(work, results)
            except BaseException as error:  # noqa: BLE001 - even a model's SystemExit costs its batch, not the worker
                errors[at] = as_error(error)
        ended_ns = monotonic_ns()
        input_ns, infer_ns = mapped_ns - started_ns, ended_ns - mapped_ns
        if not errors:
            return BatchDone(batch.batch, started_ns, input_ns, infer_ns, 0, ended_ns=ended_ns, lane=batch.lane)
        if len(works) == 1:
            return failed(batch, started_ns, errors[0], infer_ns)
        items = [self._writer.as_promised(prepared) for prepared in ready]
        for at, cause in errors.items():
            items[at] = failure(naming_the_model(cause, self._spec.name))
        return BatchDone(batch.batch, started_ns, input_ns, infer_ns, 0, items, ended_ns=ended_ns, lane=batch.lane)

    def _take_in(self, work: Work, results: Sequence[Tensor | None]) -> None:
        """Results that the backend did not write to their places, and requests that it failed."""
        if work.failures:
            (error,) = work.failures.values()
            work.failures.clear()
            raise error
        for result, place in zip(self._writer.checked(work, results), work.places, strict=True):
            if place is not None and result is not place:
                place[...] = result

    # --- packed ----------------------------------------------------------------------------------------------------------

    def _run_packed(
        self, batch: Batch, ready: Sequence[Prepared | PenstockError | None], started_ns: int
    ) -> tuple[BatchDone, list[int]]:
        account = Account(started_ns)
        all_jobs = [Job(prepared) if isinstance(prepared, Prepared) else prepared for prepared in ready]
        jobs = [job for job in all_jobs if isinstance(job, Job)]
        for together in [[job] for job in jobs] if self._one_by_one else [jobs]:
            try:
                self._execute(together, account)
            except BaseException as error:  # noqa: BLE001 - see _run_direct
                cause = as_error(error)
                if len(together) == len(batch.items):
                    return failed(batch, started_ns, cause, account.infer_ns), []
                for job in together:
                    job.error = job.error or naming_the_model(cause, self._spec.name)
        return report_of(batch, all_jobs, account, started_ns, self._writer)

    def _execute(self, jobs: Sequence[Job], account: Account) -> None:
        """One execution: order, pack, compute, deliver. Raises what the backend raises."""
        ordered = self._packer.order(jobs)
        packed = self._packer.pack(ordered, account) if ordered else None
        account.input_ns += account.lap()  # looking up what is to be executed is in it
        if packed is None or all(job.error is not None for job in ordered):
            return
        work = packed.work
        try:
            results = self._backend.execute(work)
        finally:
            account.infer_ns += account.lap()
        checked = self._writer.checked(work, results)
        for at, error in work.failures.items():
            ordered[at].error = ordered[at].error or error
        self._writer.deliver(ordered, packed, checked, account)
        account.output_ns += account.lap()


def report_of(
    batch: Batch, jobs: Sequence[Job | PenstockError | None], account: Account, started_ns: int, writer: OutputWriter
) -> tuple[BatchDone, list[int]]:
    """The report of a batch whose requests, in its order, have their outcome, and the descriptors that go with it.

    Making it belongs to bringing outputs to their places.
    """
    items: list[ItemResult] = []
    fds: list[int] = []
    if not all(isinstance(job, Job) and job.error is None and job.item is None for job in jobs):
        items = [_item(job, writer) for job in jobs]
        fds = [job.fd for job in jobs if isinstance(job, Job) and job.fd >= 0]
    account.output_ns += account.lap()
    report = BatchDone(
        batch.batch,
        started_ns,
        account.input_ns,
        account.infer_ns,
        account.output_ns,
        items,
        account.copies(),
        fds=len(fds),
        ended_ns=account.mark_ns,
        lane=batch.lane,
    )
    return report, fds


def _item(job: Job | PenstockError | None, writer: OutputWriter) -> ItemResult:
    if isinstance(job, Job):
        if job.error is not None:
            return failure(job.error)
        return job.item or writer.as_promised(job.prepared)
    assert job is not None, "every placement was prepared or refused"
    return failure(job)


def naming_the_model(error: PenstockError, model: str) -> PenstockError:
    """A failure of a whole execution that is told to its requests one by one: names the model, as the broker does."""
    if error.fault == ModelError.fault:
        return ModelError(f"model '{model}': {error.message}", error.code)
    return error


def as_error(error: BaseException) -> PenstockError:
    """What a backend raised, as an error of the protocol: the model's, unless the backend says otherwise.

    Of what was not raised on purpose the traceback goes to standard error, which comes out under the instance's name.
    """
    if isinstance(error, PenstockError):
        return error
    traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
    return ModelError(str(error) or type(error).__name__)


def failed(batch: Batch, started_ns: int, error: PenstockError, infer_ns: int = 0) -> BatchDone:
    """The report of a batch of which every request failed for the same reason."""
    return BatchDone(
        batch.batch, started_ns, 0, infer_ns, 0, code=error.code.value, message=error.message or type(error).__name__,
        fault=error.fault, lane=batch.lane,
    )  # fmt: skip
