# SPDX-License-Identifier: Apache-2.0
"""The client against a broker that does as told: the same stories over the local link and over ZeroMQ."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_broker import FakeBroker

from penstock.clients import (
    BrokerError,
    CallerError,
    Client,
    Code,
    InferResult,
    MemfdRegion,
    ModelError,
    PenstockError,
    Slot,
    SystemRegion,
)
from penstock.ipc.codec import encode
from penstock.ipc.messages import Cancel, Failed, Goodbye, Hello, Infer, Ping, Register, Released, Result, Unregister

SHORT_S = 0.02


@pytest.fixture(params=["local", "zmq", "tcp"])
def any_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    kinds = {"local": f"unix://{tmp_path}/b.sock", "zmq": f"ipc://{tmp_path}/b.zmq", "tcp": "tcp://127.0.0.1:0"}
    return kinds[request.param]


@pytest.fixture
def client(broker: FakeBroker) -> Iterator[Client]:
    with Client(broker.address) as client:
        yield client
        client.check_invariants()


def rows(count: int, start: float = 0.0) -> np.ndarray[Any, Any]:
    return np.arange(start, start + 4 * count, dtype=np.float32).reshape(count, 4)


def filled(client: Client, start: float, batch: int = 1) -> Slot:
    slot = client.buffers("echo", batch)
    slot.inputs["x"][:] = rows(batch, start)
    return slot


def settle(client: Client) -> None:
    """A round trip: everything that the broker had sent before has been read afterwards."""
    client.regions()


def call_in_thread(call: Callable[[], Any]) -> futures.Future[Any]:
    future: futures.Future[Any] = futures.Future()

    def run(future: futures.Future[Any]) -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            future.set_exception(error)
            del future  # the error's traceback holds this frame

    threading.Thread(target=run, args=(future,), daemon=True).start()
    return future


# --- requests -------------------------------------------------------------------------------------------------------------


def test_a_slot_carries_inputs_and_outputs_in_place(client: Client) -> None:
    with client.buffers("echo", batch=3) as io:
        for start in (0, 100):
            io.inputs["x"][:] = rows(3, start)
            result = client.infer(io, timeout_s=20)
            assert np.array_equal(result.outputs["y"], rows(3, start) * 2)
            assert np.shares_memory(result.outputs["y"], io.outputs["y"])


def test_the_one_liner_works_over_every_link(any_address: str) -> None:
    with FakeBroker(any_address) as broker, Client(broker.address) as client:
        assert np.array_equal(client.infer("echo", {"x": rows(2)}).outputs["y"], rows(2) * 2)
        assert np.array_equal(client.submit("echo", {"x": rows(1).tolist()}).result(20).outputs["y"], rows(1) * 2)
        swapped = rows(2).astype(">f4")
        assert np.array_equal(client.infer("echo", {"x": swapped}).outputs["y"], rows(2) * 2)


def test_slots_work_over_tcp_without_shared_memory() -> None:
    with FakeBroker("tcp://127.0.0.1:0") as broker, Client(broker.address) as client, client.buffers("echo", 2) as io:
        io.inputs["x"][:] = rows(2)
        result = client.infer(io)
        assert np.array_equal(io.outputs["y"], rows(2) * 2)
        assert np.shares_memory(result.outputs["y"], io.outputs["y"])
        assert not broker.of(Register)


def test_outputs_of_unknown_size_come_along(client: Client) -> None:
    result = client.infer("varied", {"x": rows(2)})
    other = client.infer("text", {"s": np.array(["a", "bcd"])})
    del client
    gc.collect()
    assert np.array_equal(result.outputs["y"], rows(2) * 2)
    assert other.outputs["t"].tolist() == [b"aa", b"bcdbcd"]


def test_variable_dims_need_shapes(client: Client) -> None:
    with pytest.raises(CallerError, match=r"'varied'.*input 'x'.*shapes="):
        client.buffers("varied", 2)
    with client.buffers("varied", 2, shapes={"x": (3,), "y": (3,)}) as io:
        io.inputs["x"][:] = 1.5
        assert client.infer(io).outputs["y"].tolist() == [[3.0] * 3] * 2
        assert io.outputs["y"].tolist() == [[3.0] * 3] * 2


def test_mistakes_in_inputs_are_named(client: Client, broker: FakeBroker) -> None:
    with pytest.raises(CallerError, match="'echo': input 'x' is FP32, given is float64"):
        client.infer("echo", {"x": rows(1).astype(float)})
    with pytest.raises(CallerError, match=r"'echo': input 'x' has shape \[-1, 4\], given is \[4\]"):
        client.infer("echo", {"x": rows(1)[0]})
    with pytest.raises(CallerError, match=r"missing \['x'\], unknown \['z'\]"):
        client.infer("echo", {"z": rows(1)})
    with pytest.raises(CallerError, match="no metadata of 'other'") as caught:
        client.infer("other", {"z": rows(1)})
    assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(CallerError, match="batch must be 1 to 8, got 9"):
        client.buffers("echo", 9)
    assert not broker.of(Infer)


def test_a_repeated_slot_sends_the_same_bytes_again(client: Client, broker: FakeBroker) -> None:
    with filled(client, 0) as io:
        client.infer(io)
        client.infer(io, explain=True, principal="me", timeout_s=2)
    first, second = broker.of(Infer)
    assert bytes(first.inputs) == bytes(second.inputs)
    assert bytes(first.outputs) == bytes(second.outputs)
    assert (second.explain, second.principal, second.deadline_us) == (True, "me", 2_000_000)


def test_a_slot_has_one_request_at_a_time(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    io = filled(client, 0)
    future = client.submit(io)
    with pytest.raises(CallerError, match="has a request in flight"):
        client.submit(io)
    broker.wait_held(1)
    broker.answer(0)
    assert future.result(20).outputs["y"].tolist() == (rows(1) * 2).tolist()
    broker.hold = False
    client.infer(io)
    io.close()
    with pytest.raises(CallerError, match="closed"):
        client.infer(io)


def test_results_of_the_one_liner_keep_their_memory_until_they_are_garbage(client: Client, broker: FakeBroker) -> None:
    first = client.infer("echo", {"x": rows(1, 5)})
    kept = first.outputs["y"][0, 1:]
    del first
    for start in range(200):
        client.infer("echo", {"x": rows(1, start)})
    assert kept.tolist() == (rows(1, 5) * 2)[0, 1:].tolist()
    assert len(broker.of(Register)) == 1


def test_tensors_in_regions_of_the_callers_own(client: Client, broker: FakeBroker) -> None:
    if broker.is_local:
        region: Any = MemfdRegion("mine", 4096)
    else:
        region = SystemRegion.create("mine", f"penstock-test-{os.getpid()}", 4096)
    with region:
        client.register(region)
        region.view("FP32", (1, 4))[:] = rows(1)
        wanted = {"y": region.tensor("FP32", (1, 4), 64)}
        result = client.infer("echo", {"x": region.tensor("FP32", (1, 4))}, wanted)
        assert np.array_equal(region.view("FP32", (1, 4), 64), rows(1) * 2)
        assert np.shares_memory(result.outputs["y"], region.array)
        twin = region.attach("mine", region.key, 64) if region.kind == "system" else MemfdRegion("mine", 64)
        with twin, pytest.raises(CallerError, match="registered already"):
            client.register(twin)
        assert client.regions() == [{"name": "mine"}]
        client.unregister()
        assert client.regions() == []
    with pytest.raises(CallerError, match="either all inputs"):
        client.infer("echo", {"x": wanted["y"], "z": rows(1)})


def test_pooled_system_regions_have_no_name_once_registered(tmp_path: Path) -> None:
    mine = f"penstock-{os.getpid()}-"
    with FakeBroker(f"ipc://{tmp_path}/b.zmq") as broker, Client(broker.address) as client, filled(client, 0) as io:
        client.infer(io)
        assert not [name for name in os.listdir("/dev/shm") if name.startswith(mine)]
        assert broker.of(Register)[0].key.startswith(mine)


# --- threads --------------------------------------------------------------------------------------------------------------


def test_many_threads_share_a_client(client: Client) -> None:
    def work(number: int) -> bool:
        with filled(client, number * 1000.0, 2) as io:
            for turn in range(25):
                io.inputs["x"][:] = rows(2, number * 1000 + turn)
                if not np.array_equal(client.infer(io, timeout_s=20).outputs["y"], rows(2, number * 1000 + turn) * 2):
                    return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_answers_out_of_order_wake_those_concerned_and_the_lead_is_handed_on(client: Client, broker: FakeBroker) -> None:
    # Given three threads that wait, the first of which reads for all
    broker.hold = True
    slots = [filled(client, start) for start in (0, 100, 200)]
    calls = []
    for count, slot in enumerate(slots, 1):
        calls.append(call_in_thread(lambda slot=slot: client.infer(slot)))  # type: ignore[misc]
        broker.wait_held(count)
    # When the leader's own answer comes second
    broker.answer(1)
    assert calls[1].result(20).outputs["y"][0, 0] == 200
    broker.answer(0)
    assert calls[0].result(20).outputs["y"][0, 0] == 0
    # Then the last still gets its answer, by reading for itself
    assert not calls[2].done()
    broker.answer(2)
    assert calls[2].result(20).outputs["y"][0, 0] == 400


def test_several_answers_in_one_frame(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    submitted = client.submit_many([filled(client, start) for start in range(5)])
    broker.wait_held(5)
    broker.answer(4, 2, 0, 1, 3)
    assert [future.result(20).outputs["y"][0, 0] for future in submitted] == [0, 2, 4, 6, 8]


def test_one_waits_for_any_of_several_and_learns_when_it_was_read(client: Client, broker: FakeBroker) -> None:
    # Given three requests in flight
    broker.hold = True
    submitted = client.submit_many([filled(client, start) for start in range(3)])
    broker.wait_held(3)
    # When the last is answered
    began_ns = time.monotonic_ns()
    broker.answer(2)
    read_ns = submitted[0].wait_for_any(submitted)
    # Then the wait ends, whichever future was asked, and says when the answer was read; the others wait on
    assert began_ns < read_ns <= time.monotonic_ns()
    assert [future.answered for future in submitted] == [False, False, True]
    assert submitted[2].result().outputs["y"][0, 0] == 4
    # And what was answered before returns at once
    assert submitted[0].wait_for_any(submitted) == read_ns
    # And two that are answered in one frame come together
    broker.answer(1, 0)
    submitted[0].wait_for_any(submitted[:2])
    assert [future.answered for future in submitted] == [True, True, True]


def test_who_waits_for_any_hears_of_the_brokers_death(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    submitted = client.submit_many([filled(client, start) for start in range(2)])
    broker.wait_held(2)
    broker.die()
    submitted[0].wait_for_any(submitted)
    with pytest.raises(BrokerError, match="was lost"):
        submitted[1].result()


def test_submit_many_sends_all_or_none(client: Client, broker: FakeBroker) -> None:
    slots = [filled(client, start) for start in (0, 1)]
    slots[1].close()
    with pytest.raises(CallerError):
        client.submit_many(slots)
    client.infer(slots[0])
    assert len(broker.of(Infer)) == 1


# --- futures --------------------------------------------------------------------------------------------------------------


def test_callbacks_run_although_nobody_asks_for_the_result(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    heard: list[InferResult] = []
    event = threading.Event()
    future = client.submit(filled(client, 1))

    def callback(done: futures.Future[InferResult]) -> None:
        heard.append(done.result())
        event.set()

    future.add_done_callback(callback)
    broker.wait_held(1)
    assert not event.is_set()
    broker.answer(0)
    assert event.wait(20)
    assert heard[0].outputs["y"].tolist() == (rows(1, 1) * 2).tolist()
    late = threading.Event()
    future.add_done_callback(lambda _: late.set())
    assert late.is_set()


def test_a_callback_may_call_the_client_again(client: Client) -> None:
    answers: list[float] = []
    event = threading.Event()

    def callback(_: futures.Future[InferResult]) -> None:
        answers.append(float(client.infer("echo", {"x": rows(1, 7)}).outputs["y"][0, 0]))
        event.set()

    client.submit("echo", {"x": rows(1)}).add_done_callback(callback)
    assert event.wait(20)
    assert answers == [14.0]


def test_wait_and_as_completed_take_these_futures(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    submitted = [client.submit(filled(client, start)) for start in range(3)]
    broker.wait_held(3)
    order = futures.as_completed(submitted, timeout=20)
    broker.answer(1)
    assert next(order) is submitted[1]
    broker.answer(0)
    done = futures.wait(submitted, 20, futures.FIRST_COMPLETED).done
    assert submitted[1] in done
    broker.answer(2)
    assert futures.wait(submitted, 20).not_done == set()
    assert {id(future) for future in order} == {id(submitted[0]), id(submitted[2])}


def test_one_who_only_polls_done_is_not_left_waiting(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    future = client.submit(filled(client, 0))
    broker.wait_held(1)
    assert not future.done()
    broker.answer(0)
    never = threading.Event()
    for _ in range(20_000):
        if future.done():
            break
        never.wait(0.001)
    assert future.done()
    assert not future.running()
    assert not future.cancel()


def test_result_with_a_timeout_of_its_own_can_be_asked_again(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    future = client.submit(filled(client, 3))
    with pytest.raises(futures.TimeoutError):
        future.result(SHORT_S)
    with pytest.raises(futures.TimeoutError):
        future.exception(0)
    broker.wait_held(1)
    broker.answer(0)
    assert future.exception(20) is None
    assert future.result().outputs["y"][0, 0] == 6


def test_a_caller_takes_the_lead_from_the_reader_of_last_resort(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    watched, mine = client.submit(filled(client, 0)), client.submit(filled(client, 1))
    heard = threading.Event()
    watched.add_done_callback(lambda _: heard.set())
    broker.wait_held(2)
    call = call_in_thread(lambda: mine.result(20))
    broker.answer(1)
    assert call.result(20).outputs["y"][0, 0] == 2
    broker.answer(0)
    assert heard.wait(20)


# --- errors, cancel, timeout ----------------------------------------------------------------------------------------------


def test_errors_come_as_the_brokers_own_kind(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    future = client.submit(filled(client, 0))
    broker.wait_held(1)
    broker.fail()
    with pytest.raises(ModelError, match="as the test wanted"):
        future.result(20)
    assert isinstance(future.exception(), ModelError)


def test_cancel_answers_at_once_and_the_slot_waits_for_its_release(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    io = filled(client, 0)
    future = client.submit(io)
    broker.wait_held(1)
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    with pytest.raises(futures.CancelledError):
        future.result()
    broker.wait_for(lambda: len(broker.of(Cancel)) == 1)
    # When the broker answers that the memory is still in use
    broker.fail("CANCELLED", released=False)
    settle(client)
    with pytest.raises(CallerError, match="not released"):
        client.submit(io)
    # And then that it is free
    broker.release()
    settle(client)
    second = client.submit(io)
    broker.wait_held(2)
    broker.answer(1)
    assert second.result(20).outputs["y"].tolist() == (rows(1) * 2).tolist()


def test_a_result_that_comes_after_cancel_only_frees_the_slot(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    io = filled(client, 0)
    future = client.submit(io)
    broker.wait_held(1)
    future.cancel()
    broker.answer(0)
    settle(client)
    again = client.submit(io)
    with pytest.raises(futures.CancelledError):
        future.result()
    broker.wait_held(2)
    broker.answer(1)
    again.result(20)


def test_cancelling_wakes_the_thread_that_waits(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    future = client.submit(filled(client, 0))
    waiting = call_in_thread(future.result)
    broker.wait_held(1)
    future.cancel()
    assert isinstance(waiting.exception(20), futures.CancelledError)


def test_the_brokers_deadline_answer_quarantines(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    with filled(client, 0) as io:
        call = call_in_thread(lambda: client.infer(io, timeout_s=10))
        broker.wait_held(1)
        assert broker.held[0][1].deadline_us == 10_000_000
        broker.send(lambda message: Failed("DEADLINE_EXCEEDED", "too late", "caller", message.id, released=False))
        assert isinstance(call.exception(20), CallerError)
        assert io.in_flight
    broker.hold = False
    # The memory of the slot that was given back meanwhile is not leased again before its release
    others = [client.buffers("echo", 1) for _ in range(70)]
    assert not any(np.shares_memory(io.inputs["x"], other.inputs["x"]) for other in others)
    for other in others:
        other.close()
    broker.release()
    settle(client)
    client.infer(client.buffers("echo", 2))
    others = [client.buffers("echo", 1) for _ in range(64 * 3)]
    assert any(np.shares_memory(io.inputs["x"], other.inputs["x"]) for other in others)


def test_a_broker_that_says_nothing_cannot_hang_a_call(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    io = filled(client, 0)
    with pytest.raises(BrokerError, match="no answer within the timeout") as caught:
        client.infer(io, timeout_s=SHORT_S)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    broker.wait_for(lambda: len(broker.of(Cancel)) == 1)
    with pytest.raises(CallerError, match="not released"):
        client.infer(io)


def test_deadlines_hold_for_followers_and_for_watched_futures(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    slots = [filled(client, 0), filled(client, 0)]
    leader = call_in_thread(lambda: client.infer(slots[0]))
    broker.wait_held(1)
    follower = call_in_thread(lambda: client.infer(slots[1], timeout_s=SHORT_S))
    watched = client.submit(filled(client, 0), timeout_s=SHORT_S)
    heard = threading.Event()
    assert isinstance(follower.exception(20), BrokerError)
    broker.wait_held(3)
    broker.answer(0)
    leader.result(20)
    watched.add_done_callback(lambda _: heard.set())
    assert heard.wait(20)
    assert isinstance(watched.exception(), BrokerError)


def test_timeouts_must_be_positive(client: Client) -> None:
    with filled(client, 0) as io:
        with pytest.raises(CallerError, match="above 0"):
            client.infer(io, timeout_s=0)
        client.infer(io)


# --- the broker goes away, or mad -----------------------------------------------------------------------------------------


def test_calls_in_flight_end_when_the_broker_dies_and_the_next_one_finds_the_new_broker(address: str) -> None:
    with Client(address) as client:
        with FakeBroker(address) as first:
            idle, busy = filled(client, 1), filled(client, 2)
            client.infer(idle)
            kept = idle.inputs["x"]
            first.hold = True
            calls = [call_in_thread(lambda: client.infer(busy)), call_in_thread(lambda: client.infer("echo", {"x": rows(1)}))]
            first.wait_held(2)
            first.die()
        for call in calls:
            error = call.exception(20)
            assert isinstance(error, BrokerError)
            assert error.code is Code.UNAVAILABLE
            assert "may or may not have run" in error.message
        with FakeBroker(address, b"second") as second:
            # Then slots of before go on working, and arrays that the program kept
            kept[:] = rows(1, 50)
            assert client.infer(idle).outputs["y"].tolist() == (rows(1, 50) * 2).tolist()
            assert idle.outputs["y"].tolist() == (rows(1, 50) * 2).tolist()
            assert client.infer(busy).outputs["y"].tolist() == (rows(1, 2) * 2).tolist()
            kept[:] = rows(1, 60)
            assert client.infer(idle).outputs["y"].tolist() == (rows(1, 60) * 2).tolist()
            assert len(second.of(Hello)) == 1
            assert first.of(Hello)[0].session != second.of(Hello)[0].session
        client.check_invariants()


def test_after_a_lost_connection_to_the_same_broker_lost_slots_are_not_written_again(address: str) -> None:
    with Client(address) as client, FakeBroker(address) as broker:
        broker.hold = True
        io = filled(client, 1)
        future = client.submit(io)
        broker.wait_held(1)
        held_by_broker = broker.held[0][1]
        broker.order(lambda: broker._forget(broker.peers[0]) if broker.is_local else None)
        if not broker.is_local:
            broker.send(lambda _: Failed("INTERNAL", "garbled", "broker"))  # over ZeroMQ a broker cannot hang up on one
        assert isinstance(future.exception(20), BrokerError)
        broker.hold = False
        assert client.infer(io).outputs["y"].tolist() == (rows(1, 1) * 2).tolist()
        latest = broker.of(Infer)[-1]
        assert bytes(latest.inputs) != bytes(held_by_broker.inputs)


def test_regions_of_the_user_are_registered_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a client that looks before each call (it trusts a broker heard of 10 ms ago, and this one is replaced faster)
    monkeypatch.setattr("penstock.clients.leading.FRESH_NS", -1)
    with Client(address) as client:
        local = address.startswith("unix")
        region: Any = MemfdRegion("mine", 64) if local else SystemRegion.create("mine", f"penstock-again-{os.getpid()}", 64)
        with region:
            with FakeBroker(address):
                client.register(region)
            with FakeBroker(address, b"second") as second:
                assert client.regions() == [{"name": "mine"}]
                assert [message.name for message in second.of(Register)] == ["mine"]
                client.unregister("mine")
                assert second.of(Unregister)


def test_watched_futures_hear_of_the_brokers_death(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    future = client.submit(filled(client, 0))
    heard = threading.Event()
    future.add_done_callback(lambda _: heard.set())
    broker.wait_held(1)
    broker.die()
    assert heard.wait(20)
    assert isinstance(future.exception(), BrokerError)


def test_no_broker_is_an_error_that_names_the_address(address: str) -> None:
    with (
        pytest.raises(BrokerError, match="no broker at|did not answer") as caught,
        Client(address, connect_timeout_s=SHORT_S) as client,
    ):
        client.infer("echo", {"x": rows(1)})
    assert caught.value.code is Code.UNAVAILABLE
    assert address.split("://")[1] in caught.value.message


OUTPUT = {"name": "y", "datatype": "FP32", "shape": [99]}
GARBAGE: dict[str, Callable[[Infer], Any]] = {
    "an unreadable answer": lambda message: Result(message.id, encode({"no": "array"})),  # type: ignore[arg-type]
    "a region never seen": lambda message: Result(message.id, encode([{**OUTPUT, "region": "?"}])),  # type: ignore[arg-type]
    "a part that did not come": lambda message: Result(message.id, encode([]), parts=3),  # type: ignore[arg-type]
    "a descriptor that did not come": lambda message: Result(message.id, encode([]), fds=1),  # type: ignore[arg-type]
    "a shape that does not fit": lambda message: Result(message.id, encode([OUTPUT]), parts=0),  # type: ignore[arg-type]
    "an error without address": lambda _: Failed("INVALID_ARG", "what?", "caller"),
    "no message to a client": lambda message: Cancel(message.id),
    "no message to a client, no id": lambda _: Ping(),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_from_the_broker_is_a_definite_error(client: Client, broker: FakeBroker, kind: str) -> None:
    broker.hold = True
    io = filled(client, 0)
    future = client.submit(io)
    broker.wait_held(1)
    make = GARBAGE[kind]
    broker.send(lambda message: _raw(make(message)))
    with pytest.raises(PenstockError):
        future.result(20)
    broker.hold = False
    assert client.infer("echo", {"x": rows(1)}).outputs["y"].tolist() == (rows(1) * 2).tolist()


def _raw(message: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(message, outputs=msgspec.Raw(message.outputs)) if isinstance(message, Result) else message


def test_strays_are_counted_and_change_nothing(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    future = client.submit(filled(client, 0))
    broker.wait_held(1)
    broker.send(lambda message: Released(message.id))  # it has not been answered
    broker.send(lambda message: Released(message.id + 1000))
    broker.send(lambda message: Failed("INTERNAL", "for nobody", "model", message.id + 1000))
    broker.answer(0)
    future.result(20)
    assert "3 strays" in repr(client)


# --- the end --------------------------------------------------------------------------------------------------------------


def test_close_ends_what_is_in_flight_and_says_goodbye(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    io = filled(client, 0)
    calls = [call_in_thread(lambda: client.infer(io)), call_in_thread(lambda: client.infer("echo", {"x": rows(1)}))]
    broker.wait_held(2)
    view = io.inputs["x"]
    client.close()
    client.close()
    for call in calls:
        error = call.exception(20)
        assert isinstance(error, CallerError)
        assert error.code is Code.CANCELLED
    broker.wait_for(lambda: len(broker.of(Goodbye)) == 1)
    view[:] = 1  # the memory of a view that is held stays
    with pytest.raises(CallerError, match="closed"):
        client.index()


def test_a_forked_child_gets_an_error_and_leaves_the_parent_alone(client: Client, broker: FakeBroker) -> None:
    broker.hold = True
    io = filled(client, 0)
    future = client.submit(io)
    broker.wait_held(1)
    pid = _fork()
    if pid == 0:
        _child(client, future, io)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    broker.answer(0)
    assert future.result(20).outputs["y"].tolist() == (rows(1) * 2).tolist()
    assert not broker.of(Goodbye)


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of what this test is about
        return os.fork()


def _child(client: Client, future: Any, io: Slot) -> None:
    refused = 0
    one_liner = lambda: client.infer("echo", {"x": rows(1)})  # noqa: E731
    for call in (one_liner, lambda: client.infer(io), future.result, client.index, future.cancel):
        try:
            call()
        except CallerError as error:
            refused += "before a fork" in error.message
    client.close()
    os._exit(0 if refused == 5 else 1)


def test_the_lease_of_a_tcp_session_is_kept() -> None:
    with FakeBroker("tcp://127.0.0.1:0") as broker:
        broker.lease_s = 0.03
        with Client(broker.address) as client:
            client.connect()
            broker.wait_for(lambda: len(broker.of(Ping)) >= 3)
