# SPDX-License-Identifier: Apache-2.0
"""Triton's shared memory extensions over HTTP."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from ....ipc.errors import invalid
from ..parts import Parts
from ..shared_memory import HANDLE_BYTES, Kind
from .exchange import Call, Response, of_json
from .fields import member, parse, text, unsigned
from .routes import Routes

STATUS_FIELDS = {"system": ("name", "key", "offset", "byte_size"), "cuda": ("name", "device_id", "byte_size")}


def add_routes(routes: Routes, parts: Parts) -> None:
    """Adds what is answered here."""
    kinds: tuple[Kind, ...] = ("system", "cuda")
    for kind in kinds:
        answers = _Regions(parts, kind)
        base = f"/v2/{kind}sharedmemory(?:/region/(?P<name>[^/]+))?"
        routes.add("GET", f"{base}/status", answers.status)
        routes.add("POST", f"{base}/unregister", answers.unregister)
        routes.add("POST", f"{base}/register", answers.register_system if kind == "system" else answers.register_cuda)


class _Regions:
    def __init__(self, parts: Parts, kind: Kind) -> None:
        self._memory = parts.shared_memory
        self._kind: Kind = kind

    async def register_system(self, call: Call, name: str | None) -> Response:
        document = self._document(call, name, "key", "byte_size")
        key, byte_size = text(document["key"]), unsigned(document["byte_size"])
        await self._memory.register_system(call.caller, name or "", key, unsigned(document.get("offset", 0)), byte_size)
        return Response()

    async def register_cuda(self, call: Call, name: str | None) -> Response:
        document = self._document(call, name, "raw_handle")
        handle = _handle(text(member(document["raw_handle"], "b64")))
        device_id, byte_size = (unsigned(member(document, field)) for field in ("device_id", "byte_size"))
        await self._memory.register_cuda(call.caller, name or "", handle, device_id, byte_size)
        return Response()

    async def unregister(self, call: Call, name: str | None) -> Response:
        await self._memory.unregister(call.caller, self._kind, name or "")
        return Response()

    async def status(self, call: Call, name: str | None) -> Response:
        rows = await self._memory.status(call.caller, self._kind, name or "")
        return of_json([{field: row[field] for field in STATUS_FIELDS[self._kind]} for row in rows])

    def _document(self, call: Call, name: str | None, *required: str) -> dict[str, Any]:
        self._memory.check_allowed()
        self._memory.check_name(name or "", self._kind)
        document = parse(call.body)
        for field in required:
            if field not in document:
                raise invalid(f"Shared memory register request has no '{field}' field")
        return document


def _handle(encoded: str) -> bytes:
    """The handle in a "b64". Raises CallerError where it is none."""
    try:
        handle = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        handle = b""
    if len(handle) != HANDLE_BYTES:
        raise invalid("'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t")
    return handle
