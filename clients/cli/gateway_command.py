# SPDX-License-Identifier: Apache-2.0
"""`penstock gateway`: KServe v2 over HTTP and gRPC for a broker that runs already."""

from __future__ import annotations

from typing import Any

import click

from ...ipc.addresses import ADDRESS_VARIABLE, default_local_path
from .failures import Unreachable, exit_codes, failing_as
from .logs import LEVELS, log_to_stderr


@click.command(
    short_help="Serve Triton's clients: KServe v2 over HTTP and gRPC, for a broker that runs already.",
    context_settings={"show_default": True},
    epilog=exit_codes({0: "was told to stop, and did", 2: "wrong usage, no broker, or a port that cannot be had"}),
)
@click.option(
    "--connect",
    "address",
    metavar="ADDRESS",
    envvar=ADDRESS_VARIABLE,
    show_envvar=True,
    help="The broker's local socket: unix:///PATH. Default: the one in the runtime directory.",
)
@click.option("--http-host", default="127.0.0.1", help="The address that --http-port is opened on.")
@click.option("--http-port", type=click.IntRange(-1, 65535), default=-1, help="0: a free port; -1: no HTTP.")
@click.option("--grpc-host", default="127.0.0.1", help="The address that --grpc-port is opened on.")
@click.option("--grpc-port", type=click.IntRange(-1, 65535), default=-1, help="0: a free port; -1: no gRPC.")
@click.option(
    "--gateway-model-control",
    "model_control",
    type=click.Choice(("owner", "anyone")),
    default="owner",
    help="Who may load and unload models: programs of the broker's own user, or whoever reaches the ports.",
)
@click.option("--server-id", default="triton", help="The server's name in its metadata.")
@click.option(
    "--strict-readiness/--no-strict-readiness",
    default=True,
    help="Ready only while every model is ready, or as soon as there is a server.",
)
@click.option("--log-level", type=click.Choice(LEVELS), default="info", help="Which lines go to standard error.")
def gateway(address: str | None, log_level: str, **options: Any) -> None:
    """Take Triton's clients in, and ask the broker for them."""
    log_to_stderr(log_level)
    from ...runtime.gateway.process import run
    from ...runtime.gateway.settings import GatewaySettings

    with failing_as(Unreachable):
        run(GatewaySettings(address=address or f"unix://{default_local_path()}", **options), click.echo)
