# SPDX-License-Identifier: Apache-2.0
"""The gateway's requests and their memory, against a broker that does as told: cancelled, lost, refused, and given back."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from fake_broker import FakeBroker

from penstock.ipc.errors import BrokerError, CallerError, MachineError
from penstock.ipc.messages import Cancel, Infer, OutputPlace, Register, Unregister
from penstock.runtime.gateway import memory
from penstock.runtime.gateway.callers import Caller
from penstock.runtime.gateway.inference import Inference
from penstock.runtime.gateway.link import BrokerLink
from penstock.runtime.gateway.requests import InferRequest, Input, InRegion, Output

T = TypeVar("T")
Story = Callable[[BrokerLink, Inference], Awaitable[T]]
NOBODY = Caller("test")


ROOT = Caller("test", lambda: 0)
MANY_BYTES = 1 << 40


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[FakeBroker]:
    with FakeBroker(f"unix://{tmp_path}/b.sock") as broker:
        yield broker


def told(address: str, story: Story[T], most_bytes: int = MANY_BYTES) -> T:
    """Tells a story on a loop of its own. In the end no memory is leased, and no task is left."""

    async def tell() -> T:
        link = BrokerLink(address, most_bytes)
        try:
            return await asyncio.wait_for(story(link, Inference(link)), 30)
        finally:
            link.memory.check_invariants()
            assert link.memory.leased == 0, link
            await link.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return asyncio.run(tell())


def request(start: float = 0.0, rows: int = 1) -> InferRequest:
    values = np.arange(start, start + 4 * rows, dtype=np.float32)
    return InferRequest("echo", -1, "7", [Input("x", "FP32", [rows, 4], values.tobytes())])


def doubled(answer: Any) -> list[float]:
    (output,) = answer.outputs
    values: list[float] = np.frombuffer(output.content, np.float32).tolist()
    return values


async def held(broker: FakeBroker, count: int) -> None:
    await asyncio.to_thread(broker.wait_held, count)


async def heard(broker: FakeBroker, kind: type, count: int = 1) -> None:
    await asyncio.to_thread(broker.wait_for, lambda: len(broker.of(kind)) == count)


async def settled(condition: Callable[[], bool]) -> None:
    """Lets the loop go on until something is so."""
    while not condition():
        await asyncio.sleep(0)


def test_tensors_go_through_memory_that_is_used_again(broker: FakeBroker) -> None:
    async def story(link: BrokerLink, inference: Inference) -> None:
        for start in (0, 100, 200):
            assert doubled(await inference.infer(request(start), NOBODY)) == [2 * (start + each) for each in range(4)]
            assert link.memory.leased == 0
        answers = await asyncio.gather(*(inference.infer(request(start), NOBODY) for start in range(50)))
        assert [doubled(answer)[0] for answer in answers] == [2.0 * start for start in range(50)]

    told(broker.address, story)
    assert len(broker.of(Register)) == 1  # several that grow it at once share the same growth
    # Once it is known how large the answers are, they come into that memory too
    first, second, third = (msgspec.msgpack.decode(message.outputs, type=list[OutputPlace]) for message in broker.of(Infer)[:3])
    assert first == []
    assert [(place.name, place.byte_size) for place in second] == [("", 64)]
    assert (second, broker.of(Infer)[1].inputs) == (third, broker.of(Infer)[2].inputs)  # the broker checks it once


def test_what_is_cancelled_while_it_executes_keeps_its_memory_until_no_worker_may_touch_it(broker: FakeBroker) -> None:
    broker.hold = True

    async def story(link: BrokerLink, inference: Inference) -> None:
        task = asyncio.create_task(inference.infer(request(), NOBODY))
        await held(broker, 1)
        # When its caller goes away
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await heard(broker, Cancel)
        # Then the slot stays leased while the broker says that a worker uses it
        broker.fail("CANCELLED", released=False)
        assert link.memory.leased == 1
        broker.release()
        await settled(lambda: link.memory.leased == 0)

    told(broker.address, story)


def test_what_is_cancelled_before_it_is_sent_leaves_nothing_leased(broker: FakeBroker) -> None:
    async def story(link: BrokerLink, inference: Inference) -> None:
        # Given requests that wait for the first memory, which is being registered
        tasks = [asyncio.create_task(inference.infer(request(start), NOBODY)) for start in range(3)]
        await asyncio.sleep(0)
        # When one of them is cancelled, whichever began it
        for task in tasks[:2]:
            task.cancel()
        # Then the others get that memory
        assert doubled(await tasks[2])[0] == 4.0
        assert [task.cancelled() for task in tasks] == [True, True, False]

    told(broker.address, story)
    assert len(broker.of(Infer)) == 1


def test_growth_that_fails_with_nobody_waiting_is_no_news_to_the_loop(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    complaints: list[dict[str, Any]] = []

    async def no_memory(_region: object, pooled: bool) -> None:
        await asyncio.sleep(0)
        raise MachineError("no memory")

    async def story(link: BrokerLink, inference: Inference) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        await link.connect()
        monkeypatch.setattr(link.session, "register", no_memory)
        task = asyncio.create_task(inference.infer(request(), NOBODY))
        await settled(lambda: link.memory._growth is not None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settled(lambda: link.memory._growth is None)

    told(broker.address, story)
    gc.collect()
    assert not complaints


def test_a_lost_broker_costs_what_is_in_flight_and_no_memory(broker: FakeBroker, tmp_path: Path) -> None:
    broker.hold = True

    async def story(link: BrokerLink, inference: Inference) -> None:
        task = asyncio.create_task(inference.infer(request(), NOBODY))
        await held(broker, 1)
        await asyncio.to_thread(broker.die)
        with pytest.raises(BrokerError, match="was lost"):
            await task
        # Then the slot is suspect for as long as that broker may live, and free with the next
        assert link.memory.leased == 0
        assert "1 suspect" in repr(link.memory)
        with FakeBroker(f"unix://{tmp_path}/b.sock", b"second"):
            assert doubled(await inference.infer(request(3), NOBODY))[0] == 6.0
            assert "0 suspect" in repr(link.memory)

    told(broker.address, story)


def test_memory_is_bounded_and_one_request_is_always_taken(broker: FakeBroker) -> None:
    broker.hold = True

    async def story(link: BrokerLink, inference: Inference) -> None:
        # Given a bound that one region reaches
        first = asyncio.create_task(inference.infer(request(), NOBODY))
        await held(broker, 1)
        # When another of them would be needed
        large = InferRequest("echo", -1, "", [Input("x", "FP32", [1 << 18, 4], bytes(1 << 22))])
        with pytest.raises(MachineError, match="holds 4194304 bytes of tensors for 1 requests in flight and may hold 4194304"):
            await inference.infer(large, NOBODY)
        broker.answer(0)
        await first
        # Then it is had as soon as nothing is in flight
        broker.hold = False
        assert len(doubled(await inference.infer(large, NOBODY))) == 1 << 20

    told(broker.address, story, most_bytes=1 << 22)


def test_memory_beyond_what_is_kept_is_given_back_when_it_is_unused(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "KEPT_BYTES", 1 << 22)
    monkeypatch.setattr(memory, "UNUSED_S", 0.0)

    async def story(link: BrokerLink, inference: Inference) -> None:
        large = InferRequest("echo", -1, "", [Input("x", "FP32", [1 << 19, 4], bytes(1 << 23))])
        await inference.infer(large, NOBODY)
        await heard(broker, Unregister)
        link.memory.check_invariants()
        # What is not more than that stays
        await inference.infer(request(), NOBODY)
        await inference.infer(request(), NOBODY)

    told(broker.address, story)
    assert [message.byte_size for message in broker.of(Register)] == [1 << 23, 1 << 22]
    assert len(broker.of(Unregister)) == 1


def test_sizes_of_the_past_are_not_remembered(broker: FakeBroker) -> None:
    async def story(link: BrokerLink, inference: Inference) -> None:
        for rows in range(1, 8000, 37):
            await inference.infer(request(rows=rows), NOBODY)
        assert repr(link.memory).count("blocks") == 1
        assert int(repr(link.memory).split(" blocks")[0].split()[-1]) < 40, link.memory

    told(broker.address, story)
    assert len(broker.of(Register)) == 1


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([-1, 4], "[request id: 7] All input dimensions should be specified for input 'x' for model 'echo', got [-1,4]"),
        (
            [2**63, 4],
            "input 'x' for model 'echo': no dimension is larger than 9223372036854775807, got [9223372036854775808,4]",
        ),
    ],
)
def test_dimensions_that_no_tensor_has_are_refused_before_anything_is_leased(
    broker: FakeBroker, shape: list[int], said: str
) -> None:
    async def story(_link: BrokerLink, inference: Inference) -> None:
        with pytest.raises(CallerError) as refused:
            await inference.infer(InferRequest("echo", -1, "7", [Input("x", "FP32", shape, bytes(16))]), NOBODY)
        assert refused.value.message == said

    told(broker.address, story)
    assert not broker.of(Infer)


LONG = "n" * 257
CUT = "n" * 256 + "..."
X = Input("x", "FP32", [1, 4], bytes(16))
BEYOND = {
    "unexpected inference output '' for model 'echo'": InferRequest("echo", -1, "7", [X], [Output("", InRegion("mine", 0, 64))]),
    f"unexpected inference input '{CUT}' for model 'echo'": InferRequest("echo", -1, "7", [X._replace(name=LONG)]),
    f"unexpected inference output '{CUT}' for model 'echo'": InferRequest("echo", -1, "7", [X], [Output(LONG)]),
    "model 'echo': at most 256 inputs per request, got 257": InferRequest("echo", -1, "7", [X] * 257),
    "model 'echo': at most 256 outputs per request, got 257": InferRequest("echo", -1, "7", [X], [Output("y")] * 257),
    "input 'x' for model 'echo': at most 32 dimensions are taken, got 33": InferRequest("echo", -1, "7", [X._replace(shape=[1] * 33)]),
    f"Unable to find shared memory region: '{CUT}'": InferRequest("echo", -1, "7", [X], [Output("y", InRegion(LONG, 0, 16))]),
    f"Request for unknown model: '{CUT}' is not found": InferRequest(LONG, -1, "7", [X]),
}  # fmt: skip


@pytest.mark.parametrize("said", BEYOND)
def test_what_no_message_carries_is_refused_in_words_that_its_caller_knows(broker: FakeBroker, said: str) -> None:
    async def story(_link: BrokerLink, inference: Inference) -> None:
        with pytest.raises(CallerError) as refused:
            await inference.infer(BEYOND[said], ROOT)
        assert refused.value.message == said

    told(broker.address, story)
    assert not broker.of(Infer)


def test_a_datatype_that_is_none_is_called_so(broker: FakeBroker) -> None:
    async def story(_link: BrokerLink, inference: Inference) -> None:
        await inference.infer(InferRequest("echo", -1, "", [X._replace(datatype="Q" * 100_000)]), NOBODY)

    told(broker.address, story)
    (asked,) = broker.of(Infer)
    assert [tensor["datatype"] for tensor in msgspec.msgpack.decode(asked.inputs)] == ["<invalid>"]
