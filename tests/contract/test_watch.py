# SPDX-License-Identifier: Apache-2.0
"""Waiting for input: what ends a wait, with and without a limit, and whichever descriptor it is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from penstock.clients import watch as watching
from penstock.clients.watch import Watch

LIMITS = [None, 20.0, 1e10]


@pytest.fixture(params=[watching.SELECTABLE, 0], ids=["select", "poll"])
def pipe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Watch, int]]:
    """A watch on one end, and the other. Both ways of waiting: descriptors beyond select(2)'s are polled."""
    monkeypatch.setattr(watching, "SELECTABLE", request.param)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    watch = Watch(reading)
    try:
        yield watch, writing
    finally:
        watch.close()
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("limit_s", LIMITS)
def test_input_ends_a_wait(pipe: tuple[Watch, int], limit_s: float | None) -> None:
    watch, writing = pipe
    os.write(writing, b"x")
    watch.wait(limit_s)
    watch.wait(limit_s)  # it is still there


@pytest.mark.parametrize("limit_s", LIMITS)
def test_an_interruption_ends_one_wait_and_not_the_next(pipe: tuple[Watch, int], limit_s: float | None) -> None:
    watch, _ = pipe
    watch.interrupt()
    watch.wait(limit_s)
    began_s = time.monotonic()
    watch.wait(0.02)
    assert time.monotonic() - began_s >= 0.02


def test_a_limit_of_less_than_a_millisecond_is_kept(pipe: tuple[Watch, int]) -> None:
    watch, _ = pipe
    began_s = time.monotonic()
    watch.wait(0.0002)
    assert time.monotonic() - began_s >= 0.0002
