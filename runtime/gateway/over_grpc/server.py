# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: grpcio's on the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from ....ipc.errors import BrokerError
from .schema import aio, service

OPTIONS = (
    ("grpc.max_receive_message_length", 2**31 - 1),  # Triton sets no limit either
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.so_reuseport", 1),  # several gateways share the port
)


class GrpcServer:
    """Serves one servicer."""

    def __init__(self, servicer: Any, host: str, port: int) -> None:
        self._server = aio.server(options=OPTIONS)
        service.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        self.port = 0
        self._asked = (host, port)
        self._stopping: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<GrpcServer at port {self.port}>"

    async def start(self) -> None:
        """Accepts connections from now on. Raises BrokerError when the port cannot be had."""
        host, port = self._asked
        try:
            self.port = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise BrokerError(f"cannot serve gRPC at {host}:{port}: {error}") from error
        await self._server.start()

    async def accept_no_more(self, within_s: float) -> None:
        """Takes no more connections, nor calls; those that are there have so much time."""
        self._stopping = asyncio.ensure_future(self._server.stop(within_s))

    async def stop(self, within_s: float) -> None:
        """Ends all connections; what is being answered has so much time, or what is left of the time before. Idempotent."""
        await self._server.stop(within_s)
        if self._stopping is not None:
            await self._stopping
