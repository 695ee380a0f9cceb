# SPDX-License-Identifier: Apache-2.0
"""Which optimization profile a batch goes to."""

from __future__ import annotations

import pytest

from penstock.ipc.errors import CallerError
from penstock.workers.backends.plans import profiles as module
from penstock.workers.backends.plans.profiles import Profile, Profiles, Range


def profile(number: int, low: int, best: int, high: int, width: int = 4) -> Profile:
    return Profile(number, (Range((low, width), (best, width), (high, width)),))


@pytest.mark.parametrize(("rows", "number"), [(1, 0), (2, 0), (3, 1), (6, 1), (7, 2), (8, 2)])
def test_the_nearest_to_its_optimum_is_chosen_of_those_that_take_a_batch(rows: int, number: int) -> None:
    profiles = Profiles(["x"], [profile(0, 1, 1, 2), profile(1, 1, 4, 8), profile(2, 6, 8, 8)])
    for _ in range(2):  # the second time it is remembered
        assert profiles.choose(((rows, 4),)).number == number
    profiles.check_invariants()


@pytest.mark.parametrize("shape", [(9, 4), (1, 5), (4,), (1, 4, 1)])
def test_what_none_takes_is_refused_with_what_would_be(shape: tuple[int, ...]) -> None:
    profiles = Profiles(["x"], [profile(0, 1, 4, 8)])
    assert profiles.best((shape,)) is None
    with pytest.raises(CallerError) as caught:
        profiles.choose((shape,))
    expected = f"no optimization profile of this instance takes x {list(shape)}; profile 0: x [1, 4] to [8, 4]"
    assert caught.value.message == expected


def test_all_inputs_must_fit() -> None:
    both = Profile(0, (Range((1, 4), (4, 4), (8, 4)), Range((1, 2), (1, 2), (4, 2))))
    profiles = Profiles(["a", "b"], [both])
    assert profiles.best(((4, 4), (4, 2))) is both
    assert profiles.best(((5, 4), (5, 2))) is None
    assert profiles.max_rows == 4


def test_no_more_choices_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    profiles = Profiles(["x"], [profile(0, 1, 4, 8)])
    for rows in (1, 2, 3, 4, 5, 1):
        assert profiles.choose(((rows, 4),)).number == 0
        profiles.check_invariants()
