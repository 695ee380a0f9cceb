# SPDX-License-Identifier: Apache-2.0
"""Callers of a detector, with a client that answers as it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from math import inf
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from penstock.clients import MemfdRegion, ModelInfo, TensorInfo
from penstock.clients.people_detection.calling import Answer, Call, Callers, Round, bytes_for, largest_difference
from penstock.clients.people_detection.layout import BOXES_SHAPE, COVERAGE_SHAPE, IMAGE_SHAPE, DetectorTensors
from penstock.ipc.errors import ModelError
from penstock.ipc.messages import Explanation

MODEL = ModelInfo(
    "peoplenet", -1, 1, (1,), "onnxruntime_onnx", 8,
    (TensorInfo("in", "FP32", IMAGE_SHAPE),), (TensorInfo("cov", "FP32", COVERAGE_SHAPE), TensorInfo("box", "FP32", BOXES_SHAPE)),
)  # fmt: skip
TENSORS = DetectorTensors("in", "cov", "box")
EXPLAINED = Explanation("peoplenet_0_0", 1, 1, "full", 1, 2, 3, 4)
WITHIN_S = 10.0


class AnsweringClient:
    """Calls `answer` with the views that a request names: image, coverage, boxes."""

    def __init__(self, answer: Callable[[Any, Any, Any], None]) -> None:
        self.answer = answer

    def infer(self, model: str, inputs: Any, outputs: Any, *, explain: bool) -> Any:
        assert model == "peoplenet" and explain
        placed = [inputs["in"], outputs["cov"], outputs["box"]]
        assert [place.shape for place in placed] == [(1, *IMAGE_SHAPE), (1, *COVERAGE_SHAPE), (1, *BOXES_SHAPE)]
        self.answer(*(place.region.view(place.datatype, place.shape[1:], place.offset) for place in placed))
        return SimpleNamespace(explain=EXPLAINED)


@pytest.fixture
def region() -> Iterator[MemfdRegion]:
    with MemfdRegion("callers", bytes_for(3)) as found:
        yield found


def called(region: MemfdRegion, answer: Callable[[Any, Any, Any], None]) -> Round:
    client: Any = AnsweringClient(answer)
    callers = Callers(client, MODEL, TENSORS, region, 3)
    callers.check_invariants()
    callers.show(np.full(IMAGE_SHAPE, 0.5, np.float32))
    found = callers.call()
    callers.check_invariants()
    return found


def test_all_are_calling_before_any_is_answered(region: MemfdRegion) -> None:
    # Given a model that answers nobody until three have called
    everybody = threading.Barrier(3, timeout=WITHIN_S)
    found = called(region, lambda *_: everybody.wait() * 0)
    # Then all three are answered
    assert len(found.calls) == 3 and all(call.explanation is EXPLAINED for call in found.calls)
    assert found.total_ns >= max(call.latency_ns for call in found.calls) > 0


def test_nobody_calls_before_everybody_is_there(region: MemfdRegion) -> None:
    there: list[int] = []
    called(region, lambda *_: there.append(sum(thread.name.startswith("caller ") for thread in threading.enumerate())))
    assert there[0] == 3


def test_a_round_lasts_from_the_first_beginning_to_the_last_end() -> None:
    calls = [Call(began_ns, ended_ns, EXPLAINED) for began_ns, ended_ns in ((10, 30), (5, 12), (20, 35))]
    assert Round(calls, []).total_ns == 30
    assert [call.latency_ns for call in calls] == [20, 7, 15]


def test_each_has_tensors_of_its_own_and_the_image_in_them(region: MemfdRegion) -> None:
    # When each is answered with a number of its own, once all are calling
    everybody, numbers = threading.Barrier(3, timeout=WITHIN_S), iter((1, 2, 3))

    def answer(image: Any, coverage: Any, boxes: Any) -> None:
        assert (image == 0.5).all()
        everybody.wait()
        number = next(numbers)
        image[:], coverage[:], boxes[:] = number * 10, number, -number
        everybody.wait()
        assert (image == number * 10).all()

    found = called(region, answer)
    # Then no answer has overwritten another
    assert sorted(answer.coverage.max() for answer in found.answers) == [1, 2, 3]
    for answer_ in found.answers:
        assert (answer_.coverage == answer_.coverage.max()).all() and (answer_.boxes == -answer_.coverage.max()).all()
    assert largest_difference(found.answers) == (1 if found.answers[0].coverage.max() == 2 else 2)  # whichever came first


def test_an_answer_that_was_not_written_is_none(region: MemfdRegion) -> None:
    # Given memory in which an earlier answer lies
    region.memory[:] = 0

    def answer(_image: Any, coverage: Any, _boxes: Any) -> None:
        coverage[:] = 1

    assert largest_difference(called(region, answer).answers) == inf


def test_a_call_that_fails_is_told(region: MemfdRegion) -> None:
    def answer(*_: Any) -> None:
        raise ModelError("worker died (signal 9)")

    with pytest.raises(ModelError, match="worker died"):
        called(region, answer)


def test_answers_are_held_against_the_first() -> None:
    def answer(value: float) -> Answer:
        return Answer(np.zeros(COVERAGE_SHAPE, np.float32), np.full(BOXES_SHAPE, value, np.float32))

    assert largest_difference([answer(1)]) == 0
    assert largest_difference([answer(1), answer(1), answer(1.5), answer(0.25)]) == 0.75
    assert largest_difference([answer(np.inf), answer(np.inf)]) == inf
