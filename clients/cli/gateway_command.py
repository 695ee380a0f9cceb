# SPDX-License-Identifier: Apache-2.0
"""`penstock gateway`: KServe v2 over HTTP and gRPC for a broker that runs already."""

from __future__ import annotations

from typing import Any

import click

from ...ipc.addresses import ADDRESS_VARIABLE, default_local_path
from .failures import Unreachable, exit_codes, failing_as
from .gateway_options import GATEWAY_OPTIONS, check_installed, take_settings
from .logs import LEVELS, log_to_stderr
from .options import in_order


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
@in_order(GATEWAY_OPTIONS)
@click.option("--log-level", type=click.Choice(LEVELS), default="info", help="Which lines go to standard error.")
def gateway(address: str | None, log_level: str, **options: Any) -> None:
    """Take Triton's clients in, and ask the broker for them."""
    log_to_stderr(log_level)
    with failing_as(Unreachable):
        check_installed()
        from ...runtime.gateway.process import run
        from ...runtime.gateway.settings import GatewaySettings

        settings = take_settings(options)
        run(GatewaySettings(address=address or f"unix://{default_local_path()}", **settings), click.echo)
