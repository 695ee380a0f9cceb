# SPDX-License-Identifier: Apache-2.0
"""A gateway's settings: frozen, checked once, each default written here and nowhere else."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from ...ipc.log_lines import LogSettings

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
    http_header_forward_pattern: str = ""  # forwarding.py; empty: none
    http_restricted_api: tuple[str, ...] = ()  # over_http/restrictions.py
    server_id: str = "triton"  # the name in the server's metadata
    strict_readiness: bool = True  # ready only while every model is, but for those that were unloaded on purpose
    model_control: ModelControl = "owner"  # who may load and unload models, where the broker's control mode lets clients
    leaves_within_s: float = 5.0  # how long what it has accepted may take, once it is told to stop
    log: LogSettings = LogSettings()  # until the broker says what holds
    log_fd: int = -1  # where log lines go that are in no file; -1: to standard error
    inline_memory_bytes: int = 4 * 1024**3  # shared memory for tensors that come with their requests, at most

    # Triton's --grpc-* flags, by their names, with their defaults
    grpc_infer_response_compression_level: Literal["none", "low", "medium", "high"] = "none"
    grpc_header_forward_pattern: str = ""
    grpc_restricted_protocol: tuple[str, ...] = ()  # over_grpc/restrictions.py
    grpc_keepalive_time_ms: int = 7_200_000
    grpc_keepalive_timeout_ms: int = 20_000
    grpc_keepalive_permit_without_calls: bool = False
    grpc_http2_max_pings_without_data: int = 2
    grpc_http2_min_recv_ping_interval_without_data_ms: int = 300_000
    grpc_http2_max_ping_strikes: int = 2
    grpc_max_connection_age_ms: int = 0  # 0: connections may be as old as they like
    grpc_max_connection_age_grace_ms: int = 0  # 0: what is in flight on an old connection may take as long as it likes
    grpc_use_ssl: bool = False
    grpc_use_ssl_mutual: bool = False  # clients need a certificate that grpc_root_cert vouches for
    grpc_server_cert: str = ""  # paths of PEM files
    grpc_server_key: str = ""
    grpc_root_cert: str = ""
