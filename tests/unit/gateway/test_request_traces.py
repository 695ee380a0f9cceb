# SPDX-License-Identifier: Apache-2.0
"""The trace of one request as Triton writes it, and which requests are sampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.ipc.messages import Explanation
from penstock.ipc.tensors import serialize_bytes
from penstock.ipc.trace_settings import Level, TraceSettings
from penstock.runtime.gateway.requests import InferAnswer, InferRequest, Input, InRegion, OutputTensor
from penstock.runtime.gateway.traces import Trace
from penstock.runtime.gateway.tracing import Tracing

EXPLAINED = Explanation("m_0", 1, 1, "full", 10, 20, 30, 40)


def trace_of(
    *levels: Level, inputs: tuple[Input, ...] = (), outputs: tuple[OutputTensor, ...] = (), explain: Explanation = EXPLAINED,
    request_id: str = "",
) -> Trace:  # fmt: skip
    trace = Trace(TraceSettings(trace_level=levels, trace_file="/t"), InferRequest("m", -1, request_id, inputs))
    trace.stamp("REQUEST_START", 500)
    trace.answered(InferAnswer("m", 3, request_id, outputs, explain, 1000), 1200)
    trace.stamp("REQUEST_END", 1300)
    return trace


def stamps(trace: Trace) -> list[tuple[str, int]]:
    return [(s["name"], s["ns"]) for entry in trace.entries(1) for s in entry.get("timestamps", ())]


def test_durations_are_placed_from_when_the_request_was_sent_and_in_order() -> None:
    trace = trace_of("TIMESTAMPS")
    trace.stamp("HTTP_RECV_START", 400)  # told last
    assert stamps(trace) == [
        ("HTTP_RECV_START", 400), ("REQUEST_START", 500), ("QUEUE_START", 1000), ("COMPUTE_START", 1010),
        ("COMPUTE_INPUT_END", 1030), ("COMPUTE_OUTPUT_START", 1060), ("COMPUTE_END", 1100), ("INFER_RESPONSE_COMPLETE", 1200),
        ("REQUEST_END", 1300),
    ]  # fmt: skip


def test_each_entry_has_the_id_and_the_first_names_the_model() -> None:
    entries = list(trace_of("TIMESTAMPS", request_id="abc").entries(7))
    assert entries[0] == {"id": 7, "model_name": "m", "model_version": 3, "request_id": "abc"}
    assert {entry["id"] for entry in entries} == {7}
    assert "request_id" not in next(iter(trace_of("TIMESTAMPS").entries(7)))


def test_what_the_cache_answered_was_not_computed() -> None:
    cached = Explanation("", 0, 0, "cached", 10, 0, 0, 0)
    names = [name for name, _ in stamps(trace_of("TIMESTAMPS", explain=cached))]
    assert names == ["REQUEST_START", "QUEUE_START", "INFER_RESPONSE_COMPLETE", "REQUEST_END"]


def test_a_request_that_failed_has_the_version_that_it_asked_for_and_no_computation() -> None:
    trace = Trace(TraceSettings(trace_level=("TIMESTAMPS", "TENSORS")), InferRequest("m", 2, "", []))
    trace.stamp("REQUEST_START", 1)
    assert list(trace.entries(1)) == [
        {"id": 1, "model_name": "m", "model_version": 2}, {"id": 1, "timestamps": [{"name": "REQUEST_START", "ns": 1}]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("datatype", "content", "data"),
    [
        ("FP32", np.array([0.1, -2, 1e20], np.float32).tobytes(), "0.1,-2.0,1e+20"),
        ("INT64", np.array([-1, 2**62, 0], np.int64).tobytes(), f"-1,{2**62},0"),
        ("BOOL", b"\x00\x01\x01", "0,1,1"),
        ("FP16", np.array([0.5, 1, 2], np.float16).tobytes(), "0.5,1.0,2.0"),
        ("BF16", (np.array([0.5, 1, -2], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes(), "0.5,1.0,-2.0"),
        ("BYTES", serialize_bytes([b"a", b'b,"c"', "é".encode()]), '"a","b,\\"c\\"","é"'),
        ("FP32", b"123", ""),  # the request was refused for it
        ("BYTES", b"\x05", ""),
    ],
)
def test_tensors_are_told_with_their_data(datatype: str, content: bytes, data: str) -> None:
    given, answered = Input("x", datatype, [1, 3], content), OutputTensor("y", datatype, [1, 3], memoryview(content))
    told = list(trace_of("TENSORS", inputs=(given,), outputs=(answered,)).entries(4))[1:]
    shared = {"data": data, "shape": "1,3", "dtype": datatype}
    assert told == [
        {"id": 4, "activity": "TENSOR_QUEUE_INPUT", "tensor": {"name": "x", **shared}},
        {"id": 4, "activity": "TENSOR_BACKEND_OUTPUT", "tensor": {"name": "y", **shared}},
    ]


def test_what_lies_in_a_region_is_not_read() -> None:
    given, answered = Input("x", "FP32", [1, 3], InRegion("r", 0, 12)), OutputTensor("y", "FP32", [1, 3], None)
    told = list(trace_of("TENSORS", inputs=(given,), outputs=(answered,)).entries(4))[1:]
    assert [entry["tensor"] for entry in told] == [
        {"name": name, "data": "", "shape": "1,3", "dtype": "FP32"} for name in ("x", "y")
    ]


# --- which are sampled -------------------------------------------------------------------------------------------------------


def settings(**values: Any) -> dict[str, Any]:
    return {"trace_level": ["TIMESTAMPS"], "trace_file": "/t", **values}


def sampled(tracing: Tracing, model: str, requests: int) -> list[int]:
    """Which of so many requests, counted from 1."""
    tracing.check_invariants()
    return [number for number in range(1, requests + 1) if tracing.sample(InferRequest(model, -1, "", []))]


@pytest.fixture
def tracing() -> Tracing:
    link: Any = None  # nothing is written here
    return Tracing(link)


def test_of_so_many_requests_the_last_is_sampled(tracing: Tracing) -> None:
    assert not tracing.on and sampled(tracing, "m", 5) == []
    tracing.told({"": settings(trace_rate=3)})
    assert tracing.on and sampled(tracing, "m", 7) == [3, 6]
    assert sampled(tracing, "other", 3) == [2]  # the seventh was the first of these three


def test_a_model_with_settings_of_its_own_is_counted_by_itself(tracing: Tracing) -> None:
    tracing.told({"": settings(trace_level=[]), "m": settings(trace_rate=2)})
    assert tracing.on and sampled(tracing, "other", 4) == [] and sampled(tracing, "m", 4) == [2, 4]


def test_it_is_off_when_nothing_is_left_to_be_sampled(tracing: Tracing) -> None:
    tracing.told({"": settings(trace_rate=1, trace_count=0)})
    assert not tracing.on and sampled(tracing, "m", 2) == []


def test_counting_begins_again_with_another_rate_only(tracing: Tracing) -> None:
    tracing.told({"": settings(trace_rate=3)})
    assert sampled(tracing, "m", 2) == []
    tracing.told({"": settings(trace_rate=3, trace_count=5)})
    assert sampled(tracing, "m", 1) == [1]
    sampled(tracing, "m", 2)
    tracing.told({"": settings(trace_rate=4)})
    assert sampled(tracing, "m", 4) == [4]
