# SPDX-License-Identifier: Apache-2.0
"""Corners of the client, against a broker that does as told: what is refused, what is forgotten, whose memory is let go."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_broker
import numpy as np
import pytest
from fake_broker import FakeBroker

from penstock.clients import BrokerError, CallerError, Classification, Client, Code, MemfdRegion, ModelError
from penstock.clients.connection import Connection
from penstock.ipc.messages import Failed, Query


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[FakeBroker]:
    with FakeBroker(f"unix://{tmp_path}/b.sock") as broker:
        yield broker


@pytest.fixture
def client(broker: FakeBroker) -> Iterator[Client]:
    with Client(broker.address) as client:
        yield client
        client.check_invariants()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """What is gone within the test went without the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def rows(count: int = 1) -> np.ndarray[Any, Any]:
    return np.arange(4 * count, dtype=np.float32).reshape(count, 4)


# --- what is known of models ----------------------------------------------------------------------------------------------


def test_a_future_that_is_refused_has_the_model_asked_for_again(
    client: Client, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a client that knows the model, and a model that was loaded again and takes rows of 6 now
    client.submit("echo", {"x": rows()}).result(20)
    batch, _, outputs = fake_broker.METADATA["echo"]
    monkeypatch.setitem(fake_broker.METADATA, "echo", (batch, [("x", "FP32", [-1, 6])], outputs))
    broker.hold = True

    # When what was right before is submitted, and refused
    future = client.submit("echo", {"x": rows()})
    broker.wait_held(1)
    broker.send(lambda message: Failed("INVALID_ARG", "expected [-1, 6]", "caller", message.id))
    assert isinstance(future.exception(20), CallerError)

    # Then the model is known as it is, and requests are made for it
    assert client.model("echo").inputs[0].dims == (6,)
    client.submit("echo", {"x": np.zeros((1, 6), np.float32)})


def test_other_errors_have_nobody_asked_again(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    futures = [client.submit("echo", {"x": rows()}) for _ in range(2)]
    broker.wait_held(2)
    broker.fail(position=0)
    broker.send(lambda message: Failed("CANCELLED", "the model is unloaded", "caller", message.id), position=1)
    assert all(future.exception(20) for future in futures)
    client.submit("echo", {"x": rows()})
    broker.wait_held(3)
    assert len(broker.of(Query)) == 1


# --- regions --------------------------------------------------------------------------------------------------------------


def test_an_output_is_not_silently_put_elsewhere(client: Client) -> None:
    with MemfdRegion("mine", 4096) as region:
        client.register(region)
        for wanted in ({"y": region.tensor("FP32", (1, 4))}, {"y": 5}):
            with pytest.raises(CallerError, match="output 'y' cannot be placed .*all inputs lie in regions") as caught:
                client.infer("echo", {"x": rows()}, outputs=wanted)  # type: ignore[arg-type]
            assert caught.value.code is Code.INVALID_ARG
            with pytest.raises(CallerError, match="output 'y' cannot be placed"):
                client.buffers("echo", 1, outputs=wanted)


def test_what_is_no_place_is_refused_beside_inputs_in_regions_too(client: Client) -> None:
    with MemfdRegion("mine", 4096) as region:
        client.register(region)
        with pytest.raises(CallerError, match=r"model 'echo': output 'y' .*a ndarray"):
            client.infer("echo", {"x": region.tensor("FP32", (1, 4))}, outputs={"y": rows()})  # type: ignore[dict-item]


def test_a_region_that_is_registered_twice_stays_registered(client: Client, broker: FakeBroker) -> None:
    with MemfdRegion("mine", 4096) as region:
        client.register(region)
        with pytest.raises(CallerError, match="'mine' is registered already") as caught:
            client.register(region)
        assert caught.value.code is Code.ALREADY_EXISTS
        assert "1 regions" in repr(client)  # those that the next broker gets
        client.unregister("mine")
        client.register(region)


def test_a_region_is_unregistered_by_itself_or_by_its_name(client: Client, broker: FakeBroker) -> None:
    with MemfdRegion("mine", 4096) as region:
        client.register(region)
        client.unregister(region)
        client.register(region)
        with pytest.raises(CallerError, match="by itself or by its name: 7 is a int"):
            client.unregister(7)  # type: ignore[arg-type]
        assert client.regions() == [{"name": "mine"}]


def test_a_region_whose_registration_is_interrupted_is_taken_back(
    client: Client, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    client.connect()
    with MemfdRegion("mine", 4096) as region:
        with monkeypatch.context() as patched:
            patched.setattr(Connection, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.register(region)
        client.register(region)
        assert client.regions() == [{"name": "mine"}]


# --- values that cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", [2**70, -1, "1", np.int64(1)])
@pytest.mark.parametrize("version", [2**70, -2, "1", np.int64(1)])
def test_numbers_that_no_message_carries_are_refused_by_name(client: Client, priority: Any, version: Any) -> None:
    for asked in ({"priority": priority}, {"version": version}):
        with pytest.raises(CallerError, match=f"{next(iter(asked))} must be"):
            client.infer(client.buffers("echo", 1), **asked)
    assert client.infer("echo", {"x": rows()}).version == 1


@pytest.mark.parametrize("seconds", [float("inf"), 1e30])
def test_a_timeout_without_end_is_a_long_one(client: Client, seconds: float) -> None:
    assert client.infer("echo", {"x": rows()}, timeout_s=seconds, queue_timeout_s=seconds).version == 1


def test_a_timeout_that_is_no_number_is_refused(client: Client) -> None:
    with pytest.raises(CallerError, match="timeout_s must be above 0, got nan"):
        client.infer("echo", {"x": rows()}, timeout_s=float("nan"))


def test_a_name_that_cannot_be_encoded_does_not_spoil_the_client(client: Client) -> None:
    client.infer("echo", {"x": rows()})
    with pytest.raises(BrokerError, match="a message cannot be encoded: .*surrogates not allowed"):
        client.metadata("\udc80")
    assert client.infer("echo", {"x": rows()}).version == 1


@pytest.mark.parametrize("arguments", [{"batch": 1.5}, {"batch": "1"}, {"batch": 1, "shapes": {"y": [4.0]}}])
def test_sizes_that_are_not_whole_do_not_spoil_the_pool(client: Client, arguments: Any) -> None:
    with pytest.raises(CallerError, match="must be given whole numbers"):
        client.buffers("echo", **arguments)
    with client.buffers("varied", np.int64(2), shapes={"x": np.array([3])}) as slot:  # type: ignore[arg-type]
        assert client.infer(slot).outputs["y"].shape == (2, 3)


@pytest.mark.parametrize("inputs", [[1, 2], np.ones((1, 4), np.float32)])
def test_inputs_without_names_are_refused(client: Client, inputs: Any) -> None:
    with pytest.raises(CallerError, match="model 'echo': inputs must be a mapping from names to arrays, given is a"):
        client.infer("echo", inputs)


@pytest.mark.parametrize("count", [0, "1", 1.5, 2**40])
def test_classes_are_a_whole_number(client: Client, count: Any) -> None:
    with pytest.raises(CallerError, match="at least 1 class must be asked for"):
        client.infer("echo", {"x": rows()}, outputs={"y": Classification(count)})


# --- whose memory is let go -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("uncollected")
def test_a_slot_that_is_closed_after_its_client_leaves_no_memory_behind(broker: FakeBroker) -> None:
    client = Client(broker.address)
    slot = client.buffers("echo", 1)
    result = client.infer("echo", {"x": rows()})
    regions = [weakref.ref(slot.placement.region)]  # type: ignore[attr-defined]
    client.close()
    slot.close()
    del slot, result
    assert "0 returned" in repr(client)
    assert regions[0]() is None


@pytest.mark.usefixtures("uncollected")
def test_an_interrupted_call_holds_nothing(client: Client, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    def call(array: np.ndarray[Any, Any]) -> None:
        client.infer("echo", {"x": array})

    client.infer("echo", {"x": rows()})  # there is memory for the next, which therefore asks for nothing else
    broker.hold = True
    array = rows()
    given = weakref.ref(array)
    with monkeypatch.context() as patched:
        patched.setattr(Connection, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(array)
    del array
    assert given() is None


@pytest.mark.usefixtures("uncollected")
def test_an_error_that_is_over_holds_neither_question_nor_future(client: Client, broker: FakeBroker) -> None:
    # Given a question from a frame that has an array, and a future; both fail
    def ask(_array: np.ndarray[Any, Any]) -> None:
        client.metadata("nowhere")

    array = rows()
    given = weakref.ref(array)
    with pytest.raises(CallerError):
        ask(array)
    broker.hold = True
    future = client.submit("echo", {"x": rows()})
    failed = weakref.ref(future)
    broker.wait_held(1)
    broker.fail()
    with pytest.raises(ModelError):
        future.result(20)

    # Then array and future are gone with their names
    del array, future
    assert given() is None
    assert failed() is None
