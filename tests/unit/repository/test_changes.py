# SPDX-License-Identifier: Apache-2.0
"""What a load has to do: nothing, other instances, some versions, or everything; and what a poll finds."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace
from texts import IDENTITY, parsed

from penstock.runtime.repository.changes import Change, change, differences
from penstock.runtime.repository.directory import ModelSource
from penstock.runtime.repository.origins import Opened, Origin
from penstock.runtime.repository.stamps import Stamps

TWO = IDENTITY + 'instance_group { name: "g" count: 2 }'


def opened(
    text: str = IDENTITY,
    versions: dict[int, bytes] | None = None,
    shared: bytes = b"",
    place: str = "/r/m",
    brought: bool = False,
) -> Opened:
    found = {1: b"a", 2: b"b"} if versions is None else versions
    stamps = None if brought else Stamps(text.encode(), shared, found)
    return Opened(ModelSource("m", Path(place), parsed(text), tuple(found)), Origin("m"), stamps, "")


def test_the_first_time_everything_is_fresh() -> None:
    assert change(None, opened()) == Change((1, 2))


def test_what_means_the_same_is_left_alone() -> None:
    other = "# a remark\n" + IDENTITY.replace("dims: [ 2 ]", "dims:[2]")
    assert change(opened(), opened(other)) == Change((), kept=(1, 2))


def test_versions_are_loaded_left_and_unloaded_one_by_one() -> None:
    before, after = opened(), opened(versions={2: b"b", 3: b"c"})
    assert change(before, after) == Change((3,), kept=(2,))
    assert change(before, opened(versions={1: b"a", 2: b"other"})) == Change((2,), kept=(1,))


def test_another_policy_alone_loads_nothing_again() -> None:
    assert change(opened(), opened(IDENTITY + "version_policy { all { } }")) == Change((), kept=(1, 2))


def test_other_instances_alone_change_instances_alone() -> None:
    assert change(opened(TWO), opened(TWO.replace("count: 2", "count: 5"))) == Change((), kept=(1, 2), is_resized=True)
    assert change(opened(TWO), opened(TWO.replace('"g"', '"h"'))) == Change((), kept=(1, 2), is_resized=True)


def test_an_instance_of_the_same_name_with_other_settings_is_another_one() -> None:
    before, after = opened(TWO), opened(TWO)
    (group,) = after.source.config.instance_groups
    config = replace(after.source.config, instance_groups=(replace(group, kind="KIND_GPU"),))
    after = replace(after, source=replace(after.source, config=config))
    assert change(before, after) == Change((1, 2))


def test_a_model_that_enters_or_leaves_the_rate_limiter_is_loaded_anew() -> None:
    limited = 'instance_group { name: "h" rate_limiter { resources { name: "R" count: 1 } } }'
    assert change(opened(TWO), opened(TWO + limited)) == Change((1, 2))
    assert change(opened(TWO + limited), opened(TWO)) == Change((1, 2))
    assert change(opened(TWO + limited), opened(TWO.replace("count: 2", "count: 1") + limited)).is_resized


def test_whatever_all_versions_share_is_a_reason_to_load_all() -> None:
    everything = Change((1, 2))
    assert change(opened(), opened(IDENTITY.replace("dims: [ 2 ]", "dims: [ 3 ]"))) == everything
    assert change(opened(), opened(IDENTITY + "max_batch_size: 0")) == everything, "written, it is a choice"
    assert change(opened(), opened(shared=b"labels")) == everything
    assert change(opened(), opened(place="/other/m")) == everything
    assert change(opened(), opened(brought=True)) == everything
    assert change(opened(brought=True), opened()) == everything


def test_a_poll_finds_what_is_new_changed_and_gone() -> None:
    one, other = Stamps(b"1", b"", {}), Stamps(b"2", b"", {})
    before = {"same": ("/a", one), "changed": ("/a", one), "moved": ("/a", one), "gone": ("/a", one)}
    after = {"same": ("/a", one), "changed": ("/a", other), "moved": ("/b", one), "new": ("/a", one)}
    assert differences(before, after) == (["changed", "moved", "new"], ["gone"])
