# SPDX-License-Identifier: Apache-2.0
"""`penstock unload`: takes a model out of a broker that runs."""

from __future__ import annotations

import click

from .connecting import connected
from .failures import exit_codes
from .model_names import model_argument
from .options import address_option, json_option
from .rendering import print_json


@click.command(
    short_help="Unload a model, and end its workers.",
    epilog=exit_codes(
        {
            0: "it is not served (any more), and its workers have left",
            1: "this broker's --control-mode does not allow it, or it was not over after --wait-s",
            2: "wrong usage, or no connection to a broker",
        }
    ),
)
@model_argument()
@click.option("--wait-s", type=click.FloatRange(0, min_open=True), help="Give up after this long; the unload goes on.")
@address_option
@json_option
def unload(model: str, wait_s: float | None, address: str | None, as_json: bool) -> None:
    """Unload MODEL: requests that it has are finished, new ones are refused, then its workers leave with their memory.

    A model that is not there counts as unloaded. Only the user who started the broker may unload. With --json: the model's rows
    of the index.
    """
    with connected(address) as client:
        client.unload(model, timeout_s=wait_s)
        rows = [row for row in client.index() if row["name"] == model]
    if as_json:
        print_json(rows)
    else:
        click.echo(f"unloaded: {model}")
