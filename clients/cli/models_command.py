# SPDX-License-Identifier: Apache-2.0
"""`penstock models`: the repository index, with states, reasons and instances."""

from __future__ import annotations

import click

from .connecting import connected
from .failures import exit_codes
from .options import address_option, json_option
from .rendering import model_label, print_json, print_table


@click.command(
    short_help="Every model of the repositories, with its state and the reason for it.",
    epilog=exit_codes({0: "done", 1: "the broker answered with an error", 2: "wrong usage, or no connection to a broker"}),
)
@address_option
@json_option
def models(address: str | None, as_json: bool) -> None:
    """Show the repository index: every model version, its state, why it is not READY, and its instances with theirs.

    A model that was never loaded has a name only. With --json: an array of objects with name, version, state, reason and
    instances.
    """
    with connected(address) as client:
        found = client.status()
    running: dict[str, list[str]] = {}
    for row in found["instances"]:
        running.setdefault(f"{row['model']}/{row['version']}", []).append(f"{row['instance']} {row['state']}")
    rows = [{**row, "instances": running.get(model_label(row), [])} for row in found["models"]]
    if as_json:
        print_json(rows)
        return
    shown = [(model_label(row), row["state"] or "-", row["reason"] or "-", ", ".join(row["instances"]) or "-") for row in rows]
    print_table("models", ("model", "state", "reason", "instances"), shown, right_from=4)
    if not rows:
        click.echo("no models")
