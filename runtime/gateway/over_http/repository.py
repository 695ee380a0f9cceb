# SPDX-License-Identifier: Apache-2.0
"""Triton's model repository extension over HTTP."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from ....ipc.errors import invalid
from ..parts import Parts
from ..repository import UNLOAD_DEPENDENTS, is_file
from .exchange import JSON, Call, Response, of_json
from .fields import boolean, members, parse, text
from .routes import Routes

REPOSITORY = r"/v2/repository(?:/(?P<repository>[^/]+))?"
MODEL = rf"{REPOSITORY}/models/(?P<model>[^/]+)"


def add_routes(routes: Routes, parts: Parts) -> None:
    """Adds what is answered here."""
    answers = _HttpRepository(parts)
    routes.add("POST", f"{REPOSITORY}/index", answers.index)
    routes.add("POST", f"{MODEL}/load", answers.load)
    routes.add("POST", f"{MODEL}/unload", answers.unload)


class _HttpRepository:
    def __init__(self, parts: Parts) -> None:
        self._repository = parts.repository

    def __repr__(self) -> str:
        return f"<HttpRepository over {self._repository!r}>"

    async def index(self, call: Call, repository: str | None) -> Response:
        ready_only = _document(call).get("ready", False)
        if not isinstance(ready_only, bool):
            raise invalid("Invalid value for 'ready': expected a boolean")
        rows = await self._repository.index(repository or "", ready_only)
        return of_json([{key: value for key, value in row.items() if value} for row in rows])

    async def load(self, call: Call, repository: str | None, model: str) -> Response:
        parameters = {name: _load_parameter(name, value) for name, value in _parameters(call).items()}
        await self._repository.load(call.caller, repository or "", model, parameters)
        return Response(200, JSON)

    async def unload(self, call: Call, repository: str | None, model: str) -> Response:
        with_dependents = boolean(_parameters(call).get(UNLOAD_DEPENDENTS, False))
        await self._repository.unload(call.caller, repository or "", model, with_dependents)
        return Response(200, JSON)


def _document(call: Call) -> dict[str, Any]:
    return parse(call.body) if call.body else {}


def _parameters(call: Call) -> dict[str, Any]:
    return members(_document(call).get("parameters", {}))


def _load_parameter(name: str, value: Any) -> str | bytes:
    content = text(value)
    if not is_file(name):
        return content
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: not ASCII
        raise invalid(f"the content of load parameter '{name}' must be base64: {error}") from error
