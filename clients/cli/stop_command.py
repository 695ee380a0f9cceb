# SPDX-License-Identifier: Apache-2.0
"""`penstock stop`: tells a broker to drain and leave, and waits until it has."""

from __future__ import annotations

import os
import select

import click

from ...ipc.processes import open_pidfd
from .connecting import connected
from .failures import CommandFailed, exit_codes
from .options import address_option, json_option
from .rendering import print_json


@click.command(
    short_help="Stop a broker and its workers.",
    epilog=exit_codes(
        {
            0: "it has stopped",
            1: "it refused, or was still running after --wait-s",
            2: "wrong usage, or no connection to a broker",
        }
    ),
)
@address_option
@click.option("--wait-s", type=click.FloatRange(0), default=30.0, show_default=True, help="How long to wait for its end.")
@json_option
def stop(address: str | None, wait_s: float, as_json: bool) -> None:
    """Stop the broker and its workers: requests that were accepted are finished first (serve --drain-s).

    Only the user who started the broker may stop it. With --json: an object with the pid.
    """
    with connected(address) as client:
        pid = int(client.status()["pid"])
        pidfd = _open_pidfd(pid)
        try:
            client.stop_broker()
            ended, _, _ = select.select([pidfd], [], [], wait_s)
        finally:
            os.close(pidfd)
    if not ended:
        raise CommandFailed(f"the broker (process {pid}) was told to stop, and still runs after {wait_s:g} s")
    if as_json:
        print_json({"pid": pid})
    else:
        click.echo(f"stopped (process {pid})")


def _open_pidfd(pid: int) -> int:
    try:
        return open_pidfd(pid)
    except ProcessLookupError:
        raise CommandFailed(f"the broker is process {pid}, which is none of this machine's: stop it there") from None
