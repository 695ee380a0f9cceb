# SPDX-License-Identifier: Apache-2.0
"""The statistics document after a known sequence of requests equals the one computed by hand, field by field.

Counts are written down here. Durations come from the replies themselves (`explain`), so that they too are equal and not just
plausible; only how long a request took in all is not in its reply, and lies between bounds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from running import LINKS, Barrier, RunningBroker, add_model
from speaking import Speaker

from penstock.ipc.messages import Cancel, Explanation, Failed, Result

NEVER_US = 600_000_000  # a delay that no test waits for: batches close when they are full
TOGETHER = f"dynamic_batching {{ max_queue_delay_microseconds: {NEVER_US} }}"
DEADLINE_US = 20_000


class Broker(NamedTuple):
    running: RunningBroker
    gate: Barrier


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker; each test has a model of its own on each link, with counters that begin at 0."""
    folder: Path = tmp_path_factory.mktemp("run")
    repository = folder / "models"
    with Barrier(folder / "gate") as gate:
        for link in LINKS:
            add_model(repository, f"alone_{link}", mode="barrier", barrier_path=gate.path)
            add_model(repository, f"together_{link}", mode="barrier", barrier_path=gate.path, batching=TOGETHER)
            add_model(repository, f"failing_{link}", mode="failing")
            add_model(repository, f"partly_{link}", mode="failing_items", batching=TOGETHER)
            add_model(repository, f"untouched_{link}")
        with RunningBroker(folder, repository, "--max-queued-per-principal", "3") as running:
            yield Broker(running, gate)


@pytest.fixture
def speaker(broker: Broker, link: str) -> Iterator[Speaker]:
    with Speaker(broker.running.addresses[link]) as made:
        yield made


def statistics(speaker: Speaker, model: str) -> dict[str, Any]:
    (found,) = speaker.query("statistics", model)["model_stats"]
    return dict(found)


def pass_through(gate: Barrier, rows: int) -> None:
    """The next execution, which must have that many rows, is let go."""
    held = gate.entered()
    assert held.rows == rows
    held.let_go()
    held.sock.close()


def duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def batch(size: int, count: int, input_ns: int, infer_ns: int, output_ns: int) -> dict[str, Any]:
    return {
        "batch_size": size,
        "compute_input": duration(count, input_ns),
        "compute_infer": duration(count, infer_ns),
        "compute_output": duration(count, output_ns),
    }


