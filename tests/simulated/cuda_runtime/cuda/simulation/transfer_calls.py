# SPDX-License-Identifier: Apache-2.0
"""Calls that copy and fill memory."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .errors import DeviceFault
from .machine import MACHINE, call, ranges
from .memory import Kind, Octets
from .streams import Stream, Work
from .types import cudaMemcpyAttributes, cudaMemcpyKind, cudaMemcpySrcAccessOrder


@call()
def cudaMemcpy(dst: Any, src: Any, count: int, kind: cudaMemcpyKind) -> None:
    MACHINE.context()
    if count:
        _copy(_address(dst), _address(src), count, kind, None)


@call()
def cudaMemcpyAsync(dst: Any, src: Any, count: int, kind: cudaMemcpyKind, stream: Any) -> None:
    MACHINE.context()
    into = MACHINE.stream(stream)
    if count:
        _copy(_address(dst), _address(src), count, kind, into)


@call()
def cudaMemcpyBatchAsync(
    dsts: Sequence[Any], srcs: Sequence[Any], sizes: Sequence[int], count: int, attrs: Sequence[cudaMemcpyAttributes],
    attrsIdxs: Sequence[int], numAttrs: int, stream: Any,
) -> None:  # fmt: skip
    """Does the copies in the reverse of the order given: there is none that one may rely on."""
    MACHINE.context()
    into = MACHINE.stream(stream)
    if not all(isinstance(attribute, cudaMemcpyAttributes) for attribute in attrs):
        raise TypeError("Argument 'attrs' is not instance of type")
    if min(len(dsts), len(srcs), len(sizes)) < count or min(len(attrs), len(attrsIdxs)) < numAttrs:
        raise RuntimeError("List is too small")
    if into is None or not numAttrs or attrsIdxs[0] != 0 or not all(sizes) or not all(dsts) or not all(srcs):
        raise DeviceFault("cudaErrorInvalidValue")
    if any(attribute.srcAccessOrder == cudaMemcpySrcAccessOrder.cudaMemcpySrcAccessOrderInvalid for attribute in attrs):
        raise DeviceFault("cudaErrorInvalidValue")
    if into.capture is not None:
        raise into.capture.fail("cudaErrorStreamCaptureUnsupported")
    copies = list(zip(map(_address, dsts), map(_address, srcs), sizes, strict=False))[:count]
    _check_independent(copies)
    if any(MACHINE.memory.is_pageable(address, size) for dst, src, size in copies for address in (dst, src)):
        MACHINE.violate("pageable memory in a batch of copies: CUDA does not say when it is read or written")
    for dst, src, size in reversed(copies):
        _copy(dst, src, size, cudaMemcpyKind.cudaMemcpyDefault, into)


@call()
def cudaMemset(devPtr: int, value: int, count: int) -> None:
    MACHINE.context()
    if count:
        MACHINE.put(None, _filling(devPtr, value, count))


@call()
def cudaMemsetAsync(devPtr: int, value: int, count: int, stream: Any) -> None:
    MACHINE.context()
    into = MACHINE.stream(stream)
    if count:
        MACHINE.put(into, _filling(devPtr, value, count))


def _filling(address: int, value: int, count: int) -> Work:
    if MACHINE.memory.is_pageable(address, count):
        raise DeviceFault("cudaErrorInvalidValue")

    def fill() -> None:
        MACHINE.memory.octets(address, count, to_write=True)[:] = value & 0xFF

    return Work(fill, ranges((address, count)))


def _copy(dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: Stream | None) -> None:
    """Puts in a copy. Pageable memory is read before this returns, and written before it returns, as CUDA does through a stage."""
    _check_kind(dst, src, kind)
    reads_now, waits = (MACHINE.memory.is_pageable(address, count) for address in (src, dst))
    if (reads_now or waits) and stream is not None and stream.capture is not None:
        raise stream.capture.fail("cudaErrorStreamCaptureUnsupported")
    source = _now(src, count) if reads_now else _later(src, count)

    def copy() -> None:
        MACHINE.memory.octets(dst, count, to_write=True)[:] = source()

    work = Work(copy, ranges((dst, count)) if reads_now else ranges((dst, count), (src, count)))
    MACHINE.put(stream, work)
    if waits and stream is not None:
        MACHINE.executor.complete(work)


def _now(address: int, count: int) -> Callable[[], Octets]:
    staged = MACHINE.memory.octets(address, count, to_write=False).copy()
    return lambda: staged


def _later(address: int, count: int) -> Callable[[], Octets]:
    return lambda: MACHINE.memory.octets(address, count, to_write=False)


def _check_kind(dst: int, src: int, kind: cudaMemcpyKind) -> None:
    if not isinstance(kind, cudaMemcpyKind):
        raise TypeError(f"kind is a {type(kind).__name__}, not a cudaMemcpyKind")
    if kind is not cudaMemcpyKind.cudaMemcpyDefault:
        to_device = kind in (cudaMemcpyKind.cudaMemcpyHostToDevice, cudaMemcpyKind.cudaMemcpyDeviceToDevice)
        from_device = kind in (cudaMemcpyKind.cudaMemcpyDeviceToHost, cudaMemcpyKind.cudaMemcpyDeviceToDevice)
        for address, on_device in ((dst, to_device), (src, from_device)):
            around = MACHINE.memory.around(address)
            is_managed = around is not None and around.kind is Kind.MANAGED
            if not is_managed and MACHINE.memory.is_device(address) != on_device:
                raise DeviceFault("cudaErrorInvalidValue")


def _check_independent(copies: Sequence[tuple[int, int, int]]) -> None:
    written = sorted((dst, dst + size) for dst, _, size in copies)
    overlap = any(end > begin for (_, end), (begin, _) in itertools.pairwise(written))
    if overlap or any(begin < src + size and src < end for _, src, size in copies for begin, end in written):
        MACHINE.violate("copies of one batch write what another one of it reads or writes")


def _address(pointer: Any) -> int:
    """What cuda-python takes for a pointer: a number, or an object with a buffer."""
    try:
        return operator.index(pointer)
    except TypeError:
        return int(np.frombuffer(pointer, np.uint8).ctypes.data)
