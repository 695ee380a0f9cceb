# SPDX-License-Identifier: Apache-2.0
"""grpc.health.v1.Health/Check, whatever the service that is asked for. Watch is not implemented, as in Triton."""

from __future__ import annotations

from typing import Any

from ..documents import Documents
from .calls import abort
from .schema import HealthCheckRequest, HealthCheckResponse, rpc

SERVICE = "grpc.health.v1.Health"


class Health:
    """Serving as long as the server is ready."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    def __repr__(self) -> str:
        return f"<Health of {self._documents!r}>"

    async def check(self, _request: Any, context: Any) -> Any:
        """The answer to Check."""
        try:
            is_ready = await self._documents.is_ready()
        except Exception as error:
            await abort(context, error, "Health/Check")
            raise
        return HealthCheckResponse(status="SERVING" if is_ready else "NOT_SERVING")

    def handler(self) -> Any:
        """What adds it to a server."""
        check = rpc.unary_unary_rpc_method_handler(
            self.check, HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        )  # fmt: skip
        return rpc.method_handlers_generic_handler(SERVICE, {"Check": check})
