# SPDX-License-Identifier: Apache-2.0
"""KServe v2 over gRPC: inference.GRPCInferenceService with Triton's extensions."""

from __future__ import annotations

from typing import Any

from ..callers import Caller
from ..documents import version_of
from ..parts import Parts
from . import inference
from .calls import answered
from .schema import config_pb, parse_dict, pb, service


class InferenceService(service.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """`port`: where it is served."""

    def __init__(self, parts: Parts, port: int) -> None:
        self.port = port
        self._parts = parts

    @answered
    async def ServerLive(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802 - gRPC's names
        return pb.ServerLiveResponse(live=True)

    @answered
    async def ServerReady(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=await self._parts.documents.is_ready())

    @answered
    async def ModelReady(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        ready = await self._parts.documents.is_ready(request.name, version_of(request.version))
        return pb.ModelReadyResponse(ready=ready)

    @answered
    async def ServerMetadata(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        return pb.ServerMetadataResponse(**self._parts.documents.server())

    @answered
    async def ModelMetadata(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        document = await self._parts.documents.metadata(request.name, version_of(request.version))
        return parse_dict(document, pb.ModelMetadataResponse())

    @answered
    async def ModelConfig(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        document = await self._parts.documents.config(request.name, version_of(request.version))
        return pb.ModelConfigResponse(config=parse_dict(document, config_pb.ModelConfig()))

    @answered
    async def ModelStatistics(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        document = await self._parts.documents.statistics(request.name, version_of(request.version))
        return parse_dict(document, pb.ModelStatisticsResponse(), ignore_unknown_fields=True)

    @answered
    async def ModelInfer(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        answer = await self._parts.inference.infer(inference.request_of(request), caller)
        return inference.response_of(answer)

    @answered
    async def SystemSharedMemoryRegister(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        await self._parts.shared_memory.register_system(caller, request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    @answered
    async def SystemSharedMemoryUnregister(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        await self._parts.shared_memory.unregister(caller, "system", request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    @answered
    async def CudaSharedMemoryUnregister(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        await self._parts.shared_memory.unregister(caller, "cuda", request.name)
        return pb.CudaSharedMemoryUnregisterResponse()
