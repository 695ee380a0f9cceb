# SPDX-License-Identifier: Apache-2.0
"""One ModelStreamInfer: its requests are executed side by side, and answered in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ....ipc.errors import BrokerError
from .calls import abort, meant
from .schema import UNREADABLE, pb

MOST_IN_FLIGHT = 256
"""Requests of one stream. The next one is read when the first has been answered, and the client has taken its answer."""
SHUTTING_DOWN = "GRPC server is shutting down and has stopped accepting new requests."
FINAL = "triton_final_response"
NAME = "ModelStreamInfer"

Answer = Callable[[Any], Awaitable[Any]]
"""Makes the ModelInferResponse of a ModelInferRequest. Raises PenstockError."""


class InferStream:
    """`is_strict`: the first error ends the stream with its status, instead of being told in a response."""

    def __init__(self, answer: Answer, context: Any, is_strict: bool) -> None:
        self._answer = answer
        self._context = context
        self._is_strict = is_strict
        self._room = asyncio.Semaphore(MOST_IN_FLIGHT)
        #: what answers each request that has not been answered, in the order of the requests; None: there are no more
        self._answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None
        self._is_leaving = False

    def __repr__(self) -> str:
        state = "leaving" if self._is_leaving else "reading" if self._reading and not self._reading.done() else "read"
        return f"<InferStream {state}, {self._answers.qsize()} in flight>"

    async def serve(self, requests: AsyncIterator[Any]) -> None:
        """Answers until the client has no more requests, or is gone: what it has in flight is cancelled then."""
        self._reading = asyncio.create_task(self._read(requests))
        try:
            while (answering := await self._answers.get()) is not None:
                await self._context.write(await answering)
                self._room.release()
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
                self._answers.put_nowait(asyncio.create_task(self._response(request)))
                await self._room.acquire()
        finally:
            self._answers.put_nowait(None)

    async def _response(self, request: Any) -> Any:
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
