# SPDX-License-Identifier: Apache-2.0
"""Inference as both protocols mean it: what a request asks, and what is answered. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...ipc.messages import Explanation

Bytes = bytes | bytearray | memoryview
"""Content of a tensor: its elements as KServe's binary tensor data lays them out."""


class InRegion(NamedTuple):
    """A tensor's place in a registered region."""

    region: str
    offset: int
    byte_size: int  # of an output: its capacity


class Input(NamedTuple):
    """An input: its content, or where that lies."""

    name: str
    datatype: str
    shape: Sequence[int]
    content: Bytes | InRegion


class Output(NamedTuple):
    """An output that is asked for. Without a place it comes back with the answer."""

    name: str
    place: InRegion | None = None
    classification: int = 0  # Triton's: its best that many classes; 0: the output itself


class InferRequest(NamedTuple):
    """One request. No outputs: all of the model's. `priority` and `timeout_us` as the schedule policy extension has them."""

    model: str
    version: int  # -1: the newest
    id: str
    inputs: Sequence[Input]
    outputs: Sequence[Output] = ()
    priority: int = 0
    timeout_us: int = 0
    parameters: Mapping[str, Any] = {}  # custom ones, and forwarded headers: no backend of this release takes any
    explain: bool = False  # how it was served is to be answered too


class OutputTensor(NamedTuple):
    """An output of an answer. `content` is None when it lies in the region that was asked for."""

    name: str
    datatype: str
    shape: Sequence[int]
    content: bytes | memoryview | None


class InferAnswer(NamedTuple):
    """What a request is answered with."""

    model: str
    version: int
    id: str
    outputs: Sequence[OutputTensor]
    explain: Explanation | None = None
    sent_ns: int = 0  # with `explain`: when the request went to the broker, CLOCK_MONOTONIC
