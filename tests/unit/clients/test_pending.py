# SPDX-License-Identifier: Apache-2.0
"""The client's books: one answer per request, one release, and no memory forgotten, whatever the order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clients.pending import TRANSITIONS, Entry, Pending, State
from penstock.ipc.errors import BrokerError


class Memory:
    """A lease that counts what it is told."""

    def __init__(self) -> None:
        self.released = 0
        self.lost = 0

    def build_result(self, entry: Entry) -> object:
        return entry.message

    def release(self) -> None:
        self.released += 1

    def lose(self) -> None:
        self.lost += 1


def sent(pending: Pending, number: int = 1, deadline_ns: int = 0) -> tuple[Entry, Memory]:
    memory = Memory()
    entry = Entry(number, memory, deadline_ns)
    pending.add(entry)
    return entry, memory


def test_an_answer_answers_and_releases() -> None:
    pending = Pending()
    entry, memory = sent(pending)
    assert pending.settle(entry, "result", None, brought="parts")
    assert (entry.answered, entry.message, entry.brought, entry.state) == (True, "result", "parts", State.ENDED)
    assert (memory.released, len(pending), pending.get(1)) == (1, 0, None)


def test_a_failure_without_release_is_told_now_and_keeps_the_memory() -> None:
    pending = Pending()
    entry, memory = sent(pending)
    error = BrokerError("x")
    assert pending.settle(entry, None, error, released=False)
    assert (entry.error, entry.state, memory.released) == (error, State.QUARANTINED, 0)
    assert pending.release(1)
    assert (entry.state, memory.released) == (State.ENDED, 1)
    assert not pending.release(1)


@pytest.mark.parametrize("released", [True, False])
def test_after_giving_up_the_brokers_answer_is_not_told_but_frees_the_memory(released: bool) -> None:
    pending = Pending()
    entry, memory = sent(pending)
    error = BrokerError("gave up")
    assert pending.abandon(entry, error)
    assert not pending.abandon(entry, BrokerError("again"))
    assert not pending.settle(entry, "late", None, released=released)
    assert (entry.error, entry.message) == (error, None)
    assert released or pending.release(1)
    assert memory.released == 1


def test_a_release_before_the_answer_is_nothing() -> None:
    pending = Pending()
    entry, memory = sent(pending)
    assert not pending.release(1)
    assert not pending.release(99)
    assert (entry.state, memory.released) == (State.WAITING, 0)


def test_a_lost_connection_tells_those_that_wait_and_loses_all_memory() -> None:
    pending = Pending()
    waiting, first = sent(pending, 1)
    given_up, second = sent(pending, 2)
    quarantined, third = sent(pending, 3)
    pending.abandon(given_up, BrokerError("mine"))
    pending.settle(quarantined, None, BrokerError("broker's"), released=False)
    assert pending.lose(lambda: BrokerError("lost")) == [waiting]
    assert [memory.lost for memory in (first, second, third)] == [1, 1, 1]
    assert [str(entry.error) for entry in (waiting, given_up, quarantined)] == [
        "UNAVAILABLE: lost", "UNAVAILABLE: mine", "UNAVAILABLE: broker's",
    ]  # fmt: skip
    assert not len(pending)


def test_each_told_entry_has_an_error_of_its_own() -> None:
    pending = Pending()
    one, other = sent(pending, 1)[0], sent(pending, 2)[0]
    pending.lose(lambda: BrokerError("lost"))
    assert one.error is not other.error


def test_deadlines_are_told_in_order_and_only_of_those_that_wait() -> None:
    pending = Pending()
    late, _ = sent(pending, 1, 300)
    answered, _ = sent(pending, 2, 100)
    early, _ = sent(pending, 3, 200)
    sent(pending, 4)
    pending.settle(answered, "x", None)
    assert pending.next_deadline_ns() == 200
    assert pending.expired(199) == []
    assert pending.expired(300) == [early, late]
    assert pending.next_deadline_ns() is None


def test_an_illegal_move_tells_the_entrys_story() -> None:
    pending = Pending()
    entry, _ = sent(pending)
    pending.settle(entry, "x", None)
    with pytest.raises(AssertionError, match="Entry 1 ended answered.* cannot become ended"):
        pending._end(entry, State.ENDED)


def test_final_states_have_no_way_out() -> None:
    assert {state for state, following in TRANSITIONS.items() if not following} == {State.ENDED, State.LOST}


events = st.lists(st.tuples(st.sampled_from(["result", "failed", "held", "abandon", "released", "lose"]), st.integers(1, 4)))


@given(events)
def test_whatever_happens_one_answer_and_one_release(script: list[tuple[str, int]]) -> None:
    pending = Pending()
    requests = {number: sent(pending, number, number * 10) for number in range(1, 5)}
    told = dict.fromkeys(requests, 0)
    for what, number in script:
        entry = pending.get(number)
        if what == "lose":
            for lost in pending.lose(lambda: BrokerError("lost")):
                told[lost.number] += 1
        elif what == "released":
            pending.release(number)
        elif entry is not None and what == "abandon":
            told[number] += pending.abandon(entry, BrokerError("mine"))
        elif entry is not None and entry.state is not State.QUARANTINED:
            error = None if what == "result" else BrokerError(what)
            told[number] += pending.settle(entry, None if error else "result", error, released=what != "held")
        pending.check_invariants()
    for number, (entry, memory) in requests.items():
        assert told[number] == entry.answered
        assert memory.released + memory.lost == (pending.get(number) is None)
