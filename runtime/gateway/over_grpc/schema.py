# SPDX-License-Identifier: Apache-2.0
"""The gRPC library, and KServe's messages and service as tritonclient ships them compiled. The only importer of these here."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from ..lacking import lacking

try:
    import grpc
    from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
except ImportError as error:
    raise lacking(error) from error

pb: Any = service_pb2
"""The messages: ModelInferRequest and the rest."""
config_pb: Any = model_config_pb2
service: Any = service_pb2_grpc
"""GRPCInferenceServiceServicer, and what adds one to a server."""

StatusCode = grpc.StatusCode
aio: Any = grpc.aio
ServicerContext = grpc.aio.ServicerContext
parse_dict = json_format.ParseDict