def document(
    model: str, given: dict[str, Any], explained: list[Explanation], rows: int, executions: int, failed: int,
    batches: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """What it must be after these successes. Taken over from `given`: what `has_sane_totals` checks."""
    count = len(explained)
    total = given["inference_stats"]
    return {
        "name": model,
        "version": "1",
        "last_inference": given["last_inference"],
        "inference_count": rows,
        "execution_count": executions,
        "inference_stats": {
            "success": duration(count, total["success"]["ns"]),
            "fail": duration(failed, total["fail"]["ns"]),
            "queue": duration(count, sum(each.queue_ns for each in explained)),
            "compute_input": duration(count, sum(each.compute_input_ns for each in explained)),
            "compute_infer": duration(count, sum(each.compute_infer_ns for each in explained)),
            "compute_output": duration(count, sum(each.compute_output_ns for each in explained)),
            "cache_hit": duration(0, 0),
            "cache_miss": duration(0, 0),
        },
        "response_stats": {},
        "batch_stats": batches,
        "memory_usage": [],
    }


def has_sane_totals(given: dict[str, Any], began_s: float, least_fail_ns: int = 0) -> bool:
    """Requests took at least what their stages took, and not more than the test has lasted; the last execution was just now."""
    stats = given["inference_stats"]
    stages_ns = sum(stats[stage]["ns"] for stage in ("queue", "compute_input", "compute_infer", "compute_output"))
    lasted_ns = int((time.time() - began_s) * 1e9)
    return (
        stages_ns <= stats["success"]["ns"] <= lasted_ns * max(1, stats["success"]["count"])
        and least_fail_ns <= stats["fail"]["ns"] <= lasted_ns * max(1, stats["fail"]["count"])
        and (not given["execution_count"] or int(began_s * 1000) <= given["last_inference"] <= int(time.time() * 1000))
    )


def explanation(speaker: Speaker, message_id: int) -> Explanation:
    """Of the next answer, which must be this request's success."""
    result = speaker.hear()
    assert isinstance(result, Result), result
    assert result.id == message_id and result.explain is not None
    return result.explain


def failure(speaker: Speaker) -> tuple[int | None, str, bool]:
    failed = speaker.hear()
    assert isinstance(failed, Failed), failed
    return failed.id, failed.code, failed.released


def test_requests_one_by_one(speaker: Speaker, broker: Broker, link: str) -> None:
    """Given successes, cancels (queued and running), a deadline and refusals, then each counts where Triton counts it."""
    began_s, model, gate = time.time(), f"alone_{link}", broker.gate
    speaker.submit(1, 1, model, slot=1, explain=True)
    running = gate.entered()
    speaker.submit(2, 3, model, slot=2, explain=True)
    assert speaker.hear_all() == []  # it waits at the worker now; those that come next in the queue
    speaker.submit(3, 1, model, slot=3)
    speaker.submit(4, 2, model, slot=4, explain=True)
    speaker.submit(8, 2, model, slot=8, explain=True)
    speaker.submit(5, 1, model, slot=5)
    assert failure(speaker) == (5, "OVERLOADED", True), "refused on arrival: counts nowhere"
    speaker.say(Cancel(3))
    assert failure(speaker) == (3, "CANCELLED", True), "while queued"
    speaker.submit(6, 1, model, slot=6, deadline_us=DEADLINE_US)
    assert failure(speaker) == (6, "DEADLINE_EXCEEDED", True), "while queued"
    speaker.say(speaker.request(7, 5, model))
    assert failure(speaker) == (7, "INVALID_ARG", True), "never accepted: counts nowhere"
    speaker.say(Cancel(1))
    assert failure(speaker) == (1, "CANCELLED", False), "while running"
    running.let_go()
    running.sock.close()
    assert type(speaker.hear()).__name__ == "Released"
    pass_through(gate, 3)
    two = explanation(speaker, 2)
    pass_through(gate, 2)
    four = explanation(speaker, 4)
    pass_through(gate, 2)
    eight = explanation(speaker, 8)
    given = statistics(speaker, model)
    (cancelled,) = (each for each in given["batch_stats"] if each["batch_size"] == 1)  # its durations nobody was told
    assert given == document(
        model, given, [two, four, eight], rows=7, executions=4, failed=3,
        batches=[
            batch(1, 1, *(cancelled[stage]["ns"] for stage in ("compute_input", "compute_infer", "compute_output"))),
            batch(
                2, 2, four.compute_input_ns + eight.compute_input_ns, four.compute_infer_ns + eight.compute_infer_ns,
                four.compute_output_ns + eight.compute_output_ns,
            ),
            batch(3, 1, two.compute_input_ns, two.compute_infer_ns, two.compute_output_ns),
        ],
    )  # fmt: skip
    assert has_sane_totals(given, began_s, least_fail_ns=DEADLINE_US * 1000)
    assert cancelled["compute_infer"]["ns"] > DEADLINE_US * 1000, "it was held for as long as the deadline took"
    (stages,) = speaker.query("stages", model)
    assert stages["batch_sizes"] == {"1": 1, "2": 2, "3": 1} and stages["closed"] == {"single": 4}


def test_requests_in_batches(speaker: Speaker, broker: Broker, link: str) -> None:
    """Given batches of several requests, then each request is credited all of its batch's durations, the batch once."""
    began_s, model, gate = time.time(), f"together_{link}", broker.gate
    speaker.submit(1, 4, model, slot=1, explain=True)
    pass_through(gate, 4)
    first = [explanation(speaker, 1)]
    for message_id, rows in ((2, 1), (3, 1), (4, 2)):
        speaker.submit(message_id, rows, model, slot=message_id, explain=True)
    pass_through(gate, 4)
    second = [explanation(speaker, message_id) for message_id in (2, 3, 4)]
    for message_id, rows in ((5, 3), (6, 1)):
        speaker.submit(message_id, rows, model, slot=message_id, explain=True)
    pass_through(gate, 4)
    third = [explanation(speaker, message_id) for message_id in (5, 6)]
    given = statistics(speaker, model)
    once = [each[0] for each in (first, second, third)]
    assert given == document(
        model, given, first + second + third, rows=12, executions=3, failed=0,
        batches=[
            batch(
                4, 3, sum(each.compute_input_ns for each in once), sum(each.compute_infer_ns for each in once),
                sum(each.compute_output_ns for each in once),
            ),
        ],
    )  # fmt: skip
    for each in (first, second, third):
        assert {(e.batch_size, e.batch_requests, e.closed, e.compute_infer_ns) for e in each} == {
            (4, len(each), "full", each[0].compute_infer_ns)
        }
    assert given["inference_stats"]["compute_infer"]["ns"] == (
        first[0].compute_infer_ns + 3 * second[0].compute_infer_ns + 2 * third[0].compute_infer_ns
    )
    assert has_sane_totals(given, began_s) and given["inference_stats"]["fail"]["ns"] == 0


def test_executions_that_fail(speaker: Speaker, link: str) -> None:
    """Given a model that raises, then executions and their sizes count, and of the requests only that they failed."""
    began_s, model = time.time(), f"failing_{link}"
    for message_id, rows in ((1, 1), (2, 3), (3, 3)):
        speaker.submit(message_id, rows, model)
        assert failure(speaker) == (message_id, "INTERNAL", True)
    given = statistics(speaker, model)
    stages = ("compute_input", "compute_infer", "compute_output")
    expected = [(1, 1), (3, 2)]
    durations = [[each[stage]["ns"] for stage in stages] for each in given["batch_stats"]]
    batches = [batch(size, count, *ns) for (size, count), ns in zip(expected, durations, strict=True)]
    assert given == document(model, given, [], rows=0, executions=3, failed=3, batches=batches)
    assert has_sane_totals(given, began_s, least_fail_ns=1)


def test_a_batch_that_fails_in_part(speaker: Speaker, link: str) -> None:
    """Given a batch of which one request fails, then it counts as failed, and the others as if it had not been there."""
    began_s, model = time.time(), f"partly_{link}"
    for message_id, rows, value in ((1, 1, 1.0), (2, 2, float("nan")), (3, 1, 3.0)):
        speaker.submit(message_id, rows, model, slot=message_id, value=value, explain=True)
    one = explanation(speaker, 1)
    assert failure(speaker) == (2, "INTERNAL", True)
    three = explanation(speaker, 3)
    given = statistics(speaker, model)
    batches = [batch(4, 1, one.compute_input_ns, one.compute_infer_ns, one.compute_output_ns)]
    assert given == document(model, given, [one, three], rows=2, executions=1, failed=1, batches=batches)
    assert has_sane_totals(given, began_s, least_fail_ns=1)


def test_a_model_that_nobody_used(speaker: Speaker, link: str) -> None:
    """Then every field is there, and 0."""
    given = statistics(speaker, f"untouched_{link}")
    assert given == document(f"untouched_{link}", given, [], rows=0, executions=0, failed=0, batches=[])
    stats = given["inference_stats"]
    assert (given["last_inference"], stats["success"]["ns"], stats["fail"]["ns"]) == (0, 0, 0)


def test_every_model_at_once(speaker: Speaker, broker: Broker) -> None:
    """Given no name, then all models that are ready are listed."""
    listed = [each["name"] for each in speaker.query("statistics")["model_stats"]]
    assert sorted(listed) == sorted(model["name"] for model in broker.running.said["models"])
