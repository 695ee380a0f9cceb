# SPDX-License-Identifier: Apache-2.0
"""Health, metadata, configuration and statistics over HTTP."""

from __future__ import annotations

from ....ipc.errors import invalid
from ..documents import version_of
from ..parts import Parts
from .exchange import Call, Response, of_json
from .routes import Routes

PLAIN = {"Content-Type": "text/plain"}
"""What Triton answers to health checks is of this type, and empty where all is well."""


def add_routes(routes: Routes, parts: Parts, model_path: str) -> None:
    """Adds what is answered here."""
    answers = _HttpDocuments(parts)
    routes.add("GET", "/v2/health/live", answers.live)
    routes.add("GET", "/v2/health/ready", answers.ready)
    routes.add("GET", "/v2/?", answers.server)
    routes.add("GET", "/v2/models/stats", answers.all_statistics)
    routes.add("GET", f"{model_path}/ready", answers.model_ready)
    routes.add("GET", f"{model_path}/config", answers.config)
    routes.add("GET", f"{model_path}/stats", answers.statistics)
    routes.add("GET", model_path, answers.metadata)


class _HttpDocuments:
    def __init__(self, parts: Parts) -> None:
        self._documents = parts.documents

    def __repr__(self) -> str:
        return f"<HttpDocuments over {self._documents!r}>"

    async def live(self, _call: Call) -> Response:
        self._documents.check_live()
        return Response(200, PLAIN)

    async def ready(self, _call: Call) -> Response:
        return Response(200 if await self._documents.is_ready() else 400, PLAIN)

    async def server(self, _call: Call) -> Response:
        return of_json(self._documents.server())

    async def model_ready(self, _call: Call, model: str, version: str | None) -> Response:
        if not await self._documents.is_model_ready(model, version_of(version)):
            raise invalid("Model version not ready")
        return Response(200, PLAIN)

    async def metadata(self, _call: Call, model: str, version: str | None) -> Response:
        return of_json(await self._documents.metadata(model, version_of(version)))

    async def config(self, _call: Call, model: str, version: str | None) -> Response:
        return of_json(await self._documents.config(model, version_of(version)))

    async def statistics(self, _call: Call, model: str, version: str | None) -> Response:
        return of_json(await self._documents.statistics(model, version_of(version)))

    async def all_statistics(self, _call: Call) -> Response:
        return of_json(await self._documents.statistics())
