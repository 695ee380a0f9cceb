# SPDX-License-Identifier: Apache-2.0
"""Which bytes are one run, and in which order requests lie in a batch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.workers.packing import Run, Span, address_order, aligned, is_one_run, merge

BASE = 0x7F00_0000_0000


def span(offset: int, byte_size: int, region: int = 1) -> Span:
    return Span(region, offset, BASE + region * 0x100_0000 + offset, byte_size)


def test_neighbours_become_one_run() -> None:
    assert merge([span(0, 8), span(8, 8), span(16, 4)]) == [Run(1, 0, 20, 0, 0, 3)]


def test_a_gap_starts_a_new_run() -> None:
    assert merge([span(0, 8), span(8, 8), span(17, 8)]) == [Run(1, 0, 16, 0, 0, 2), Run(1, 17, 8, 16, 2, 1)]


def test_order_is_kept_and_matters() -> None:
    assert len(merge([span(8, 8), span(0, 8)])) == 2


def test_regions_that_touch_in_the_address_space_are_two_runs() -> None:
    first, second = Span(1, 0, BASE, 4096), Span(2, 4096, BASE + 4096, 4096)
    assert [run.region for run in merge([first, second])] == [1, 2]


def test_the_same_bytes_twice_are_two_runs() -> None:
    assert [run.start for run in merge([span(0, 8), span(0, 8)])] == [0, 8]


def test_regions_apart_are_never_merged() -> None:
    neighbours = [span(0, 8), span(8, 8)]
    assert len(merge(neighbours, apart={1})) == 2
    assert not is_one_run(neighbours, apart={1})
    assert is_one_run(neighbours[:1], apart={1})


def test_a_gap_in_the_packed_tensor_starts_a_new_run() -> None:
    assert merge([span(0, 8), span(8, 8)], starts=[0, 16]) == [Run(1, 0, 8, 0, 0, 1), Run(1, 8, 8, 16, 1, 1)]
    assert merge([span(0, 8), span(8, 8)], starts=[4, 12]) == [Run(1, 0, 16, 4, 0, 2)]


def test_one_run_is_told_from_several_without_making_them() -> None:
    assert is_one_run([span(0, 8), span(8, 8), span(16, 4)])
    assert not is_one_run([span(0, 8), span(9, 8)])
    assert not is_one_run([span(8, 8), span(0, 8)])
    assert not is_one_run([span(0, 8), Span(2, 8, BASE + 0x100_0008, 8)])


def test_nothing_is_no_run() -> None:
    assert merge([]) == []


def test_requests_are_ordered_by_address_and_ties_keep_their_order() -> None:
    assert address_order([span(16, 8), span(0, 8), span(8, 8), span(0, 8)]) == [1, 3, 2, 0]


@pytest.mark.parametrize(("offset", "expected"), [(0, 0), (1, 64), (63, 64), (64, 64), (65, 128)])
def test_alignment_rounds_up_to_a_cache_line(offset: int, expected: int) -> None:
    assert aligned(offset) == expected


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 8)), max_size=12))
def test_runs_say_of_every_byte_where_it_comes_from(pieces: list[tuple[int, int, int]]) -> None:
    memory = {region: bytes(range(region * 64, region * 64 + 64)) for region in range(3)}
    spans = [span(offset, size, region) for region, offset, size in pieces]
    runs = merge(spans)
    assert sum(run.spans for run in runs) == len(spans)
    assert not spans or is_one_run(spans) == (len(runs) == 1)
    packed = b"".join(memory[run.region][run.offset : run.offset + run.byte_size] for run in runs)
    assert packed == b"".join(memory[region][offset : offset + size] for region, offset, size in pieces)
    at = 0
    for run in runs:
        assert run.start == at
        at += run.byte_size
