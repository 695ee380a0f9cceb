# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: grpcio's on the event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....ipc.errors import BrokerError
from .restrictions import Restrictions
from .schema import aio, rpc, service

if TYPE_CHECKING:
    from ..settings import GatewaySettings
    from .service import InferenceService

UNLIMITED = 2**31 - 1  # as in Triton


def options_of(settings: GatewaySettings) -> list[tuple[str, int]]:
    """The library's options (grpc's channel_arg_names.h) that Triton's flags stand for."""
    options = [
        ("grpc.max_receive_message_length", UNLIMITED),
        ("grpc.max_send_message_length", UNLIMITED),
        ("grpc.so_reuseport", 1),  # several gateways share the port
        ("grpc.keepalive_time_ms", settings.grpc_keepalive_time_ms),
        ("grpc.keepalive_timeout_ms", settings.grpc_keepalive_timeout_ms),
        ("grpc.keepalive_permit_without_calls", int(settings.grpc_keepalive_permit_without_calls)),
        ("grpc.http2.max_pings_without_data", settings.grpc_http2_max_pings_without_data),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            settings.grpc_http2_min_recv_ping_interval_without_data_ms,
        ),
        ("grpc.http2.max_ping_strikes", settings.grpc_http2_max_ping_strikes),
    ]
    if settings.grpc_max_connection_age_ms:
        options.append(("grpc.max_connection_age_ms", settings.grpc_max_connection_age_ms))
    if settings.grpc_max_connection_age_grace_ms:
        options.append(("grpc.max_connection_age_grace_ms", settings.grpc_max_connection_age_grace_ms))
    return options


class GrpcServer:
    """Serves one servicer."""

    def __init__(self, servicer: InferenceService, settings: GatewaySettings) -> None:
        restricted = settings.grpc_restricted_protocol
        self._server = aio.server(
            options=options_of(settings), interceptors=[Restrictions(restricted)] if restricted else None
        )  # fmt: skip
        service.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self._server.add_generic_rpc_handlers((servicer.health.handler(),))
        self._servicer = servicer
        self._settings = settings
        self._stopping: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<GrpcServer at port {self._servicer.port}>"

    async def start(self) -> int:
        """Accepts connections from now on; returns its port. Raises BrokerError when that cannot be had."""
        settings = self._settings
        host = f"[{settings.grpc_host}]" if ":" in settings.grpc_host else settings.grpc_host
        address = f"{host}:{settings.grpc_port}"
        credentials = credentials_of(settings)
        try:
            if credentials is None:
                port: int = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise BrokerError(f"cannot serve gRPC at {address}: {error}") from error
        self._servicer.port = port
        await self._server.start()
        return port

    async def accept_no_more(self, within_s: float) -> None:
        """Takes no more connections, nor calls; those that are there have so much time."""
        self._servicer.inferring.leave()
        self._stopping = asyncio.ensure_future(self._server.stop(within_s))

    async def stop(self, within_s: float) -> None:
        """Ends all connections; what is being answered has so much time, or what is left of the time before. Idempotent."""
        await self._server.stop(within_s)
        if self._stopping is not None:
            await self._stopping


def credentials_of(settings: GatewaySettings) -> Any:
    """What TLS needs, or None where there is none. Raises BrokerError for files that cannot be read."""
    if not (settings.grpc_use_ssl or settings.grpc_use_ssl_mutual):
        return None
    key, certificate = _content(settings.grpc_server_key, "key"), _content(settings.grpc_server_cert, "cert")
    root = _content(settings.grpc_root_cert, "root") if settings.grpc_use_ssl_mutual else None
    return rpc.ssl_server_credentials([(key, certificate)], root, settings.grpc_use_ssl_mutual)


def _content(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BrokerError(f"gRPC over TLS: the file of the {what} cannot be read: '{path}': {error.strerror}") from error
