# SPDX-License-Identifier: Apache-2.0
"""The protocol file: what every message has in common, and the bounds that protect the receiver."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from penstock.ipc import messages
from penstock.ipc.errors import BrokerError, CallerError, Code, MachineError, ModelError, PenstockError, from_wire
from penstock.ipc.messages import (
    FromClient,
    FromWorker,
    Infer,
    InputTensor,
    Message,
    Placement,
    Register,
    Result,
    ToClient,
    ToWorker,
)

UNIONS: dict[str, Any] = {"FromClient": FromClient, "ToClient": ToClient, "ToWorker": ToWorker, "FromWorker": FromWorker}
ALL_MESSAGES = [
    kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
]


@pytest.mark.parametrize("kind", ALL_MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_has_a_sender_and_its_class_name_as_type(kind: type[Message]) -> None:
    assert any(kind in get_args(union) for union in UNIONS.values())
    assert kind.__struct_config__.tag == kind.__name__.lower()
    assert kind.__struct_config__.tag_field == "type"
    assert kind.__struct_config__.frozen
    assert kind.__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize("name", UNIONS)
def test_a_sender_speaks_only_its_own_words(name: str) -> None:
    decode = msgspec.msgpack.Decoder(UNIONS[name]).decode
    for kind in set(ALL_MESSAGES) - set(get_args(UNIONS[name])):
        with pytest.raises(msgspec.ValidationError, match="Invalid value"):
            decode(msgspec.msgpack.encode({"type": kind.__name__.lower()}))


def test_defaults_stay_at_home() -> None:
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(Result(1, msgspec.Raw(b"\x90"))))
    assert sent == {"type": "result", "id": 1, "outputs": []}


def test_a_field_that_is_kept_encoded_comes_out_as_it_went_in() -> None:
    inputs = msgspec.msgpack.encode([InputTensor("x", "FP32", [1, 2], "r", 0, 8)])
    back = msgspec.msgpack.decode(msgspec.msgpack.encode(Infer(1, "m", msgspec.Raw(inputs))), type=Infer)
    assert bytes(back.inputs) == inputs
    assert bytes(back.outputs) == b"\x90"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Register, {"type": "register", "id": 1, "name": "r", "kind": "gpu", "byte_size": 1}),
        (Register, {"type": "register", "id": 1, "name": "r", "kind": "cuda", "byte_size": 1, "handle": b"h" * 65}),
        (Register, {"type": "register", "id": 1, "name": "r", "kind": "memfd", "byte_size": 2**63}),
        (Register, {"type": "register", "id": 1, "name": "r" * 257, "kind": "memfd", "byte_size": 1}),
        (Register, {"type": "register", "id": 1, "name": "r", "kind": "system", "byte_size": 1, "key": "k" * 256}),
        (Register, {"type": "register", "id": 1, "name": "r", "kind": "memfd", "byte_size": 1, "fds": 2}),
        (InputTensor, {"name": "x", "datatype": "F" * 17, "shape": []}),
        (InputTensor, {"name": "x", "datatype": "FP32", "shape": [1] * 33}),
        (InputTensor, {"name": "x", "datatype": "FP32", "shape": [-1]}),
        (InputTensor, {"name": "x", "datatype": "FP32", "shape": [2**63]}),
        (InputTensor, {"name": "x", "datatype": "FP32", "shape": [1.5]}),
        (InputTensor, {"name": "x", "datatype": "FP32", "shape": [1], "offset": -1}),
    ],
)
def test_what_is_out_of_bounds_does_not_get_in(kind: type, value: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)


def test_records_between_broker_and_worker_are_arrays() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Placement(1, [], []))) == [1, [], []]


@pytest.mark.parametrize("kind", [CallerError, ModelError, MachineError, BrokerError])
@pytest.mark.parametrize("code", Code)
def test_an_error_is_the_same_on_the_other_side(kind: type[PenstockError], code: Code) -> None:
    there = kind("what happened", code)
    here = from_wire(there.code.value, there.message, there.fault)
    assert (type(here), here.code, here.message) == (kind, code, "what happened")
    assert str(here) == f"{code.value}: what happened"


def test_an_error_in_unknown_words_is_the_brokers() -> None:
    error = from_wire("NEVER_HEARD_OF", "text", "nobody")
    assert (type(error), error.code) == (BrokerError, Code.INTERNAL)
