# SPDX-License-Identifier: Apache-2.0
"""KServe v2 over gRPC: inference.GRPCInferenceService with Triton's extensions."""

from __future__ import annotations

from typing import Any

from ....ipc.local_sockets import Address
from ..callers import Caller
from ..parts import Parts
from . import documents, repository, shared_memory, shared_settings
from .calls import answered
from .health import Health
from .inferring import GrpcInference
from .schema import pb, service


class InferenceService(service.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """`listening`: the address that its connections come to."""

    def __init__(self, parts: Parts, listening: Address) -> None:
        self.listening = listening
        self.tracing = parts.tracing
        self.users = parts.users
        self.inferring = GrpcInference(parts)
        self.health = Health(parts.documents)
        self._parts = parts

    def __repr__(self) -> str:
        return f"<InferenceService at {self.listening}, {self.inferring!r}>"

    @answered
    async def ServerLive(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802 - gRPC's names
        self._parts.documents.check_live()
        return pb.ServerLiveResponse(live=True)

    @answered
    async def ServerReady(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=await self._parts.documents.is_ready())

    @answered
    async def ModelReady(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        return await documents.model_ready(self._parts.documents, request)

    @answered
    async def ServerMetadata(self, _request: Any, _caller: Caller) -> Any:  # noqa: N802
        return pb.ServerMetadataResponse(**self._parts.documents.server())

    @answered
    async def ModelMetadata(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        return await documents.model_metadata(self._parts.documents, request)

    @answered
    async def ModelConfig(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        return await documents.model_config(self._parts.documents, request)

    @answered
    async def ModelStatistics(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        return await documents.model_statistics(self._parts.documents, request)

    @answered
    async def RepositoryIndex(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        return await repository.index(self._parts.repository, request)

    @answered
    async def RepositoryModelLoad(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        return await repository.load(self._parts.repository, request, caller)

    @answered
    async def RepositoryModelUnload(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        return await repository.unload(self._parts.repository, request, caller)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self.inferring.infer(request, context, self.listening)

    async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        await self.inferring.stream(request_iterator, context, self.listening)

    @answered
    async def SystemSharedMemoryStatus(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        return await shared_memory.system_status(self._parts.shared_memory, request, caller)

    @answered
    async def SystemSharedMemoryRegister(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        return await shared_memory.register_system(self._parts.shared_memory, request, caller)

    @answered
    async def SystemSharedMemoryUnregister(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        await self._parts.shared_memory.unregister(caller, "system", request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    @answered
    async def CudaSharedMemoryStatus(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        return await shared_memory.cuda_status(self._parts.shared_memory, request, caller)

    @answered
    async def CudaSharedMemoryRegister(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        return await shared_memory.register_cuda(self._parts.shared_memory, request, caller)

    @answered
    async def CudaSharedMemoryUnregister(self, request: Any, caller: Caller) -> Any:  # noqa: N802
        await self._parts.shared_memory.unregister(caller, "cuda", request.name)
        return pb.CudaSharedMemoryUnregisterResponse()

    @answered
    async def TraceSetting(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        changes = shared_settings.trace_changes(request)
        return shared_settings.trace_response(await self._parts.shared_settings.trace(request.model_name, changes))

    @answered
    async def LogSettings(self, request: Any, _caller: Caller) -> Any:  # noqa: N802
        return shared_settings.log_response(await self._parts.shared_settings.log(shared_settings.log_values(request)))
