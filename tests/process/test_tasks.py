# SPDX-License-Identifier: Apache-2.0
"""AsyncClient against real brokers and workers: many tasks on one loop, cancelling, deadlines, and a broker that is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from running import START_S, Barrier, RunningBroker, add_model, answer, rows

from penstock.clients import AsyncClient, BrokerError, CallerError, Code, ModelError

T = TypeVar("T")


def run(address: str, story: Callable[[AsyncClient], Awaitable[T]], **options: Any) -> T:
    """Tells a story on a loop of its own, which has no task left in the end."""

    async def tell() -> T:
        async with AsyncClient(address, **options) as client:
            try:
                return await asyncio.wait_for(story(client), 60)
            finally:
                client.check_invariants()
                assert asyncio.all_tasks() - {asyncio.current_task()} == set()

    return asyncio.run(tell())


async def settled(client: AsyncClient, released: Callable[[], bool]) -> None:
    """Goes round until the broker has said that the memory is free."""
    while not released():
        await client.status()


def test_a_thousand_requests_at_once_on_one_loop(tmp_path: Path, repository: Path, link: str) -> None:
    add_model(repository, "echo", max_batch_size=64, batching="dynamic_batching {}")
    with RunningBroker(tmp_path, repository) as broker:

        async def story(client: AsyncClient) -> None:
            for _ in range(3):
                results = await asyncio.gather(*(client.infer("echo", rows(number), timeout_s=30) for number in range(1000)))
                assert [answer(result) for result in results] == [[float(number)] for number in range(1000)]
            assert (await client.statistics("echo"))["model_stats"][0]["inference_stats"]["success"]["count"] == 3000

        run(broker.addresses[link], story)


def test_a_cancelled_task_cancels_its_request(tmp_path: Path, repository: Path, link: str) -> None:
    with Barrier(tmp_path / "barrier") as barrier:
        add_model(repository, "held", mode="barrier", max_batch_size=1, barrier_path=barrier.path)
        with RunningBroker(tmp_path, repository) as broker:

            async def story(client: AsyncClient) -> None:
                # Given a request that is executed, one that waits at the worker, and one that is queued behind them
                slots = [await client.buffers("held", 1) for _ in range(3)]
                calls = [asyncio.create_task(client.infer(slot)) for slot in slots]
                await asyncio.to_thread(barrier.entered)
                # When all three tasks are cancelled
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)
                assert all(call.cancelled() for call in calls)
                # Then the queued one's memory is free, and that of the first as soon as the worker has let go
                await settled(client, lambda: not slots[2].in_flight)
                assert slots[0].in_flight
                with pytest.raises(CallerError, match="not released"):
                    await client.infer(slots[0])
                barrier.open()
                await settled(client, lambda: not any(slot.in_flight for slot in slots))
                assert answer(await client.infer("held", rows(3))) == [3]

            run(broker.addresses[link], story)


def test_a_deadline_ends_the_call_and_not_the_client(tmp_path: Path, repository: Path, link: str) -> None:
    with Barrier(tmp_path / "barrier") as barrier:
        add_model(repository, "held", mode="barrier", max_batch_size=1, barrier_path=barrier.path)
        with RunningBroker(tmp_path, repository) as broker:

            async def story(client: AsyncClient) -> None:
                late = asyncio.create_task(client.infer("held", rows(1), timeout_s=0.05))
                batch = await asyncio.to_thread(barrier.entered)
                with pytest.raises(ModelError, match="the deadline passed at the model") as caught:
                    await late
                assert caught.value.code is Code.DEADLINE_EXCEEDED
                batch.let_go()
                call = asyncio.create_task(client.infer("held", rows(2), timeout_s=START_S))
                (await asyncio.to_thread(barrier.entered)).let_go()
                assert answer(await call) == [2]

            run(broker.addresses[link], story)


def test_a_broker_that_dies_ends_the_calls_and_the_next_broker_is_found(tmp_path: Path, repository: Path, link: str) -> None:
    with Barrier(tmp_path / "barrier") as barrier:
        add_model(repository, "held", mode="barrier", barrier_path=barrier.path)
        add_model(repository, "echo")
        with RunningBroker(tmp_path, repository) as broker:

            async def story(client: AsyncClient) -> None:
                slot = await client.buffers("echo", 1)
                slot.inputs["x"][:] = rows(5)["x"]
                assert answer(await client.infer(slot)) == [5]
                calls = [asyncio.create_task(client.infer("held", rows(number))) for number in range(4)]
                await asyncio.to_thread(barrier.entered)
                broker.kill()
                for error in await asyncio.gather(*calls, return_exceptions=True):
                    assert isinstance(error, BrokerError)
                    assert error.code is Code.UNAVAILABLE
                # When it comes back while tasks wait for it
                waiting = [asyncio.create_task(client.connect()) for _ in range(50)]
                await asyncio.to_thread(broker.start)
                await asyncio.gather(*waiting)
                again = [client.infer("echo", rows(number)) for number in range(50)]
                assert [answer(each) for each in await asyncio.gather(*again)] == [[float(number)] for number in range(50)]
                slot.inputs["x"][:] = rows(6)["x"]
                assert answer(await client.infer(slot)) == [6]
                assert np.array_equal(slot.outputs["y"], rows(6)["x"])

            run(broker.addresses[link], story, connect_timeout_s=START_S)
