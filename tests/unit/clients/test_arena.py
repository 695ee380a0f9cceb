# SPDX-License-Identifier: Apache-2.0
"""Where slots lie: aligned, apart from each other, next to their likes, and used again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clients.arena import REGION_BYTES, Arena, Broker
from penstock.clients.extents import ALIGNMENT, Extents, aligned
from penstock.clients.regions import Region


class FakeRegion:
    """A region of which only the size is real."""

    def __init__(self, byte_size: int) -> None:
        self.byte_size = byte_size
        self.closed = False

    def check_invariants(self) -> None:
        assert not self.closed

    def close(self) -> None:
        self.closed = True


class Rig:
    def __init__(self) -> None:
        self.broker = Broker()
        self.broker.meet(b"first", keeps_memory=True)
        self.made: list[Any] = []
        self.dropped: list[Region] = []
        self.arena = Arena(self.broker, self._add, self.dropped.append)

    def _add(self, byte_size: int) -> Any:
        self.made.append(FakeRegion(byte_size))
        return self.made[-1]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.arena.check_invariants()


def test_the_same_tensor_of_the_next_slot_follows_and_outputs_lie_apart(rig: Rig) -> None:
    slots = [rig.arena.take((256, 40)) for _ in range(8)]
    inputs, outputs = [slot.offsets[0] for slot in slots], [slot.offsets[1] for slot in slots]
    assert inputs == [inputs[0] + 256 * k for k in range(8)]
    assert outputs == [outputs[0] + 64 * k for k in range(8)]
    assert outputs[0] >= inputs[-1] + 256
    assert all(offset % ALIGNMENT == 0 for offset in inputs + outputs)


def test_what_is_given_back_is_leased_again_first(rig: Rig) -> None:
    first, second = rig.arena.take((64,)), rig.arena.take((64,))
    rig.arena.give(first)
    assert rig.arena.take((64,)) is first
    rig.arena.give(second)
    assert len(rig.made) == 1


def test_large_slots_get_regions_of_their_own_size(rig: Rig) -> None:
    slot = rig.arena.take((REGION_BYTES * 3,))
    assert slot.region.byte_size >= REGION_BYTES * 3
    rig.arena.take((64,))
    assert [region.byte_size for region in rig.made] == [REGION_BYTES * 3, REGION_BYTES]


def test_idle_blocks_make_room_for_other_sizes_before_memory_grows(rig: Rig) -> None:
    for step in range(200):
        placement = rig.arena.take((100_000 + step * 64,))
        rig.arena.give(placement)
    assert len(rig.made) == 1


def test_a_region_that_has_become_empty_and_too_small_is_dropped(rig: Rig) -> None:
    rig.arena.give(rig.arena.take((REGION_BYTES,)))
    rig.arena.take((REGION_BYTES * 2,))
    assert len(rig.dropped) == 1


def test_a_suspect_slot_is_leased_again_only_when_another_broker_answers(rig: Rig) -> None:
    slot = rig.arena.take((64,))
    slot.lose()
    assert not slot.is_usable
    rig.arena.give(slot)
    others = [rig.arena.take((64,)) for _ in range(100)]
    assert slot not in others
    rig.broker.meet(b"first", keeps_memory=True)
    assert not slot.is_usable
    rig.broker.meet(b"second", keeps_memory=True)
    assert slot.is_usable
    assert rig.arena.take((64,)) is slot


def test_memory_that_cannot_be_registered_again_is_not_leased_again(rig: Rig) -> None:
    leased, free = rig.arena.take((64,)), rig.arena.take((64,))
    rig.arena.give(free)
    rig.broker.meet(b"second", keeps_memory=False)
    assert not leased.is_usable
    fresh = rig.arena.take((64,))
    assert fresh.is_usable
    assert fresh.region is rig.made[1]
    assert rig.made[0].closed
    rig.arena.give(leased)


sizes = st.tuples(st.integers(0, 3000), st.integers(0, 200_000))


@given(st.lists(st.one_of(sizes, st.integers(0, 30)), max_size=60))
def test_leased_slots_never_overlap(script: list[Any]) -> None:
    rig = Rig()
    leased: list[tuple[Any, tuple[int, int]]] = []
    for step in script:
        if isinstance(step, tuple):
            leased.append((rig.arena.take(step), step))
        elif leased:
            rig.arena.give(leased.pop(step % len(leased))[0])
        rig.arena.check_invariants()
    spans = sorted(
        (id(slot.region), offset, offset + aligned(size))
        for slot, of in leased
        for offset, size in zip(slot.offsets, of, strict=True)
    )
    for one, other in itertools.pairwise(spans):
        assert one[0] != other[0] or one[2] <= other[1]


@given(st.lists(st.integers(1, 400), max_size=40), st.randoms(use_true_random=False))
def test_extents_merge_until_all_is_one_again(wanted: list[int], random: Any) -> None:
    extents = Extents(4096)
    taken = [(begin, size) for size in wanted if (begin := extents.take(size)) is not None]
    random.shuffle(taken)
    for begin, size in taken:
        extents.check_invariants()
        extents.give(begin, size)
    assert extents.is_empty
    assert extents.take(4097) is None


def test_room_can_be_made_in_two_steps(rig: Rig) -> None:
    # Given an arena that has nothing: it says what it lacks, and asks for nothing
    assert rig.arena.lacks((256, 40)) == REGION_BYTES
    assert not rig.made
    # When such a region is added
    rig.arena.add(FakeRegion(REGION_BYTES), rig.broker.epoch)  # type: ignore[arg-type]
    # Then there is room, and taking it asks for nothing either
    assert rig.arena.lacks((256, 40)) == 0
    rig.arena.take((256, 40))
    assert rig.arena.lacks((2 * REGION_BYTES,)) == 2 * REGION_BYTES
    assert not rig.made


def test_a_region_of_an_earlier_broker_is_no_room(rig: Rig) -> None:
    epoch = rig.broker.epoch
    rig.broker.meet(b"second", keeps_memory=False)
    late = FakeRegion(REGION_BYTES)
    rig.arena.add(late, epoch)  # type: ignore[arg-type]
    assert rig.arena.lacks((256,)) == REGION_BYTES
    assert late.closed
