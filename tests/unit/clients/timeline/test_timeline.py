# SPDX-License-Identifier: Apache-2.0
"""Recordings as files and as drawings: what one sees of an instance that serialises, of three in parallel, of two models."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from penstock.clients.timeline.chrome_trace import chrome_trace, read_chrome_trace
from penstock.clients.timeline.drawing import PLAIN, draw
from penstock.clients.timeline.lanes import model_lanes
from penstock.clients.timeline.records import Trace, trace_of
from penstock.clients.timeline.svg import svg
from penstock.clients.timeline.triton_trace import triton_trace
from penstock.ipc.errors import CallerError

MS = 1_000_000


def batch(
    number: int, instance: str, begin_ms: int, end_ms: int, *arrived_ms: int, model: str = "m", error: str = ""
) -> dict[str, Any]:
    """A batch that computes from begin to end, of one request per arrival, numbered from 100 times its own number."""
    return {
        "batch": number, "model": model, "version": 1, "instance": instance, "rows": len(arrived_ms), "closed": "full",
        "sent_ns": begin_ms * MS, "started_ns": begin_ms * MS, "input_ns": 0, "infer_ns": (end_ms - begin_ms) * MS, "output_ns": 0,
        "ended_ns": end_ms * MS, "error": error,
        "requests": [[100 * number + at, 1, arrived * MS] for at, arrived in enumerate(arrived_ms)],
    }  # fmt: skip


EARLY = {"request": 7, "model": "m", "version": 1, "rows": 1, "arrived_ns": 2 * MS, "ended_ns": 9 * MS, "code": "CANCELLED"}
SERIAL = trace_of([batch(1, "m_0_0", 0, 10, 0), batch(2, "m_0_0", 10, 20, 0), batch(3, "m_0_0", 20, 30, 0)])
PARALLEL = trace_of(
    [batch(1, "m_0_0", 0, 10, 0), batch(2, "m_0_1", 0, 10, 0), batch(3, "m_0_2", 0, 10, 0), batch(4, "m_0_0", 10, 20, 0)]
)


def test_one_instance_serialises() -> None:
    # Given three requests at once, and one instance: 30 ms in 30 columns
    axis, label, lane, waiting = draw(SERIAL, 40)
    assert axis.split() == ["0", "15", "30", "ms"]
    assert label == "m/1"
    # Then its batches stand back to back, and those behind wait
    assert lane == "  m_0_0   x1████████x1▓▓▓▓▓▓▓▓x1████████"
    assert waiting.split() == ["waiting", "22222222222" + "1111111111"]


def test_three_run_in_parallel_and_the_fourth_waits_for_the_first_that_is_free() -> None:
    _, _, first, second, third, waiting = draw(PARALLEL, 50)
    assert [line.split()[0] for line in (first, second, third)] == ["m_0_0", "m_0_1", "m_0_2"]
    assert first.count("x1") == 2
    assert second.split()[1] == third.split()[1] == "x1" + "█" * 19 + "·" * 19
    assert waiting.split() == ["waiting", "1" * 21]


def test_two_models_at_once_have_lanes_of_their_own() -> None:
    both = trace_of([batch(1, "a_0_0", 0, 10, 0, model="a"), batch(2, "b_0_0", 5, 15, 5, model="b")])
    lines = draw(both, 44)
    assert [line for line in lines if not line.startswith(" ")] == ["a/1", "b/1"]
    assert model_lanes(both)[1].lanes[0].batches[0].batch == 2


def test_requests_are_dots_while_they_wait_and_an_x_where_they_end_alone() -> None:
    found = trace_of([batch(1, "m_0_0", 5, 10, 0), EARLY])
    lines = draw(found, 60, with_requests=True)
    waits, ends = lines[lines.index("requests") + 1 :]
    assert waits.startswith("  100 in 1") and "·█" in waits
    assert ends.startswith("  7 CANCE") and ends.endswith("·X")


def test_a_failed_batch_is_marked() -> None:
    failed = trace_of([batch(1, "m_0_0", 0, 10, 0, error="worker died (signal 9)")])
    assert "!█" in draw(failed, 60)[2]
    assert "failed: worker died (signal 9)" in svg(failed)


def test_many_requests_are_not_all_drawn() -> None:
    found = trace_of([batch(1, "m_0_0", 0, 10, *[0] * 100)])
    assert draw(found, 60, with_requests=True)[-1] == "  and 36 more"
    assert "+" not in draw(found, 60)[3]  # they were taken at once: none waited


def test_an_empty_trace_says_so() -> None:
    assert draw(trace_of([]), 80) == ["nothing was executed, and nothing waited"]


def test_only_what_overlaps_a_stretch_of_time_is_in_it() -> None:
    assert [found.batch for found in SERIAL.between(11 * MS, 19 * MS).batches] == [2, 3]  # the third waited meanwhile
    assert SERIAL.between(40 * MS, 50 * MS) == Trace([], [])


def test_the_chrome_file_can_be_read_back() -> None:
    found = trace_of([batch(1, "m_0_0", 0, 10, 0, 1), batch(2, "m_0_1", 3, 4, 2), EARLY], dropped=3)
    document = json.loads(msgspec.json.encode(chrome_trace(found)))
    assert read_chrome_trace(document) == found


def test_the_chrome_file_names_processes_and_threads_and_nests_stages() -> None:
    record = {**batch(1, "m_0_0", 0, 10, 0), "input_ns": 2 * MS, "output_ns": MS, "infer_ns": 7 * MS}
    events = chrome_trace(trace_of([record]))["traceEvents"]
    assert [event["args"]["name"] for event in events if event["ph"] == "M"] == ["m/1", "m_0_0"]
    slices = [(event["name"], event["ts"], event["dur"]) for event in events if event["ph"] == "X"]
    assert slices == [
        ("batch 1: 1 rows, 1 requests", 0.0, 10_000.0),
        ("compute input", 0.0, 2000.0),
        ("compute infer", 2000.0, 7000.0),
        ("compute output", 9000.0, 1000.0),
    ]
    assert [(event["ph"], event["ts"]) for event in events if event.get("cat") == "request"] == [("b", 0.0), ("e", 10_000.0)]


@pytest.mark.parametrize("document", [[], {}, {"traceEvents": []}, {"traceEvents": 1, "penstock": {}}], ids=str)
def test_a_file_of_another_program_is_refused(document: Any) -> None:
    with pytest.raises(CallerError, match="not a trace of `penstock trace`"):
        read_chrome_trace(document)


def test_a_record_that_is_none_is_refused() -> None:
    with pytest.raises(CallerError, match="not a record of a trace: .*batch"):
        trace_of([{"batch": "one"}])


def test_triton_s_file_has_its_timestamps_in_order() -> None:
    entries = triton_trace(trace_of([{**batch(1, "m_0_0", 4, 10, 1), "input_ns": MS, "infer_ns": 5 * MS}, EARLY]))
    assert entries[0] == {"id": 100, "model_name": "m", "model_version": 1}
    assert [(stamp["name"], stamp["ns"] // MS) for stamp in entries[1]["timestamps"]] == [
        ("REQUEST_START", 1), ("QUEUE_START", 1), ("COMPUTE_START", 4), ("COMPUTE_INPUT_END", 5),
        ("COMPUTE_OUTPUT_START", 10), ("COMPUTE_END", 10), ("REQUEST_END", 10),
    ]  # fmt: skip
    assert [stamp["name"] for stamp in entries[3]["timestamps"]] == ["REQUEST_START", "QUEUE_START", "REQUEST_END"]


def test_the_picture_is_xml_with_a_bar_and_a_title_for_each_batch() -> None:
    picture = ElementTree.fromstring(svg(trace_of([batch(1, "m<0>", 0, 10, 0), batch(2, "m<0>", 10, 20, 0)])))
    titles = [found.text for found in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 2
    assert titles[1] is not None and "batch 2: 1 rows of 1 requests, closed: full; waited at most 10.000 ms" in titles[1]


def test_long_names_and_narrow_terminals_leave_room_for_time() -> None:
    # Given instances of a model whose name is longer than the terminal is wide, and request numbers of many digits
    name = "long" * 30
    found = trace_of([batch(10**9, f"{name}_0_0", 5, 10, 0, model=name), batch(2, f"{name}_0_1", 0, 123_456, 0, model=name)])
    lines = draw(found, 40, with_requests=True)
    assert max(map(len, lines)) <= 40
    # Then names keep the end, by which instances differ, and the axis its ends
    assert lines[0].split() == ["0", "1.235e+05", "ms"]
    assert [line.split()[0][-4:] for line in lines[2:4]] == ["_0_0", "_0_1"]
    assert all("█" in line for line in lines[2:4])


def test_it_can_be_drawn_in_ascii() -> None:
    text = "\n".join(draw(PARALLEL, 50, with_requests=True)).translate(PLAIN)
    assert text.isascii()
    assert "x1====" in text or "x1####" in text
