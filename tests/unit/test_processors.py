# SPDX-License-Identifier: Apache-2.0
"""Lists of CPUs as Linux and Triton write them, and what this machine has of them."""

from __future__ import annotations

import os

import pytest

from penstock.ipc.errors import CallerError, Code, MachineError
from penstock.ipc.processors import cpus_of_node, format_cpus, parse_cpus, refused_cpus

MINE = sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cpus", "again"),
    [("0-3,6", (0, 1, 2, 3, 6), "0-3,6"), ("5", (5,), "5"), ("4,3,3-4,9-9", (3, 4, 9), "3-4,9"), ("0-0\n", (0,), "0")],
)
def test_lists_are_read_and_written(text: str, cpus: tuple[int, ...], again: str) -> None:
    assert parse_cpus(text) == cpus
    assert format_cpus(cpus) == again


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0,,1", "0x1", "1.5", "0-1-2", "0-4000000000", "²"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(CallerError, match="a list of CPUs is <lower>-<upper> or single numbers") as caught:
        parse_cpus(text)
    assert f"got '{text}'" in caught.value.message


def test_the_kernel_is_asked_which_cpus_may_be_used() -> None:
    assert refused_cpus([*MINE, 4095]) == [4095]
    assert sorted(os.sched_getaffinity(0)) == MINE  # and nothing has changed


def test_a_node_that_is_not_there_is_named() -> None:
    with pytest.raises(MachineError, match="NUMA node 977 does not exist on this machine; it has") as caught:
        cpus_of_node(977)
    assert caught.value.code is Code.NOT_FOUND
