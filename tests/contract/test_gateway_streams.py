# SPDX-License-Identifier: Apache-2.0
"""One stream of requests over gRPC, against a client that does as told: how much is held for it, and what its end leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from penstock.runtime.gateway.over_grpc import streams
from penstock.runtime.gateway.over_grpc.schema import LibraryError, pb
from penstock.runtime.gateway.over_grpc.streams import InferStream


class Client:
    """The context of a call. Answers are taken one by one, when the test says so."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.takes = asyncio.Semaphore(0)
        self.is_gone = False
        self.aborted: tuple[object, str] | None = None

    async def write(self, response: Any) -> None:
        if self.is_gone:
            raise LibraryError("nobody is there")
        await self.takes.acquire()
        self.taken.append(response)

    async def abort(self, code: object, details: str) -> None:
        self.aborted = code, details


class Asked:
    """Requests that are read one after the other, for ever where there is no `count`."""

    def __init__(self, byte_size: int, count: int | None = None) -> None:
        self.read = 0
        self._content = bytes(byte_size)
        self._count = count

    async def __aiter__(self) -> AsyncIterator[Any]:
        while self.read != self._count:
            self.read += 1
            for _ in range(3):  # what was read before goes on meanwhile
                await asyncio.sleep(0)
            yield pb.ModelInferRequest(id=str(self.read), raw_input_contents=[self._content])


def told(story: Callable[[], Awaitable[None]]) -> None:
    """Tells a story on a loop of its own. In the end no task is left."""

    async def tell() -> None:
        await asyncio.wait_for(story(), 30)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(tell())


async def settle() -> None:
    """Lets everything go on that can."""
    for _ in range(2000):
        await asyncio.sleep(0)


async def echo(request: Any) -> Any:
    return pb.ModelInferResponse(id=request.id, raw_output_contents=request.raw_input_contents)


async def large(request: Any) -> Any:
    return pb.ModelInferResponse(id=request.id, raw_output_contents=[bytes(1000)])


@pytest.mark.parametrize(
    ("answer", "byte_size", "most_bytes", "held"),
    [(echo, 4, 1 << 20, 8), (echo, 1000, 3500, 4), (large, 4, 3500, 4), (echo, 10_000, 3500, 1)],
    ids=["requests", "bytes", "bytes of answers", "one that is too large"],
)
def test_no_more_is_read_than_may_be_held_for_a_client_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch, answer: Any, byte_size: int, most_bytes: int, held: int
) -> None:
    monkeypatch.setattr(streams, "MOST_IN_FLIGHT", 8)
    monkeypatch.setattr(streams, "MOST_BYTES", most_bytes)
    slack = 3 if answer is large else 0  # how large an answer is, is known when it is there

    async def story() -> None:
        client, asked = Client(), Asked(byte_size)
        stream = InferStream(answer, client, is_strict=False)
        serving = asyncio.create_task(stream.serve(asked.__aiter__()))
        await settle()
        assert held <= asked.read <= held + slack, stream
        # When it takes one, then another is read
        before = asked.read
        client.takes.release()
        await settle()
        assert len(client.taken) == 1 and asked.read <= before + 1, stream
        for _ in range(50):
            client.takes.release()
        await settle()
        assert len(client.taken) == 51 and asked.read <= 51 + held + slack
        stream._held.check_invariants()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    told(story)


def test_all_that_was_asked_is_answered_in_order_and_nothing_is_held_in_the_end() -> None:
    async def story() -> None:
        client, asked = Client(), Asked(4, 20)
        stream = InferStream(echo, client, is_strict=False)
        for _ in range(20):
            client.takes.release()
        await stream.serve(asked.__aiter__())
        assert [response.infer_response.id for response in client.taken] == [str(each) for each in range(1, 21)]
        stream._held.check_invariants()
        assert "<Held 0 of" in repr(stream)

    told(story)


def test_a_client_that_goes_away_while_it_is_answered_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        client = Client()
        client.is_gone = True
        stream = InferStream(echo, client, is_strict=False)
        with pytest.raises(asyncio.CancelledError):
            await stream.serve(Asked(4).__aiter__())
        assert client.aborted is None

    with caplog.at_level(logging.INFO):
        told(story)
    assert not caplog.records
