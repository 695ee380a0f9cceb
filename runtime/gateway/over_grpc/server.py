# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: grpcio's on the event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....ipc.errors import BrokerError
from ....ipc.local_sockets import Address, authority, own_addresses
from .restrictions import Restrictions
from .schema import Compression, aio, handler_of, rpc

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
    """Serves at an address. `make_servicer` makes what serves at one of the machine's own.

    gRPC says of a connection where it came from, and not to which address it came; who its user is takes both. So it listens at
    each address by itself, with a servicer that knows it, and where it is asked for all of them ("0.0.0.0", "::") at each of
    the machine's own, and beside those at all that are left: of who comes there the user is not known.
    """

    def __init__(self, make_servicer: Callable[[Address], InferenceService], settings: GatewaySettings) -> None:
        self._make_servicer = make_servicer
        self._settings = settings
        self._servicers: list[InferenceService] = []
        self._servers: list[Any] = []
        self._stopping: asyncio.Future[None] | None = None
        self.port = 0

    def __repr__(self) -> str:
        return f"<GrpcServer at port {self.port}, {len(self._servers)} addresses>"

    async def start(self) -> int:
        """Accepts connections from now on; returns its port. Raises BrokerError when that cannot be had."""
        host, self.port = self._settings.grpc_host, self._settings.grpc_port
        credentials = credentials_of(self._settings)
        try:
            hosts = list(dict.fromkeys(found[4][0] for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))
            for each in hosts:
                self._listen(str(each), credentials)
        except (OSError, RuntimeError, UnicodeError) as error:
            raise BrokerError(f"cannot serve gRPC at {authority(host, self._settings.grpc_port)}: {error}") from error
        if any(ip_address(each).is_unspecified for each in hosts):
            for own in own_addresses():
                with suppress(RuntimeError):  # a program that listens there alone had it before, and keeps it
                    self._listen(own, credentials)
        for server in self._servers:
            await server.start()
        return self.port

    def _listen(self, host: str, credentials: Any) -> None:
        restricted = self._settings.grpc_restricted_protocol
        server = aio.server(
            options=options_of(self._settings), interceptors=[Restrictions(restricted)] if restricted else None,
            compression=None if self._settings.grpc_infer_response_compression_level == "none" else Compression.Gzip,
        )  # fmt: skip
        address = authority(host, self.port)
        self.port = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )  # fmt: skip
        servicer = self._make_servicer(Address.of("" if ip_address(host).is_unspecified else host, self.port))
        server.add_generic_rpc_handlers((handler_of(servicer), servicer.health.handler()))
        self._servicers.append(servicer)
        self._servers.append(server)

    async def accept_no_more(self, within_s: float) -> None:
        """Takes no more connections, nor calls; those that are there have so much time."""
        for servicer in self._servicers:
            servicer.inferring.leave()
        self._stopping = asyncio.ensure_future(self._stop(within_s))

    async def stop(self, within_s: float) -> None:
        """Ends all connections; what is being answered has so much time, or what is left of the time before. Idempotent."""
        await self._stop(within_s)
        if self._stopping is not None:
            await self._stopping

    async def _stop(self, within_s: float) -> None:
        await asyncio.gather(*(server.stop(within_s) for server in self._servers))


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
