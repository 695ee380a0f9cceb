# SPDX-License-Identifier: Apache-2.0
"""Room for outputs without a place: what of them lies there, and that a wrong guess of its size is no mistake."""

from __future__ import annotations

import pytest
from scripted import ScriptedBroker

from penstock.ipc.errors import CallerError
from penstock.ipc.messages import InputTensor, OutputPlace
from penstock.runtime.models import ServedModel
from penstock.runtime.output_room import in_room

CONFIG = """
name: "m"
backend: "fake"
max_batch_size: 4
input [ { name: "a" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [
  { name: "y" data_type: TYPE_FP32 dims: [ 2 ] },
  { name: "z" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "w" data_type: TYPE_INT64 dims: [ 3 ] },
  { name: "t" data_type: TYPE_STRING dims: [ 1 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
A = InputTensor("a", "FP32", [2, 2], "r", 0, 16)


@pytest.fixture
def model() -> ServedModel:
    broker = ScriptedBroker(CONFIG)
    broker.start()
    return broker.core.models.find("m", -1)


def room(byte_size: int) -> OutputPlace:
    return OutputPlace("", "r", 1024, byte_size)


def test_outputs_of_known_size_lie_in_it_one_after_the_other(model: ServedModel) -> None:
    # Given room for all, and a request that names no output
    assert in_room(model, [room(4096)], 2, [A]) == [
        OutputPlace("y", "r", 1024, 16), OutputPlace("z"), OutputPlace("w", "r", 1088, 48), OutputPlace("t"),
    ]  # fmt: skip
    # And one that names some, in their order
    assert in_room(model, [OutputPlace("w"), OutputPlace("y"), room(4096)], 1, [A]) == [
        OutputPlace("w", "r", 1024, 24), OutputPlace("y", "r", 1088, 8),
    ]  # fmt: skip


@pytest.mark.parametrize(("byte_size", "fits"), [(16, ["y"]), (15, []), (111, ["y"]), (112, ["y", "w"])])
def test_what_does_not_fit_comes_beside_it(model: ServedModel, byte_size: int, fits: list[str]) -> None:
    found = in_room(model, [room(byte_size)], 2, [A])

    assert [place.name for place in found if place.region] == fits
    assert [place.name for place in found] == ["y", "z", "w", "t"]


def test_what_has_a_place_and_classes_and_unknown_names_are_left_as_they_are(model: ServedModel) -> None:
    wanted = [OutputPlace("y", "own", 0, 16), OutputPlace("w", classification=1), OutputPlace("nix")]

    assert in_room(model, [*wanted, room(4096)], 2, [A]) == wanted
    assert in_room(model, wanted, 2, [A]) == wanted
    assert in_room(model, [OutputPlace("")], 2, [A]) == [OutputPlace("")]  # no output, and no room: refused as a name


def test_it_is_the_sessions_own_memory(model: ServedModel) -> None:
    """Given a region shared for a user: who brings the room would read the output in memory of the same name, not there."""
    shared = OutputPlace("", "r", 1024, 4096, shared=True)

    assert in_room(model, [shared], 2, [A]) == [shared]  # refused as a name


def test_it_comes_once(model: ServedModel) -> None:
    with pytest.raises(CallerError, match="model 'm': a request brings room for outputs once, got it 2 times"):
        in_room(model, [room(8), room(8)], 2, [A])
