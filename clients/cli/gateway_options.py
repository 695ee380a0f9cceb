# SPDX-License-Identifier: Apache-2.0
"""The options of gateways, which `serve`, `broker` and `gateway` share."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from .grpc_options import GRPC_OPTIONS, default_of
from .options import Decorator

if TYPE_CHECKING:
    from ...runtime.settings import GatewaySpec

NEEDED = ("aiohttp", "grpc", "tritonclient", "uvloop")


def _port(name: str, text: str) -> Decorator:
    return click.option(f"--{name}", type=click.IntRange(-1, 65535), default=default_of(name.replace("-", "_")), help=text)


GATEWAY_OPTIONS: tuple[Decorator, ...] = (
    _port(
        "http-port",
        "KServe v2 over HTTP for Triton's clients, usually at 8000; 0: any free port, which is announced; -1: none.",
    ),
    _port("grpc-port", "KServe v2 over gRPC, usually at 8001; 0: any free port, which is announced; -1: none."),
    click.option("--http-host", default=default_of("http_host"), help="The address that --http-port is opened on."),
    click.option("--grpc-host", default=default_of("grpc_host"), help="The address that --grpc-port is opened on."),
    click.option(
        "--http-max-input-size",
        type=click.IntRange(1),
        default=default_of("http_max_input_size"),
        help="Bytes that the body of an HTTP request may have.",
    ),
    click.option(
        "--http-header-forward-pattern",
        default=default_of("http_header_forward_pattern"),
        metavar="REGEX",
        help="HTTP headers, by a regular expression for their names, that become parameters of inference requests.",
    ),
    click.option(
        "--http-restricted-api",
        multiple=True,
        metavar="API,...:HEADER=VALUE",
        help="Groups of HTTP endpoints that need a header; may be repeated.",
    ),
    click.option(
        "--allow-client-shm/--no-allow-client-shm",
        default=default_of("allow_client_shm"),
        help="Whether clients over HTTP and gRPC may register shared memory.",
    ),
    click.option(
        "--gateway-model-control",
        "model_control",
        type=click.Choice(("owner", "anyone")),
        default=default_of("model_control"),
        help="Who may load and unload models by gateways: programs of the broker's own user, or whoever reaches the ports.",
    ),
    click.option(
        "--server-id", default=default_of("server_id"), help="The server's name in the metadata that gateways answer."
    ),
    click.option(
        "--strict-readiness/--no-strict-readiness",
        default=default_of("strict_readiness"),
        help="Whether gateways are ready only while every model is, or as soon as there is a server.",
    ),
    *GRPC_OPTIONS,
)
"""In the order of the help."""

_OWN = frozenset({"http_host", "http_port", "grpc_host", "grpc_port"})


def take_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the gateways' settings out of a command's options."""
    from ...runtime.gateway.settings import GatewaySettings

    return {name: options.pop(name) for name in GatewaySettings.__struct_fields__ if name in options}


def take_spec(options: dict[str, Any]) -> GatewaySpec | None:
    """Takes all about gateways out of the options of `serve`; None where none is asked for. Raises CallerError."""
    from ...runtime.settings import GatewaySpec

    told, processes = take_settings(options), options.pop("gateway_processes")
    own = {name: told.pop(name) for name in _OWN}
    if own["http_port"] < 0 and own["grpc_port"] < 0:
        return None
    check_installed()
    return GatewaySpec(processes=processes, told=told, **own)


def check_installed() -> None:
    """Raises CallerError that says what to install, where gateways cannot run for want of a package. Imports none of them."""
    from ...runtime.gateway.lacking import lacking

    for package in NEEDED:
        if find_spec(package) is None:
            raise lacking(ImportError(name=package))
