# SPDX-License-Identifier: Apache-2.0
"""Inference over HTTP: reads a request, has it executed, writes the response."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

from ....ipc.errors import CallerError, PenstockError
from ..documents import version_of
from ..forwarding import NOTHING, HeaderForwarding
from ..parts import Parts
from ..unknown_models import as_triton, check_model_name
from .compression import deflated, wanted_coding
from .exchange import Call, Response
from .infer_request import LENGTH_HEADER, Asked, asked, header_size
from .infer_response import response_of
from .raw_request import raw_request

SHORT_BYTES = 2048
"""A document of no more bytes is remembered, with what it asks: whose tensors are in regions sends the same again and again."""
MOST_REMEMBERED = 256
LONG_BYTES = 256 * 1024
"""What takes long to compress is compressed by another thread."""


class HttpInference:
    """Answers POST .../infer."""

    def __init__(self, parts: Parts) -> None:
        self._link = parts.link
        self._inference = parts.inference
        self._remembered = lru_cache(MOST_REMEMBERED)(_asked_alone)
        self._forwarding = HeaderForwarding(parts.settings.http_header_forward_pattern, "--http-header-forward-pattern")

    def __repr__(self) -> str:
        return f"<HttpInference by {self._inference!r}>"

    async def infer(self, call: Call, model: str, version: str | None) -> Response:
        """One request."""
        found = await self._asked(call, model, version_of(version))
        answer = await self._inference.infer(found.request, call.caller)
        response = response_of(answer, found.form)
        coding = wanted_coding(call.headers.get("Accept-Encoding"))
        return response if coding is None else await _compressed(response, coding)

    async def _asked(self, call: Call, model: str, version: int) -> Asked:
        body = call.body
        forwarded = self._forwarding.parameters(call.headers.items())
        size = header_size(call.headers.get(LENGTH_HEADER), len(body))
        if size == 0:
            return raw_request(body, await self._metadata(model, version), model, version, forwarded)
        try:
            if len(body) <= SHORT_BYTES and not forwarded and size in (None, len(body)):
                return self._remembered(body, size is not None, model, version)
            if size is None:
                return asked(body, None, model, version, forwarded)
            return asked(body[:size], memoryview(body)[size:], model, version, forwarded)
        except CallerError:
            await self._metadata(model, version)  # Triton looks for the model before it reads the request
            raise

    async def _metadata(self, model: str, version: int) -> Any:
        check_model_name(model)
        try:
            return await self._link.query("metadata", model, version)
        except PenstockError as error:
            raise as_triton(error, model, version) from None


def _asked_alone(document: bytes, says_size: bool, model: str, version: int) -> Asked:
    """What a document asks that nothing follows: by nothing but what is given here, and nobody changes what comes of it."""
    return asked(document, memoryview(b"") if says_size else None, model, version, NOTHING)


async def _compressed(response: Response, coding: str) -> Response:
    if sum(map(len, response.body)) < LONG_BYTES:
        body = deflated(response.body, coding)
    else:
        body = await asyncio.get_running_loop().run_in_executor(None, deflated, response.body, coding)
    return Response(response.status, {**response.headers, "Content-Encoding": coding}, (body,))
