# SPDX-License-Identifier: Apache-2.0
"""Groups of methods that need a key in the metadata (Triton's --grpc-restricted-protocol GROUP,GROUP:KEY=VALUE)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..restricted import restricted_groups
from .health import SERVICE as HEALTH
from .schema import StatusCode, aio, rpc

PREFIX = "triton-grpc-protocol-"
_INFERENCE = "/inference.GRPCInferenceService/"

GROUPS = {
    "health": ("ServerLive", "ServerReady", "ModelReady", f"/{HEALTH}/Check"),
    "metadata": ("ServerMetadata", "ModelMetadata"),
    "inference": ("ModelInfer", "ModelStreamInfer"),
    "shared-memory": (
        "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
    ),
    "model-config": ("ModelConfig",),
    "model-repository": ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    "statistics": ("ModelStatistics",),
    "trace": ("TraceSetting",),
    "logging": ("LogSettings",),
}  # fmt: skip
"""Triton's groups, and the methods that belong to each."""


class Restrictions(aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without the key that their method needs. Raises CallerError for flags that say nothing sensible."""

    def __init__(self, flags: Sequence[str]) -> None:
        #: method -> the metadata that it needs
        self._needed: dict[str, tuple[str, str]] = {}
        for groups, key, value in restricted_groups(flags, "--grpc-restricted-protocol", "protocol", GROUPS):
            for name in (name for group in groups for name in GROUPS[group]):
                self._needed[name if name.startswith("/") else _INFERENCE + name] = (PREFIX + key, value)

    def __repr__(self) -> str:
        return f"<Restrictions of {sorted(self._needed)}>"

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], call: Any) -> Any:
        """The handler of a call, or one that refuses it."""
        handler = await continuation(call)
        needed = self._needed.get(call.method)
        if needed is None or handler is None or needed in call.invocation_metadata:
            return handler

        async def refuse(_request: Any, context: Any) -> None:
            await context.abort(StatusCode.UNAVAILABLE, f"This protocol is restricted, expecting header '{needed[0]}'")

        make = rpc.stream_stream_rpc_method_handler if handler.request_streaming else rpc.unary_unary_rpc_method_handler
        return make(refuse, handler.request_deserializer, handler.response_serializer)
