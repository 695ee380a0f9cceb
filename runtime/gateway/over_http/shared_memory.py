# SPDX-License-Identifier: Apache-2.0
"""Triton's shared memory extensions over HTTP."""

from __future__ import annotations

import msgspec

from ....ipc.errors import invalid
from ..parts import Parts
from ..shared_memory import Kind
from .exchange import Call, Response, of_json
from .routes import Routes


def add_routes(routes: Routes, parts: Parts) -> None:
    """Adds what is answered here."""
    kinds: tuple[Kind, ...] = ("system", "cuda")
    for kind in kinds:
        answers = _Regions(parts, kind)
        base = f"/v2/{kind}sharedmemory"
        routes.add("GET", f"{base}(?:/region/(?P<name>[^/]*))?/status", answers.status)
        routes.add("POST", f"{base}(?:/region/(?P<name>[^/]*))?/unregister", answers.unregister)
        if kind == "system":
            routes.add("POST", f"{base}/region/(?P<name>[^/]*)/register", answers.register)


class _Regions:
    def __init__(self, parts: Parts, kind: Kind) -> None:
        self._memory = parts.shared_memory
        self._kind: Kind = kind

    async def register(self, call: Call, name: str) -> Response:
        document = msgspec.json.decode(call.body)
        for field in ("key", "byte_size"):
            if field not in document:
                raise invalid(f"Shared memory register request has no '{field}' field")
        await self._memory.register_system(call.caller, name, document["key"], document.get("offset", 0), document["byte_size"])
        return Response()

    async def unregister(self, call: Call, name: str | None) -> Response:
        await self._memory.unregister(call.caller, self._kind, name or "")
        return Response()

    async def status(self, call: Call, name: str | None) -> Response:
        fields = ("name", "key", "offset", "byte_size") if self._kind == "system" else ("name", "device_id", "byte_size")
        rows = await self._memory.status(call.caller, self._kind, name or "")
        return of_json([{field: row[field] for field in fields} for row in rows])
