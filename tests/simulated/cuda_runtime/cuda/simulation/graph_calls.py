# SPDX-License-Identifier: Apache-2.0
"""Calls that record and launch graphs."""

from __future__ import annotations

from typing import Any

from .captures import Capture, Graph
from .errors import DeviceFault
from .machine import MACHINE, call, found
from .types import cudaGraph_t, cudaGraphExec_t, cudaStreamCaptureMode, cudaStreamCaptureStatus


@call()
def cudaStreamBeginCapture(stream: Any, mode: cudaStreamCaptureMode) -> None:
    one = MACHINE.stream(stream)
    if one is None:
        raise DeviceFault("cudaErrorStreamCaptureUnsupported")
    if one.capture is not None:
        raise one.capture.fail("cudaErrorIllegalState")
    MACHINE.captures = [capture for capture in MACHINE.captures if not capture.is_over]
    MACHINE.captures.append(Capture(one, cudaStreamCaptureMode(mode)))


@call(results=1)
def cudaStreamEndCapture(stream: Any) -> cudaGraph_t:
    one = MACHINE.stream(stream)
    if one is None or one.capture is None:
        raise DeviceFault("cudaErrorIllegalState")
    address = next(MACHINE.handles)
    MACHINE.graphs[address] = Graph(one.capture.end(one))
    return cudaGraph_t(address)


@call(results=1)
def cudaStreamIsCapturing(stream: Any) -> cudaStreamCaptureStatus:
    one = MACHINE.stream(stream)
    if one is None or one.capture is None:
        return cudaStreamCaptureStatus.cudaStreamCaptureStatusNone
    if one.capture.is_invalid:
        return cudaStreamCaptureStatus.cudaStreamCaptureStatusInvalidated
    return cudaStreamCaptureStatus.cudaStreamCaptureStatusActive


@call(results=1)
def cudaGraphInstantiate(graph: Any, flags: int) -> cudaGraphExec_t:
    address = next(MACHINE.handles)
    MACHINE.executables[address] = Graph(found(MACHINE.graphs, graph).nodes)
    return cudaGraphExec_t(address)


@call()
def cudaGraphUpload(graphExec: Any, stream: Any) -> None:
    found(MACHINE.executables, graphExec)
    MACHINE.stream(stream)


@call()
def cudaGraphLaunch(graphExec: Any, stream: Any) -> None:
    MACHINE.put(MACHINE.stream(stream), found(MACHINE.executables, graphExec).launch())


@call()
def cudaGraphExecDestroy(graphExec: Any) -> None:
    del MACHINE.executables[_key(MACHINE.executables, graphExec)]


@call()
def cudaGraphDestroy(graph: Any) -> None:
    del MACHINE.graphs[_key(MACHINE.graphs, graph)]


def _key(held: dict[int, Graph], handle: Any) -> int:
    found(held, handle)
    return int(handle)
