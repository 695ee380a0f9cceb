# SPDX-License-Identifier: Apache-2.0
"""A gateway's settings: frozen, checked once, each default written here and nowhere else."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

ModelControl = Literal["owner", "anyone"]


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
    http_header_forward_pattern: str = ""  # over_http/forwarding.py
    http_restricted_api: tuple[str, ...] = ()  # over_http/restrictions.py
    server_id: str = "triton"  # the name in the server's metadata
    strict_readiness: bool = True  # ready only while every model is, but for those that were unloaded on purpose
    model_control: ModelControl = "owner"  # who may load and unload models, where the broker's control mode lets clients
    leaves_within_s: float = 5.0  # how long what it has accepted may take, once it is told to stop
