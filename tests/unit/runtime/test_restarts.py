# SPDX-License-Identifier: Apache-2.0
"""When a dead worker is started again: the pauses, and when there is no more trying."""

from __future__ import annotations

from penstock.runtime.restarts import RestartPolicy

MS = 1_000_000
S = 1_000 * MS


def crashes(*times_s: float) -> list[int | None]:
    """The pause after each crash, in ms; None: given up."""
    policy = RestartPolicy()
    pauses = [policy.crashed(int(at_s * S)) for at_s in times_s]
    policy.check_invariants()
    return [None if pause is None else pause // MS for pause in pauses]


def test_the_pause_before_a_restart_doubles() -> None:
    assert crashes(0, 1, 2, 3) == [100, 200, 400, 800]


def test_the_fifth_crash_within_a_minute_is_the_last() -> None:
    assert crashes(0, 15, 30, 45, 60) == [100, 200, 400, 800, None]


def test_crashes_of_more_than_a_minute_ago_do_not_count() -> None:
    assert crashes(0, 15, 30, 45, 60.001) == [100, 200, 400, 800, 800]
    assert crashes(0, 100, 200, 300, 400, 500) == [100] * 6


def test_it_says_how_often_it_saw_a_crash() -> None:
    policy = RestartPolicy()
    policy.crashed(0)
    assert repr(policy) == "<RestartPolicy 1 recent crashes>"
