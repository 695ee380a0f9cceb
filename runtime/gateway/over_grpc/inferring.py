# SPDX-License-Identifier: Apache-2.0
"""ModelInfer and ModelStreamInfer: from the call to the request, and from the answer to the response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ....ipc.errors import BrokerError, CallerError
from ....ipc.local_sockets import Address
from ..callers import Caller
from ..documents import version_of
from ..forwarding import HeaderForwarding
from ..parts import Parts
from ..tracing import Passage
from .calls import abort, answer_call, caller_of, check_readable, log
from .inference import NO_HEADERS, request_of, response_of
from .streams import NAME, SHUTTING_DOWN, InferStream

STRICT = "triton_grpc_error"
"""Metadata by which a client asks for a stream that ends with the status of its first error."""


class GrpcInference:
    """Belongs to the loop."""

    def __init__(self, parts: Parts) -> None:
        self._inference = parts.inference
        self._documents = parts.documents
        self._tracing = parts.tracing
        self._users = parts.users
        self._forwarding = HeaderForwarding(parts.settings.grpc_header_forward_pattern, "--grpc-header-forward-pattern")
        self._streams: set[InferStream] = set()
        self._is_leaving = False

    def __repr__(self) -> str:
        return f"<GrpcInference{' leaving' if self._is_leaving else ''}, {len(self._streams)} streams, by {self._inference!r}>"

    async def infer(self, message: Any, context: Any, listening: Address) -> Any:
        """One request."""

        async def answer() -> Any:
            return await self._answer(message, caller_of(context.peer(), listening, self._users), self._headers(context))

        return await answer_call(answer(), context, "ModelInfer", self._tracing)

    async def stream(self, messages: AsyncIterator[Any], context: Any, listening: Address) -> None:
        """A stream of requests."""
        caller = caller_of(context.peer(), listening, self._users)
        is_strict = (STRICT, "true") in context.invocation_metadata()
        log.debug("gRPC request: %s", NAME)
        try:
            headers = self._headers(context)
        except CallerError as error:
            await abort(context, error, NAME)
            raise
        stream = InferStream(lambda message: self._streamed(message, caller, headers), context, is_strict)
        self._streams.add(stream)
        try:
            await stream.serve(messages)
        except asyncio.CancelledError:
            log.debug("Cancellation notification received for %s", NAME)
            raise
        finally:
            self._streams.discard(stream)

    def leave(self) -> None:
        """Takes no more requests, and has streams end with those that they have."""
        self._is_leaving = True
        for stream in self._streams:
            stream.leave()

    def _headers(self, context: Any) -> Mapping[str, str]:
        if not self._forwarding.is_wanted:
            return NO_HEADERS
        return self._forwarding.parameters(
            (name, value) for name, value in context.invocation_metadata() if isinstance(value, str)
        )  # fmt: skip

    async def _streamed(self, message: Any, caller: Caller, headers: Mapping[str, str]) -> Any:
        """The answer to one of a stream's requests, which may be traced by itself: it is sent when its turn has come."""
        if not self._tracing.on:
            return await self._answer(message, caller, headers)
        passage = Passage("GRPC")
        try:
            with self._tracing.follow(passage):
                return await self._answer(message, caller, headers)
        finally:
            passage.answers()
            passage.sent()
            self._tracing.done(passage)

    async def _answer(self, message: Any, caller: Caller, headers: Mapping[str, str]) -> Any:
        check_readable(message)
        if self._is_leaving:
            raise BrokerError(SHUTTING_DOWN)
        try:
            request = request_of(message, headers)
        except CallerError:  # Triton looks for the model before it reads the request
            await self._documents.metadata(message.model_name, version_of(message.model_version))
            raise
        return response_of(await self._inference.infer(request, caller))
