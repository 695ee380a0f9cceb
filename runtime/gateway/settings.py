# SPDX-License-Identifier: Apache-2.0
"""A gateway's settings: frozen, checked once, each default written here and nowhere else."""

from __future__ import annotations

from msgspec import Struct


class GatewaySettings(Struct, frozen=True, kw_only=True):
    """What a gateway process is told. Ports: -1: not served; 0: a free one."""

    address: str = ""  # of the broker
    http_host: str = "127.0.0.1"
    http_port: int = -1
    http_fd: int = -1  # a listening socket that was handed down; -1: it opens its own
    grpc_host: str = "127.0.0.1"
    grpc_port: int = -1
    allow_client_shm: bool = True
    http_max_input_size: int = 64 * 1024 * 1024  # bytes of a request's body; Triton's default
    server_id: str = "triton"
