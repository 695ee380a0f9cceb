# SPDX-License-Identifier: Apache-2.0
"""From a device's memory to where outputs are wanted: straight into slots that it reaches, through staging to anything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...ipc.errors import ModelError
from ...ipc.messages import Copied, ModelSpec
from ...ipc.tensors import ITEM_BYTES, byte_size
from ..account import Account
from ..backends.on_device import DeviceTensor, DeviceWork
from ..devices.cuda import Copy
from ..inputs import Job
from ..outputs import OutputWriter, Share
from ..packing import Span, merge
from ..shapes import Shapes
from .memory import Staging
from .planning import Reach


class Staged(NamedTuple):
    """An output in staging, and the jobs into whose slots it goes from there, with their shares."""

    output: int
    jobs: list[Job]
    share: Share


class Delivery(NamedTuple):
    """Outputs on their way: what the device copies, and what is left to do when it has. `copied` as in Plan."""

    outward: list[Copy]
    staged: list[Staged]
    #: the shares of every output, where some job must be told what it gets
    shares: dict[int, Share] | None
    copied: list[Copied]


class DeviceOutputs:
    """Checks the results of one execution on a device, and delivers them in two steps: before it has run, and after."""

    def __init__(self, spec: ModelSpec, shapes: Shapes, writer: OutputWriter, reach: Reach) -> None:
        self._spec = spec
        self._shapes = shapes
        self._writer = writer
        self._reach = reach

    def __repr__(self) -> str:
        return f"<DeviceOutputs of '{self._spec.name}' with {self._reach!r}>"

    def checked(self, work: DeviceWork, results: Sequence[DeviceTensor | None]) -> list[DeviceTensor]:
        """The results, complete and of the right datatype and shape. Raises ModelError."""
        if len(results) != len(work.wanted):
            raise ModelError(f"returned {len(results)} outputs, {len(work.wanted)} were asked for")
        return [
            result if result is not None and result is place else self._checked(output, result, work)
            for output, result, place in zip(work.wanted, results, work.places, strict=True)
        ]

    def _checked(self, output: int, result: DeviceTensor | None, work: DeviceWork) -> DeviceTensor:
        tensor = self._spec.outputs[output]
        if result is None:
            raise ModelError(f"returned nothing for output '{tensor.name}'")
        if tensor.shaped_as:
            result = result._replace(shape=(result.size,))
        expected = self._shapes.produced(output, sum(work.rows_of), work.inputs)
        if (
            result.datatype != tensor.datatype
            or len(result.shape) != len(expected)
            or any(want not in (-1, dim) for want, dim in zip(expected, result.shape, strict=True))
            or result.byte_size != byte_size(tensor.datatype, result.shape)
        ):
            raise ModelError(
                f"returned output '{tensor.name}' as {result.datatype} {list(result.shape)} in {result.byte_size} bytes, "
                f"its configuration says {tensor.datatype} {list(expected)}"
            )
        return result

    # --- before the device has run ---------------------------------------------------------------------------------------

    def plan(self, jobs: Sequence[Job], wanted: Sequence[int], results: Sequence[DeviceTensor], staging: Staging) -> Delivery:
        """What the device shall copy. A job whose place is too small for what comes gets its error."""
        account = Account()
        is_promised = all(job.prepared.is_complete for job in jobs)
        outward: list[Copy] = []
        staged: list[Staged] = []
        shares: dict[int, Share] = {}
        for output, result in zip(wanted, results, strict=True):
            share = self._writer.divided(output, jobs, result.shape, ITEM_BYTES[result.datatype])
            if not is_promised:
                self._writer.check_room(output, jobs, share)
            straight, through, is_unplaced = self._sorted(output, jobs)
            outward += self._copies(output, jobs, straight, share, result, account)
            if through or is_unplaced:
                content = staging.take(result.byte_size)
                if result.byte_size:
                    outward.append(Copy(content.ctypes.data, result.address, result.byte_size))
                account.copied("d2h", 1, result.byte_size)
                share = share._replace(packed=content)
                staged.append(Staged(output, [jobs[at] for at in through], _among(share, through)))
            shares[output] = share
        return Delivery(outward, staged, None if is_promised else shares, account.copies())

    def _sorted(self, output: int, jobs: Sequence[Job]) -> tuple[list[int], list[int], bool]:
        """Positions of the jobs whose places the device reaches, and of those whose it does not; whether some have none."""
        straight: list[int] = []
        through: list[int] = []
        is_unplaced = False
        for at, job in enumerate(jobs):
            target = job.prepared.targets.get(output)
            if target is None or job.error is not None:
                continue
            if target.span is None:
                is_unplaced = True
            elif (self._reach.known.get(target.span.region) or self._reach.way(target.span.region)).writes:
                straight.append(at)
            else:
                self._reach.stages(target.span.region)
                through.append(at)
        return straight, through, is_unplaced

    def _copies(
        self, output: int, jobs: Sequence[Job], positions: Sequence[int], share: Share, result: DeviceTensor, account: Account
    ) -> list[Copy]:
        """One copy per run, but for runs that the model has written to already."""
        spans: list[Span] = []
        for at in positions:
            span, size = jobs[at].prepared.targets[output].span, share.sizes[at]
            assert span is not None, "sorted out"
            spans.append(span if span.byte_size == size else span._replace(byte_size=size))
        copies: list[Copy] = []
        for number, offset, size, start, _, _ in merge(spans, (), [share.starts[at] for at in positions]):
            way = self._reach.way(number)
            to, source = way.address + offset, result.address + start
            if size and to != source:
                copy = Copy(to, source, size)
                copies += self._reach.copies(number, copy) if way.is_divided else (copy,)
                account.copied(way.outward, 1, size)
        return copies

    # --- when it has -----------------------------------------------------------------------------------------------------

    def finish(self, jobs: Sequence[Job], delivery: Delivery, account: Account) -> None:
        """Brings what is staged where it belongs; leaves each job its error or its result."""
        for output, writers, share in delivery.staged:
            self._writer.write(output, writers, share, account)
        if delivery.shares is not None:
            for at, job in enumerate(jobs):
                self._writer.finish(at, job, delivery.shares, account)


def _among(share: Share, positions: Sequence[int]) -> Share:
    """The share of some of the jobs."""
    return Share(
        [share.shapes[at] for at in positions], [share.starts[at] for at in positions], [share.sizes[at] for at in positions],
        share.packed,
    )  # fmt: skip
