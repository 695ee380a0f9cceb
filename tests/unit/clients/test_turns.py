# SPDX-License-Identifier: Apache-2.0
"""Leader and followers: somebody reads wherever somebody waits, and each is woken for his own."""

from __future__ import annotations

from penstock.clients.pending import Entry
from penstock.clients.turns import Turns, Waiter


def is_awake(waiter: Waiter) -> bool:
    return waiter.lock.acquire(blocking=False)


def test_the_first_leads_and_the_lead_goes_to_the_longest_waiting() -> None:
    turns = Turns()
    assert turns.take()
    assert not turns.take()
    first, second = turns.follow(Entry(1)), turns.follow(Entry(2))
    turns.pass_on()
    assert (is_awake(first), first.chosen, is_awake(second), turns.taken) == (True, True, False, True)
    turns.pass_on()
    assert (is_awake(second), second.chosen, turns.wanted) == (True, True, False)
    turns.pass_on()
    assert not turns.taken
    turns.check_invariants()


def test_an_answer_wakes_all_that_wait_for_it_and_nobody_else() -> None:
    turns = Turns()
    turns.take()
    mine, other = Entry(1), Entry(2)
    waiters = [turns.follow(mine), turns.follow(mine)]
    bystander = turns.follow(other)
    mine.answered = True
    turns.wake(mine)
    assert all(is_awake(waiter) and not waiter.chosen for waiter in waiters)
    assert not is_awake(bystander)
    turns.check_invariants()


def test_who_gives_up_is_never_chosen_and_who_was_chosen_hands_on() -> None:
    turns = Turns()
    turns.take()
    first, second, third = (turns.follow(Entry(number)) for number in range(3))
    turns.leave(first)
    turns.pass_on()
    assert second.chosen
    turns.leave(second)
    assert third.chosen
    turns.leave(third)
    assert not turns.taken


def test_the_reader_of_last_resort_is_known_as_such() -> None:
    turns = Turns()
    assert turns.take(last_resort=True)
    assert turns.by_last_resort
    turns.follow(Entry(1))
    assert turns.wanted
    turns.pass_on()
    assert not turns.by_last_resort
    assert turns.taken
