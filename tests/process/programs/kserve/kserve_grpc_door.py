# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 - methods have the names of the service
"""The gRPC door of the test's KServe v2 server, on the classes that tritonclient brings."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from kserve_models import HangUp, KServe, Placed, Refused, Tensor
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND, 500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED, 503: grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip


class Door(GRPCInferenceServiceServicer):
    """Every call, in the names of the service."""

    def __init__(self, kserve: KServe) -> None:
        self._kserve = kserve

    def ServerLive(self, _request: Any, _context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    def ServerMetadata(self, _request: Any, _context: Any) -> Any:
        return ParseDict(self._kserve.metadata(), messages.ServerMetadataResponse())

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        return _told(context, lambda: ParseDict(self._kserve.model(request.name), messages.ModelMetadataResponse()))

    def ModelConfig(self, request: Any, context: Any) -> Any:
        return _told(
            context, lambda: ParseDict({"config": self._kserve.configuration(request.name)}, messages.ModelConfigResponse())
        )

    def ModelStatistics(self, request: Any, context: Any) -> Any:
        return _told(context, lambda: ParseDict(self._kserve.statistics(request.name), messages.ModelStatisticsResponse()))

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        _told(context, lambda: self._kserve.register(request.name, request.key, request.byte_size))
        return messages.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        _told(context, lambda: self._kserve.unregister(request.name))
        return messages.SystemSharedMemoryUnregisterResponse()

    def CudaSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        return _told(context, lambda: self._kserve.register_cuda(request.name))

    def ModelInfer(self, request: Any, context: Any) -> Any:
        (given,), (wanted,) = request.inputs, request.outputs
        content = _placed(given) or request.raw_input_contents[0]
        tensor = Tensor(given.name, given.datatype, list(given.shape), content)
        found = _told(context, lambda: self._kserve.infer(request.model_name, tensor, _placed(wanted)))
        response = messages.ModelInferResponse(model_name=request.model_name, model_version="1")
        response.outputs.add(name=found.name, datatype=found.datatype, shape=found.shape)
        # Triton does not say of an output that it lies in a region: its content is empty.
        response.raw_output_contents.append(b"" if isinstance(found.content, Placed) else found.content)
        return response


def open_grpc(kserve: KServe) -> tuple[Any, int]:
    """A server, started, and its port."""
    server = grpc.server(ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0)])
    add_GRPCInferenceServiceServicer_to_server(Door(kserve), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def _told(context: Any, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Refused as refused:
        return context.abort(CODES[refused.status], str(refused))
    except HangUp:
        return context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def _placed(tensor: Any) -> Placed | None:
    asked = tensor.parameters
    if "shared_memory_region" not in asked:
        return None
    offset = asked["shared_memory_offset"].int64_param if "shared_memory_offset" in asked else 0
    return Placed(asked["shared_memory_region"].string_param, offset, asked["shared_memory_byte_size"].int64_param)
