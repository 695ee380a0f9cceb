# SPDX-License-Identifier: Apache-2.0
"""`penstock worker`: one instance of a model, attached to a broker by hand."""

from __future__ import annotations

import click

from ...ipc.addresses import ADDRESS_VARIABLE
from .failures import CommandFailed, Unreachable, exit_codes, failing_as
from .model_names import model_argument


@click.command(
    short_help="Attach one instance of a model to a broker, by hand.",
    epilog=exit_codes(
        {
            0: "the broker told it to stop, or ended",
            1: "the model could not be loaded (the broker knows why), or the broker refused it",
            2: "wrong usage, or no connection to a broker",
        }
    ),
)
@model_argument()
@click.option(
    "--connect",
    "address",
    metavar="ADDRESS",
    envvar=ADDRESS_VARIABLE,
    show_envvar=True,
    help="The broker's local socket: unix:///PATH. Default: the one in the runtime directory.",
)
def worker(model: str, address: str | None) -> None:
    """Serve MODEL to a running broker from this process, in this Python, until the broker ends or this is interrupted.

    Start it under a debugger or a profiler; stopping it ends its running batch with an error and harms nothing else. The
    broker, started by `penstock broker` or `penstock serve`, sends it batches like any other instance.
    """
    from ...workers.main import EXIT_SERVED, attach

    with failing_as(Unreachable):
        status = attach(address, model)
    if status != EXIT_SERVED:
        raise CommandFailed(f"model {model} was not served; the broker's log and `penstock status` say why")
