# SPDX-License-Identifier: Apache-2.0
"""The client on an event loop against a broker that does as told: the same stories over the local link and over ZeroMQ."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import threading
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from fake_broker import FakeBroker

from penstock.clients import (
    AsyncClient,
    BrokerError,
    CallerError,
    Client,
    Code,
    MemfdRegion,
    ModelError,
    Slot,
    SystemRegion,
)
from penstock.clients.links import open_link
from penstock.ipc.codec import MAX_FRAME_BYTES
from penstock.ipc.messages import Cancel, Failed, Goodbye, Hello, Infer, Ping, Query, Register, Unregister

SHORT_S = 0.02
T = TypeVar("T")
Story = Callable[[AsyncClient], Awaitable[T]]


def run(address: str, story: Story[T], **options: Any) -> T:
    """Tells a story on a loop of its own. No task may be left in the end, nor anything that the loop complains of."""

    async def tell() -> T:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with AsyncClient(address, **options) as client:
            try:
                told = await asyncio.wait_for(story(client), 30)
            finally:
                client.check_invariants()
        client.check_invariants()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not complaints
        return told

    return asyncio.run(tell())


def rows(count: int, start: float = 0.0) -> np.ndarray[Any, Any]:
    return np.arange(start, start + 4 * count, dtype=np.float32).reshape(count, 4)


async def filled(client: AsyncClient, start: float, batch: int = 1) -> Slot:
    slot = await client.buffers("echo", batch)
    slot.inputs["x"][:] = rows(batch, start)
    return slot


async def held(broker: FakeBroker, count: int) -> None:
    """Waits until the broker holds that many requests; the loop goes on meanwhile."""
    await asyncio.to_thread(broker.wait_held, count)


async def heard(broker: FakeBroker, kind: type, count: int = 1) -> None:
    await asyncio.to_thread(broker.wait_for, lambda: len(broker.of(kind)) == count)


# --- requests -------------------------------------------------------------------------------------------------------------


def test_it_has_every_method_of_the_client_with_the_same_arguments() -> None:
    futures_only = {"submit", "submit_many"}  # tasks are what a loop has instead
    public = {name for name in vars(Client) if not name.startswith("_")} - futures_only
    assert public == {name for name in vars(AsyncClient) if not name.startswith("_")}
    for name in sorted(public - {"max_in_flight"}):  # a property cannot be awaited
        ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (AsyncClient, Client))
        assert ours == theirs, name
        assert name in ("buffers", "check_invariants") or inspect.iscoroutinefunction(getattr(AsyncClient, name)), name


def test_a_slot_carries_inputs_and_outputs_in_place(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        async with client.buffers("echo", batch=3) as io:
            for start in (0, 100):
                io.inputs["x"][:] = rows(3, start)
                result = await client.infer(io, timeout_s=20)
                assert np.array_equal(result.outputs["y"], rows(3, start) * 2)
                assert np.shares_memory(result.outputs["y"], io.outputs["y"])
        with pytest.raises(CallerError, match="closed"):
            await client.infer(io)

    run(broker.address, story)


@pytest.mark.parametrize("kind", ["local", "zmq", "tcp"])
def test_the_one_liner_works_over_every_link(kind: str, tmp_path: Path) -> None:
    addresses = {"local": f"unix://{tmp_path}/b.sock", "zmq": f"ipc://{tmp_path}/b.zmq", "tcp": "tcp://127.0.0.1:0"}

    async def story(client: AsyncClient) -> None:
        results = await asyncio.gather(*(client.infer("echo", {"x": rows(2, start)}) for start in range(100)))
        for start, result in enumerate(results):
            assert np.array_equal(result.outputs["y"], rows(2, start) * 2)
        text = await client.infer("text", {"s": ["a", "bcd"]})
        assert text.outputs["t"].tolist() == [b"aa", b"bcdbcd"]
        async with client.buffers("echo", 1) as io:
            io.inputs["x"][:] = rows(1)
            assert (await client.infer(io)).outputs["y"].tolist() == (rows(1) * 2).tolist()

    with FakeBroker(addresses[kind]) as broker:
        run(broker.address, story)
        assert len(broker.of(Hello)) == 1  # however many tasks needed the connection
        assert len(broker.of(Register)) == (0 if kind == "tcp" else 1)


def test_no_thread_works_for_a_request(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        await client.connect()
        before = set(threading.enumerate())
        await asyncio.gather(*(client.infer("echo", {"x": rows(1)}, timeout_s=20) for _ in range(50)))
        assert set(threading.enumerate()) == before

    run(broker.address, story)


def test_requests_of_tasks_that_run_together_share_a_frame(broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(client: AsyncClient) -> None:
        slots = [await filled(client, start) for start in range(20)]
        flushes = 0
        link = client._session.sync.connection._link  # type: ignore[union-attr]

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(link, name)

            def flush(self) -> bool:
                nonlocal flushes
                flushes += 1
                return link.flush()

        monkeypatch.setattr(client._session.sync.connection._outbox, "_link", Counting())  # type: ignore[union-attr]
        results = await asyncio.gather(*map(client.infer, slots))
        assert [result.outputs["y"][0, 0] for result in results] == [2 * start for start in range(20)]
        assert flushes == 1

    run(broker.address, story)


def test_answers_come_in_any_order_and_the_loop_goes_on_meanwhile(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        broker.hold = True
        calls = [asyncio.create_task(client.infer(await filled(client, start))) for start in range(5)]
        await held(broker, 5)
        assert not any(call.done() for call in calls)
        broker.answer(4, 2, 0, 1, 3)
        results = await asyncio.gather(*calls)
        assert [result.outputs["y"][0, 0] for result in results] == [0, 2, 4, 6, 8]

    run(broker.address, story)


def test_documents_and_models_are_asked_for(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        info = await client.model("echo")
        assert (info.max_batch_size, info.inputs[0].dims) == (8, (4,))
        assert (await client.metadata("echo"))["name"] == "echo"
        assert await client.regions() == []
        assert await client.max_in_flight() == 256
        assert not await client.is_ready("nothing")
        with pytest.raises(CallerError, match="no metadata of 'other'") as caught:
            await client.infer("other", {"z": rows(1)})
        assert caught.value.code is Code.NOT_FOUND
        with pytest.raises(CallerError, match="inputs are missing"):
            await client.infer("echo")
        with pytest.raises(CallerError, match="a slot has its own inputs"):
            await client.infer(await filled(client, 0), {"x": rows(1)})

    run(broker.address, story)


def test_tensors_in_regions_of_the_callers_own(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        local, key = broker.is_local, f"penstock-async-{os.getpid()}"
        with MemfdRegion("mine", 4096) if local else SystemRegion.create("mine", key, 4096) as region:
            await client.register(region)
            region.view("FP32", (1, 4))[:] = rows(1)
            wanted = {"y": region.tensor("FP32", (1, 4), 64)}
            result = await client.infer("echo", {"x": region.tensor("FP32", (1, 4))}, wanted)
            assert np.array_equal(region.view("FP32", (1, 4), 64), rows(1) * 2)
            assert np.shares_memory(result.outputs["y"], region.array)
            await client.unregister()
            assert await client.regions() == []

    run(broker.address, story)


def test_errors_come_as_the_brokers_own_kind(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        broker.hold = True
        call = asyncio.create_task(client.infer(await filled(client, 0)))
        await held(broker, 1)
        broker.fail()
        with pytest.raises(ModelError, match="as the test wanted"):
            await call

    run(broker.address, story)


def test_memory_is_free_when_an_error_or_a_cancel_is_over_without_the_garbage_collector(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        broker.hold = True
        gc.collect()
        gc.disable()
        try:
            for turn in range(160):  # half of them alone are more than the first block has slots
                call = asyncio.create_task(client.infer("echo", {"x": rows(1)}))
                await held(broker, turn + 1)
                if turn % 2:
                    call.cancel()
                    broker.answer(turn)
                else:
                    broker.fail(position=turn)
                await asyncio.wait([call])
                assert call.cancelled() or isinstance(call.exception(), ModelError)
                del call
                await client.regions()
            assert "1 blocks" in repr(client)
        finally:
            gc.enable()

    run(broker.address, story)


# --- cancel and timeout ---------------------------------------------------------------------------------------------------


def test_cancelling_the_task_cancels_the_request_and_the_slot_waits_for_its_release(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        broker.hold = True
        io = await filled(client, 0)
        call = asyncio.create_task(client.infer(io))
        await held(broker, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await heard(broker, Cancel)
        # When the broker answers that the memory is still in use
        broker.fail("CANCELLED", released=False)
        await client.regions()
        with pytest.raises(CallerError, match="not released"):
            await client.infer(io)
        # And then that it is free
        broker.release()
        await client.regions()
        again = asyncio.create_task(client.infer(io))
        await held(broker, 2)
        broker.answer(1)
        assert (await again).outputs["y"].tolist() == (rows(1) * 2).tolist()

    run(broker.address, story)


def test_memory_of_a_cancelled_one_liner_is_leased_again_only_after_its_release(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        broker.hold = True
        call = asyncio.create_task(client.infer("echo", {"x": rows(1)}))
        await held(broker, 1)
        call.cancel()
        await asyncio.wait([call])
        slots = [await client.buffers("echo", 1) for _ in range(64)]  # more than the block that it came from has left
        assert "1 abandoned" in repr(client)
        placements = {slot.placement for slot in slots}  # type: ignore[attr-defined]
        broker.answer(0)
        await client.regions()
        del call
        slots += [await client.buffers("echo", 1) for _ in range(64)]
        assert len({slot.placement for slot in slots} - placements) == 64  # type: ignore[attr-defined]

    run(broker.address, story)


def test_a_cancel_that_comes_with_the_answer_harms_nothing(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        io = await filled(client, 3)
        for _ in range(20):
            call = asyncio.create_task(client.infer(io))
            while not broker.of(Infer):
                await asyncio.sleep(0)
            for _ in range(3):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            await client.regions()
            assert not io.in_flight
        assert (await client.infer(io)).outputs["y"][0, 0] == 6

    run(broker.address, story)


def test_wait_for_cancels(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        broker.hold = True
        io = await filled(client, 0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.infer(io), SHORT_S)
        await heard(broker, Cancel)
        assert io.in_flight

    run(broker.address, story)


def test_deadlines_end_requests_that_a_broker_says_nothing_of(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        broker.hold = True
        # Given one request with a late deadline, and then others with earlier ones
        late = asyncio.create_task(client.infer(await filled(client, 0), timeout_s=20))
        await held(broker, 1)
        calls = [client.infer(await filled(client, 0), timeout_s=each) for each in (SHORT_S * 3, SHORT_S)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for error in outcomes:
            assert isinstance(error, BrokerError)
            assert error.code is Code.DEADLINE_EXCEEDED
            assert "no answer within the timeout" in error.message
        await heard(broker, Cancel, 2)
        broker.answer(0)
        await late
        with pytest.raises(CallerError, match="above 0"):
            await client.infer("echo", {"x": rows(1)}, timeout_s=0)
        broker.hold = False
        await client.infer("echo", {"x": rows(1)})

    run(broker.address, story)


def test_the_brokers_deadline_answer_quarantines(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        broker.hold = True
        io = await filled(client, 0)
        call = asyncio.create_task(client.infer(io, timeout_s=10))
        await held(broker, 1)
        broker.send(lambda message: Failed("DEADLINE_EXCEEDED", "too late", "caller", message.id, released=False))
        with pytest.raises(CallerError, match="too late"):
            await call
        assert io.in_flight

    run(broker.address, story)


# --- the broker goes away -------------------------------------------------------------------------------------------------


def test_calls_in_flight_end_when_the_broker_dies_and_the_next_one_finds_the_new_broker(address: str) -> None:
    async def story(client: AsyncClient) -> None:
        with FakeBroker(address) as first:
            idle, busy = await filled(client, 1), await filled(client, 2)
            await client.infer(idle)
            first.hold = True
            calls = [asyncio.create_task(each) for each in (client.infer(busy), client.infer("echo", {"x": rows(1)}))]
            await held(first, 2)
            first.die()
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, BrokerError)
                assert error.code is Code.UNAVAILABLE
                assert "may or may not have run" in error.message
        with FakeBroker(address, b"second") as second:
            idle.inputs["x"][:] = rows(1, 50)
            results = await asyncio.gather(client.infer(idle), client.infer(busy), client.infer("echo", {"x": rows(1, 7)}))
            assert [result.outputs["y"][0, 0] for result in results] == [100, 4, 14]
            assert idle.outputs["y"].tolist() == (rows(1, 50) * 2).tolist()
            assert len(second.of(Hello)) == 1

    run(address, story)


def test_the_loop_goes_on_while_a_broker_is_awaited(address: str) -> None:
    async def story(client: AsyncClient) -> None:
        call = asyncio.create_task(client.infer("echo", {"x": rows(1, 4)}))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not call.done()
        with FakeBroker(address):
            assert (await call).outputs["y"][0, 0] == 8

    run(address, story, connect_timeout_s=20)


def test_no_broker_is_an_error_that_names_the_address_for_each_task(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[Any] = []

    def counted(*arguments: Any) -> Any:
        attempts.append(arguments)
        return open_link(*arguments)

    monkeypatch.setattr("penstock.clients.session.open_link", counted)

    async def story(client: AsyncClient) -> None:
        calls = [client.infer("echo", {"x": rows(1)}) for _ in range(50)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert len({id(error) for error in errors}) == 50
        for error in errors:
            assert isinstance(error, BrokerError)
            assert error.code is Code.UNAVAILABLE
            assert address.split("://")[1] in error.message

    run(address, story, connect_timeout_s=SHORT_S)
    assert len(attempts) < 10  # all tasks waited for the same attempt, which tries a few times


def test_a_client_that_is_closed_does_not_go_on_connecting(address: str) -> None:
    async def story(client: AsyncClient) -> None:
        call = asyncio.create_task(client.connect())
        for _ in range(3):
            await asyncio.sleep(0)
        await client.close()
        with pytest.raises(CallerError, match="closed"):
            await call

    run(address, story, connect_timeout_s=1000)


def test_regions_of_the_user_are_registered_again(address: str) -> None:
    async def story(client: AsyncClient) -> None:
        local = address.startswith("unix")
        region: Any = MemfdRegion("mine", 64) if local else SystemRegion.create("mine", f"penstock-later-{os.getpid()}", 64)
        with region:
            with FakeBroker(address) as first:
                await client.register(region)
                first.die()
            while client._session.standing() is not None:
                await asyncio.sleep(0)
            with FakeBroker(address, b"second") as second:
                assert await client.regions() == [{"name": "mine"}]
                await client.unregister("mine")
                assert second.of(Unregister)

    run(address, story)


def test_a_full_socket_is_tried_again(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        slots = [await filled(client, start) for start in range(3)]
        outbox = client._session.sync.connection._outbox  # type: ignore[union-attr]
        link, refusals = outbox._link, 3

        class Full:
            def __getattr__(self, name: str) -> Any:
                return getattr(link, name)

            def flush(self) -> bool:
                nonlocal refusals
                refusals -= 1
                return False if refusals >= 0 else link.flush()

        outbox._link = Full()  # type: ignore[assignment]
        results = await asyncio.gather(*map(client.infer, slots))
        assert [result.outputs["y"][0, 0] for result in results] == [0, 2, 4]

    run(broker.address, story)


def test_a_message_that_is_too_large_costs_whoever_sends_it_and_nobody_else(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        broker.hold = True
        ios = [await filled(client, start) for start in range(2)]
        before = asyncio.create_task(client.infer(ios[0]))
        await asyncio.to_thread(broker.wait_held, 1)
        connection = client._session.sync.connection
        # When two such messages share a frame with another's
        asked = [
            asyncio.create_task(client._session.ask(lambda number: (Query(number, "m" * MAX_FRAME_BYTES), ())))
            for _ in range(2)
        ]
        beside = asyncio.create_task(client.infer(ios[1]))
        for each in asked:
            with pytest.raises(CallerError, match=f"a Query message exceeds the frame limit of {MAX_FRAME_BYTES} bytes"):
                await each
        # Then these are refused, and what was in flight and what comes beside them is served
        await asyncio.to_thread(broker.wait_held, 2)
        broker.answer(0, 1)
        assert [(await task).outputs["y"][0, 0] for task in (before, beside)] == [0, 2]
        assert client._session.sync.connection is connection

    run(broker.address, story)


# --- the end, and where it must not be used -------------------------------------------------------------------------------


def test_close_ends_what_is_in_flight_and_says_goodbye(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        broker.hold = True
        io = await filled(client, 0)
        calls = [asyncio.create_task(each) for each in (client.infer(io), client.infer("echo", {"x": rows(1)}))]
        await held(broker, 2)
        await client.close()
        await client.close()
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, CallerError)
            assert error.code is Code.CANCELLED
        await heard(broker, Goodbye)
        io.inputs["x"][:] = 1  # the memory of a view that is held stays
        with pytest.raises(CallerError, match="closed"):
            await client.index()

    run(broker.address, story)


def test_another_loop_or_thread_is_refused(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        io = await filled(client, 0)
        for call in (client.connect, client.index, client.close, lambda: client.infer(io), lambda: client.buffers("echo", 1)):

            async def elsewhere(call: Any = call) -> None:
                await call()

            with pytest.raises(CallerError, match="belongs to the event loop that used it first"):
                await asyncio.to_thread(asyncio.run, elsewhere())
        await client.infer(io)

    run(broker.address, story)


def test_what_a_loop_left_open_can_be_closed_in_the_next(broker: FakeBroker) -> None:
    client = AsyncClient(broker.address)
    asyncio.run(client.connect())
    with pytest.raises(CallerError, match="make one for each loop"):
        asyncio.run(client.connect())
    asyncio.run(client.close())
    client.check_invariants()


def test_a_forked_child_gets_an_error_and_leaves_the_parent_alone(broker: FakeBroker) -> None:
    async def story(client: AsyncClient) -> None:
        broker.hold = True
        io = await filled(client, 0)
        call = asyncio.create_task(client.infer(io))
        await held(broker, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of what this test is about
            pid = os.fork()
        if pid == 0:
            _child(client, io)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        broker.answer(0)
        assert (await call).outputs["y"].tolist() == (rows(1) * 2).tolist()
        assert not broker.of(Goodbye)

    run(broker.address, story)


def _child(client: AsyncClient, io: Slot) -> None:
    async def refused() -> int:
        count = 0
        for call in (lambda: client.infer("echo", {"x": rows(1)}), lambda: client.infer(io), client.index, client.connect):
            try:
                await call()
            except CallerError as error:
                count += "before a fork" in error.message
        await client.close()
        return count

    asyncio._set_running_loop(None)  # as the child of a program that forks outside its coroutines
    os._exit(0 if asyncio.run(refused()) == 4 else 1)


def test_the_lease_of_a_tcp_session_is_kept() -> None:
    async def story(client: AsyncClient) -> None:
        await client.connect()
        await asyncio.to_thread(broker.wait_for, lambda: len(broker.of(Ping)) >= 3)

    with FakeBroker("tcp://127.0.0.1:0") as broker:
        broker.lease_s = 0.03
        run(broker.address, story)
