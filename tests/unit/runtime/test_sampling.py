# SPDX-License-Identifier: Apache-2.0
"""Trace settings of models and of all: what holds, what is cleared, and how many traces are claimed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from penstock.ipc.errors import CallerError
from penstock.ipc.trace_settings import TraceChange, TraceSettings
from penstock.runtime.sampling import Sampling

START = TraceSettings(trace_file="/t", trace_rate=7)


@pytest.fixture
def sampling() -> Iterator[Sampling]:
    made = Sampling(START)
    yield made
    made.check_invariants()


def change(sampling: Sampling, model: str = "", **values: Any) -> None:
    sampling.change(model, TraceChange(**values))
    sampling.check_invariants()


def test_what_a_model_has_set_is_its_own_and_the_rest_is_everybody_s(sampling: Sampling) -> None:
    change(sampling, "a", trace_rate=3)
    change(sampling, trace_level=("TIMESTAMPS",), trace_rate=5)
    assert (sampling.settings("a").trace_rate, sampling.settings("b").trace_rate, sampling.settings("").trace_rate) == (3, 5, 5)
    assert sampling.settings("a").trace_level == ("TIMESTAMPS",)
    assert sampling.models == ["a"]


def test_what_is_cleared_is_everybody_s_again_and_then_that_of_the_start(sampling: Sampling) -> None:
    change(sampling, trace_rate=5)
    change(sampling, "a", trace_rate=3)
    change(sampling, "a", trace_rate=None)
    assert sampling.settings("a").trace_rate == 5 and sampling.models == []
    change(sampling, trace_rate=None)
    assert sampling.settings("a").trace_rate == START.trace_rate


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"trace_rate": 0, "trace_count": 4}, "Attempting to set invalid trace setting :sample rate must be non-zero"),
        (
            {"trace_level": ("TENSORS",), "trace_count": 4},
            "Attempting to set invalid trace setting :trace file name is not given",
        ),
    ],
)
def test_what_cannot_be_changes_nothing(values: dict[str, Any], text: str) -> None:
    sampling = Sampling(TraceSettings())
    with pytest.raises(CallerError) as refused:
        change(sampling, **values)
    assert refused.value.message == text
    assert sampling.settings("") == TraceSettings()


def test_claims_have_ids_of_their_own_and_end_with_the_count(sampling: Sampling) -> None:
    change(sampling, trace_level=("TIMESTAMPS",), trace_count=3)
    claims = [sampling.claim(model) for model in ("a", "b", "a", "b")]
    assert [claim.id if claim else None for claim in claims] == [1, 2, 3, None]
    assert sampling.settings("a").trace_count == 0 and not sampling.settings("").samples
    # When the count is set again, it counts from there
    change(sampling, trace_count=1)
    assert [sampling.claim("a") is not None, sampling.claim("a")] == [True, None]


def test_a_model_s_own_count_is_nobody_else_s(sampling: Sampling) -> None:
    change(sampling, trace_level=("TIMESTAMPS",))
    change(sampling, "a", trace_count=1)
    assert [sampling.claim("a") is not None for _ in range(2)] == [True, False]
    assert sampling.claim("b") is not None and sampling.settings("b").trace_count == -1


def test_nothing_is_claimed_while_tracing_is_off(sampling: Sampling) -> None:
    assert sampling.claim("a") is None
    change(sampling, "a", trace_level=("TIMESTAMPS",))
    assert sampling.claim("a") is not None and sampling.claim("b") is None
    change(sampling, "a", trace_level=())
    assert sampling.claim("a") is None


def test_log_frequency_traces_make_a_file_whichever_gateway_claims(sampling: Sampling) -> None:
    change(sampling, trace_level=("TIMESTAMPS",))
    assert sampling.claim("a") == (1, -1)
    change(sampling, log_frequency=2)
    assert [sampling.claim(model).part for model in "abab"] == [0, 0, 1, 1]  # type: ignore[union-attr]
    # When it is set anew, or a model's own, what comes goes into files that nobody has begun
    change(sampling, log_frequency=3)
    change(sampling, "b", log_frequency=1)
    assert [sampling.claim(model).part for model in "abba"] == [2, 3, 4, 2]  # type: ignore[union-attr]
