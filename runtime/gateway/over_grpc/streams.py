# SPDX-License-Identifier: Apache-2.0
"""One ModelStreamInfer: its requests are executed side by side, and answered in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ....ipc.errors import BrokerError
from .calls import abort, meant
from .schema import UNREADABLE, LibraryError, pb

MOST_IN_FLIGHT = 256
MOST_BYTES = 64 * 1024 * 1024
"""What one stream holds, in requests and in bytes. The next request is read when its client has taken answers enough.

How large an answer is, is known when it is there: small requests for large ones are bounded by their number.
"""
SHUTTING_DOWN = "GRPC server is shutting down and has stopped accepting new requests."
FINAL = "triton_final_response"
NAME = "ModelStreamInfer"

Answer = Callable[[Any], Awaitable[Any]]
"""Makes the ModelInferResponse of a ModelInferRequest. Raises PenstockError."""


class Held:
    """What a stream holds: requests that are being executed, and answers that its client has not taken."""

    def __init__(self) -> None:
        self._count = 0
        self._byte_size = 0
        self._less = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Held {self._count} of {MOST_IN_FLIGHT}, {self._byte_size} of {MOST_BYTES} bytes>"

    def check_invariants(self) -> None:
        """Nothing has no bytes."""
        assert self._count >= 0 and self._byte_size >= 0 and (self._count or not self._byte_size), self

    def add(self, count: int, byte_size: int) -> None:
        """More, or less where they are below 0."""
        self._count += count
        self._byte_size += byte_size
        self._less.set()

    async def has_room(self) -> None:
        """Returns when another request may be read."""
        while self._count >= MOST_IN_FLIGHT or self._byte_size >= MOST_BYTES:
            self._less.clear()
            await self._less.wait()


class InferStream:
    """`is_strict`: the first error ends the stream with its status, instead of being told in a response."""

    def __init__(self, answer: Answer, context: Any, is_strict: bool) -> None:
        self._answer = answer
        self._context = context
        self._is_strict = is_strict
        self._held = Held()
        #: what answers each request that has not been answered, in the order of the requests; None: there are no more
        self._answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None
        self._is_leaving = False

    def __repr__(self) -> str:
        state = "leaving" if self._is_leaving else "reading" if self._reading and not self._reading.done() else "read"
        return f"<InferStream {state}, {self._held!r}>"

    async def serve(self, requests: AsyncIterator[Any]) -> None:
        """Answers until the client has no more requests, or is gone: what it has in flight is cancelled then."""
        self._reading = asyncio.create_task(self._read(requests))
        try:
            while (answering := await self._answers.get()) is not None:
                await self._send(await answering)
            if self._is_leaving:
                raise BrokerError(SHUTTING_DOWN)
            await self._reading  # which raises what reading has
        except Exception as error:
            await abort(self._context, error, NAME)
            raise
        finally:
            await self._end()

    def leave(self) -> None:
        """Takes no more requests; the stream ends when those that came are answered."""
        self._is_leaving = True
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                byte_size = 0 if request is UNREADABLE else request.ByteSize()
                self._held.add(1, byte_size)
                self._answers.put_nowait(asyncio.create_task(self._response(request, byte_size)))
                del request  # while it waits for the next, or for room
                await self._held.has_room()
        finally:
            self._answers.put_nowait(None)

    async def _send(self, response: Any) -> None:
        try:
            await self._context.write(response)
        except LibraryError as error:  # the client is gone, which the library says only to who writes
            raise asyncio.CancelledError from error
        self._held.add(-1, -response.ByteSize())

    async def _response(self, request: Any, byte_size: int) -> Any:
        response = await self._answered(request)
        self._held.add(0, response.ByteSize() - byte_size)
        return response

    async def _answered(self, request: Any) -> Any:
        try:
            answer = await self._answer(request)
        except Exception as error:
            if self._is_strict:
                raise
            said = meant(error, NAME)
            request_id = "" if request is UNREADABLE else request.id
            return pb.ModelStreamInferResponse(
                error_message=said.message, infer_response=pb.ModelInferResponse(id=request_id)
            )  # fmt: skip
        answer.parameters[FINAL].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=answer)

    async def _end(self) -> None:
        assert self._reading is not None
        left = [self._reading]
        while not self._answers.empty():
            answering = self._answers.get_nowait()
            if answering is not None:
                left.append(answering)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
