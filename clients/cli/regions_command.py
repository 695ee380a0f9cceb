# SPDX-License-Identifier: Apache-2.0
"""`penstock regions`: the shared memory that clients have registered."""

from __future__ import annotations

import click

from .connecting import connected
from .failures import exit_codes
from .options import address_option, json_option
from .rendering import memory, print_json, print_table


@click.command(
    short_help="The shared memory that clients have registered.",
    epilog=exit_codes(
        {
            0: "done",
            1: "the broker answered with an error",
            2: "wrong usage, or no connection to a broker",
        }
    ),
)
@address_option
@json_option
def regions(address: str | None, as_json: bool) -> None:
    """Show every registered region: whose it is, how large, which workers have it mapped, how many requests use it.

    A region that is "closing" has been unregistered and goes with the last request that uses it. With --json: an array of
    objects with name, kind, byte_size, offset, in_flight, closing, mapped_by, session and pid.
    """
    with connected(address) as client:
        found = client.regions()
    if as_json:
        print_json(found)
        return
    columns = ("region", "kind", "owner", "mapped by", "size", "offset", "in flight", "state")
    rows = [
        (
            row["name"],
            row["kind"],
            "-" if row.get("pid") is None else f"process {row['pid']}",
            ", ".join(row["mapped_by"]) or "-",
            memory(row["byte_size"]),
            row["offset"],
            row["in_flight"],
            "closing" if row["closing"] else "registered",
        )
        for row in found
    ]
    total = sum(row["byte_size"] for row in found)
    print_table(f"{len(rows)} regions, {memory(total)}", columns, rows, right_from=4)
    if not rows:
        click.echo("no regions")
