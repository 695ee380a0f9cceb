# SPDX-License-Identifier: Apache-2.0
"""The gRPC library, and KServe's messages and service as tritonclient ships them compiled. The only importer of these here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError

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
"""GRPCInferenceServiceServicer."""

StatusCode = grpc.StatusCode
Compression = grpc.Compression
aio: Any = grpc.aio
rpc: Any = grpc
"""What makes handlers of methods, and credentials of certificates."""
LibraryError: type[Exception] = grpc.aio.BaseError
"""What the library raises by itself, such as for an answer that nobody is there to take."""
parse_dict = json_format.ParseDict
UNREADABLE = object()
"""What a method gets for a request that is no message."""


def handler_of(servicer: Any) -> Any:
    """What adds a servicer's methods to a server. Unlike the compiled one it leaves it to them what is said of no message."""
    name = "GRPCInferenceService"
    handlers: dict[str, Any] = {}
    for method in pb.DESCRIPTOR.services_by_name[name].methods:
        make = grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
        asked, answer = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        handlers[method.name] = make(getattr(servicer, method.name), _reader(asked), answer.SerializeToString)
    return grpc.method_handlers_generic_handler(f"inference.{name}", handlers)


def _reader(kind: Any) -> Callable[[bytes], Any]:
    parse = kind.FromString

    def read(content: bytes) -> Any:
        try:
            return parse(content)
        except DecodeError:
            return UNREADABLE

    return read


def _health() -> tuple[Any, Any]:
    """HealthCheckRequest and HealthCheckResponse of grpc.health.v1.

    Their schema is three fields that do not change (grpc's health.proto). grpcio-health-checking ships them compiled, by a
    protobuf whose version would have to suit that of tritonclient's messages.
    """
    file = descriptor_pb2.FileDescriptorProto(name="health.proto", package="grpc.health.v1", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    asked = file.message_type.add(name="HealthCheckRequest")
    asked.field.add(name="service", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    answer = file.message_type.add(name="HealthCheckResponse")
    states = answer.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        states.value.add(name=name, number=number)
    answer.field.add(
        name="status", number=1, type=field.TYPE_ENUM, label=field.LABEL_OPTIONAL,
        type_name=".grpc.health.v1.HealthCheckResponse.ServingStatus",
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()  # of its own: the process's may hold the compiled one
    pool.Add(file)
    made = [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"grpc.health.v1.{each.name}")) for each in (asked, answer)
    ]
    return made[0], made[1]


HealthCheckRequest, HealthCheckResponse = _health()
