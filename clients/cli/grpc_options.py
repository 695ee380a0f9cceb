# SPDX-License-Identifier: Apache-2.0
"""Triton's flags for its gRPC server, under its names: the options of gateways that concern gRPC alone."""

from __future__ import annotations

from typing import Any

import click
from msgspec import structs

from .options import Decorator

_MILLISECONDS = click.IntRange(0, 2**31 - 1)
_COUNT = click.IntRange(0, 2**31 - 1)
_FILE = click.Path(dir_okay=False)

#: flag, field of GatewaySettings, type, help
_OPTIONS: tuple[tuple[str, str, Any, str], ...] = (
    (
        "infer-response-compression-level", "infer_response_compression_level", click.Choice(("none", "low", "medium", "high")),
        "How responses over gRPC are compressed: not at all, or with gzip.",
    ),
    ("header-forward-pattern", "header_forward_pattern", str, "Regular expression: metadata that becomes request parameters."),
    ("use-ssl", "use_ssl", bool, "Whether gRPC is served over TLS."),
    ("use-ssl-mutual", "use_ssl_mutual", bool, "The same, and clients need a certificate, too."),
    ("server-cert", "server_cert", _FILE, "PEM file of the server's certificate."),
    ("server-key", "server_key", _FILE, "PEM file of the server's key."),
    ("root-cert", "root_cert", _FILE, "PEM file of the certificate that vouches for clients."),
    ("keepalive-time", "keepalive_time_ms", _MILLISECONDS, "Milliseconds between keepalive pings."),
    ("keepalive-timeout", "keepalive_timeout_ms", _MILLISECONDS, "Milliseconds that a ping's answer may take."),
    ("keepalive-permit-without-calls", "keepalive_permit_without_calls", bool, "Whether there are pings without a call."),
    ("http2-max-pings-without-data", "http2_max_pings_without_data", _COUNT, "Pings that may be sent without data between."),
    (
        "http2-min-recv-ping-interval-without-data", "http2_min_recv_ping_interval_without_data_ms", _MILLISECONDS,
        "Milliseconds between a client's pings.",
    ),
    ("http2-max-ping-strikes", "http2_max_ping_strikes", _COUNT, "Pings too many that a client may send; 0: any number."),
    ("max-connection-age", "max_connection_age_ms", _MILLISECONDS, "Milliseconds that a connection lives; 0: for ever."),
    (
        "max-connection-age-grace", "max_connection_age_grace_ms", _MILLISECONDS,
        "Milliseconds that calls on an old connection may take; 0: any time.",
    ),
)  # fmt: skip


def default_of(name: str) -> Any:
    """What the gateway's settings say where nobody says otherwise."""
    from ...runtime.gateway.settings import GatewaySettings

    return next(field.default for field in structs.fields(GatewaySettings) if field.name == name)


def _option(flag: str, field: str, kind: Any, said: str) -> Decorator:
    if kind is bool:
        flag = f"{flag}/--no-grpc-{flag}"
    return click.option(
        f"--grpc-{flag}", f"grpc_{field}", type=None if kind is bool else kind, default=default_of(f"grpc_{field}"), help=said
    )


GRPC_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--grpc-restricted-protocol",
        multiple=True,
        metavar="PROTOCOL,...:KEY=VALUE",
        help="Groups of gRPC methods that need a key in the metadata; may be repeated.",
    ),
    *(_option(*row) for row in _OPTIONS),
)
"""In the order of the help."""
