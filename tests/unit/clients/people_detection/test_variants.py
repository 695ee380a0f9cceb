# SPDX-License-Identifier: Apache-2.0
"""Which instance counts are asked for, and what becomes of a configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.clients.people_detection.variants import counts_of, variant
from penstock.ipc.errors import CallerError

GROUP = {"name": "peoplenet_0", "kind": "KIND_GPU", "count": 3, "gpus": [0]}
CONFIG = {"name": "peoplenet", "max_batch_size": 8, "instance_group": [GROUP]}


@pytest.mark.parametrize(
    ("text", "counts"),
    [("3", (3,)), ("1..6", (1, 2, 3, 4, 5, 6)), ("1,2,4", (1, 2, 4)), ("4, 1..3", (4, 1, 2, 3)), ("2..2,1..3", (2, 1, 3))],
)
def test_counts_and_ranges_each_count_once(text: str, counts: tuple[int, ...]) -> None:
    assert counts_of(text) == counts


@pytest.mark.parametrize("text", ["", "0", "1..", "..3", "6..1", "1-6", "1,,2", "two", "65", "1..65", "-1", "1.5"])
def test_anything_else_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a count of instances such as 3, nor a range such as 1\.\.6, of 1 to 64"):
        counts_of(text)


def test_the_count_alone_changes() -> None:
    assert json.loads(variant(CONFIG, 5)) == {**CONFIG, "instance_group": [{**GROUP, "count": 5}]}


def test_the_count_of_several_groups_is_nobodys() -> None:
    with pytest.raises(CallerError, match="'peoplenet' has 2 instance groups"):
        variant({**CONFIG, "instance_group": [GROUP, GROUP]}, 2)


@pytest.mark.parametrize(
    ("configured", "wanted", "found"),
    [
        (None, None, None),
        (None, True, {}),
        (None, False, None),
        ({"preferred_batch_size": [4]}, None, {"preferred_batch_size": [4]}),
        ({"preferred_batch_size": [4]}, True, {"preferred_batch_size": [4]}),
        ({"preferred_batch_size": [4]}, False, None),
    ],
)
def test_batching_is_switched_and_otherwise_left_as_it_is(
    configured: dict[str, Any] | None, wanted: bool | None, found: dict[str, Any] | None
) -> None:
    config = CONFIG if configured is None else {**CONFIG, "dynamic_batching": configured}
    assert json.loads(variant(config, dynamic_batching=wanted)).get("dynamic_batching") == found


def test_a_model_without_batches_is_not_batched() -> None:
    with pytest.raises(CallerError, match="'peoplenet' has max_batch_size 0: its requests cannot be batched"):
        variant({**CONFIG, "max_batch_size": 0}, dynamic_batching=True)
