# SPDX-License-Identifier: Apache-2.0
"""Calls about streams and events."""

from __future__ import annotations

from typing import Any

from .captures import Mark
from .errors import DeviceFault
from .machine import MACHINE, call, found
from .streams import Event, Stream, Work, ask
from .types import cudaEvent_t, cudaStream_t


@call(results=1)
def cudaStreamCreate() -> cudaStream_t:
    return _created(0, 0)


@call(results=1)
def cudaStreamCreateWithFlags(flags: int) -> cudaStream_t:
    return _created(flags, 0)


@call(results=1)
def cudaStreamCreateWithPriority(flags: int, priority: int) -> cudaStream_t:
    return _created(flags, priority)


def _created(flags: int, priority: int) -> cudaStream_t:
    address = next(MACHINE.handles)
    MACHINE.streams[address] = Stream(address, MACHINE.context(), not flags & 1, max(-5, min(priority, 0)))
    return cudaStream_t(address)


@call()
def cudaStreamDestroy(stream: Any) -> None:
    one = found(MACHINE.streams, stream)
    if one.capture is not None:
        raise one.capture.fail("cudaErrorStreamCaptureUnsupported")
    MACHINE.executor.drain(one)
    del MACHINE.streams[one.address]


@call(results=1)
def cudaStreamGetPriority(hStream: Any) -> int:
    stream = MACHINE.stream(hStream)
    return 0 if stream is None else stream.priority


@call()
def cudaStreamSynchronize(stream: Any) -> None:
    one = MACHINE.stream(stream)
    if one is None:
        MACHINE.guard("cudaErrorStreamCaptureImplicit")
        MACHINE.drain_blocking()
        return
    if one.capture is not None:
        raise one.capture.fail("cudaErrorStreamCaptureUnsupported")
    MACHINE.executor.drain(one)


@call()
def cudaStreamQuery(stream: Any) -> None:
    one = MACHINE.stream(stream)
    if one is None:
        MACHINE.guard("cudaErrorStreamCaptureImplicit")
        return
    if one.capture is not None:
        raise one.capture.fail("cudaErrorStreamCaptureUnsupported")
    if one.work and not ask(MACHINE.executor, one.work[-1]):
        raise DeviceFault("cudaErrorNotReady")


@call()
def cudaStreamWaitEvent(stream: Any, event: Any, flags: int) -> None:
    """Waits for what the event recorded last, now; what it records later is another matter."""
    one, mark = MACHINE.stream(stream), found(MACHINE.events, event).last
    capture = one.capture if one is not None else None
    if isinstance(mark, Mark):
        if mark.capture.is_over or one is None:
            raise DeviceFault("cudaErrorCapturedEvent")
        (capture or mark.capture).wait(one, mark)
    elif mark is not None and capture is not None:
        capture.wait(one, mark)
    elif mark is not None and not mark.is_done:
        MACHINE.put(one, Work(_nothing, after=[mark]))


@call(results=1)
def cudaEventCreate() -> cudaEvent_t:
    return _event(0)


@call(results=1)
def cudaEventCreateWithFlags(flags: int) -> cudaEvent_t:
    return _event(flags)


def _event(flags: int) -> cudaEvent_t:
    address = next(MACHINE.handles)
    MACHINE.events[address] = Event(address, flags, MACHINE.context())
    return cudaEvent_t(address)


@call()
def cudaEventDestroy(event: Any) -> None:
    del MACHINE.events[found(MACHINE.events, event).address]


@call()
def cudaEventRecord(event: Any, stream: Any) -> None:
    one, into = found(MACHINE.events, event), MACHINE.stream(stream)
    if into is not None and into.ordinal != one.ordinal:
        raise DeviceFault("cudaErrorInvalidResourceHandle")
    if into is not None and into.capture is not None:
        one.last = into.capture.mark(into)
    else:
        one.last = work = Work(_nothing)
        MACHINE.put(into, work)


@call()
def cudaEventQuery(event: Any) -> None:
    work = _recorded(event)
    if work is not None and not ask(MACHINE.executor, work):
        raise DeviceFault("cudaErrorNotReady")


@call()
def cudaEventSynchronize(event: Any) -> None:
    work = _recorded(event)
    if work is not None:
        MACHINE.executor.complete(work)


@call(results=1)
def cudaEventElapsedTime(start: Any, end: Any) -> float:
    first, second = found(MACHINE.events, start), found(MACHINE.events, end)
    if not (first.is_timed and second.is_timed) or first.ordinal != second.ordinal:
        raise DeviceFault("cudaErrorInvalidResourceHandle")
    begun, ended = _recorded(start), _recorded(end)
    if begun is None or ended is None:
        raise DeviceFault("cudaErrorInvalidResourceHandle")
    if not (begun.is_done and ended.is_done):
        raise DeviceFault("cudaErrorNotReady")
    return (ended.done_ns - begun.done_ns) / 1e6


def _recorded(event: Any) -> Work | None:
    one: Event = found(MACHINE.events, event)
    MACHINE.guard()
    if isinstance(one.last, Mark):
        if not one.last.capture.is_over:
            one.last.capture.is_invalid = True
        raise DeviceFault("cudaErrorCapturedEvent")
    return one.last


def _nothing() -> None:
    """An event, or a wait: it is there for its place in the stream."""
