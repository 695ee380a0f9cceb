# SPDX-License-Identifier: Apache-2.0
"""`penstock regions`: the shared memory that clients have registered."""

from __future__ import annotations

import os
from typing import Any

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
@click.option("--forget", metavar="NAME", default="", help="Forget a region that gateways have registered for a user.")
@click.option("--forget-all", is_flag=True, help="Forget all regions that gateways have registered for a user.")
@click.option("--uid", type=click.IntRange(0), help="With --forget and --forget-all: the user.  [default: your own]")
def regions(address: str | None, as_json: bool, forget: str, forget_all: bool, uid: int | None) -> None:
    """Show every registered region: whose it is, how large, which workers have it mapped, how many requests use it.

    What clients of a gateway have registered belongs to their user, whose uid is shown, and stays until it is unregistered,
    through any gateway or by --forget, which both let requests in it end first.

    A region that is "closing" has been unregistered and goes with the last request that uses it. CUDA memory lies on the GPU
    that is shown, and "mapped by" is who has it open; "pinned" says how many of the instances on GPUs have host memory pinned.
    With --json: an array of objects with name, kind, byte_size, offset, in_flight, closing, gpu, mapped_by, pinned_by,
    refused_by (instance to reason), session, pid and uid; each of these three is null where there is none.
    """
    if forget and forget_all:
        raise click.UsageError("--forget NAME and --forget-all exclude each other")
    with connected(address) as client:
        if forget or forget_all:
            client.forget_shared(forget, uid=os.getuid() if uid is None else uid)
            return
        found = client.regions()
    if as_json:
        print_json(found)
        return
    columns = ("region", "kind", "owner", "on", "mapped by", "pinned", "size", "offset", "in flight", "state")
    rows = [
        (
            row["name"],
            row["kind"],
            _owner(row),
            row["gpu"] or "host",
            ", ".join(row["mapped_by"]) or "-",
            _pinned(row),
            memory(row["byte_size"]),
            row["offset"],
            row["in_flight"],
            "closing" if row["closing"] else "registered",
        )
        for row in found
    ]
    total = sum(row["byte_size"] for row in found)
    print_table(f"{len(rows)} regions, {memory(total)}", columns, rows, right_from=6)
    if not rows:
        click.echo("no regions")
    for row in found:
        for instance, why in row["refused_by"].items():
            click.echo(f"{row['name']} at {instance}: {why}")


def _owner(row: dict[str, Any]) -> str:
    if row["uid"] is not None:
        return f"uid {row['uid']}"
    return "-" if row["pid"] is None else f"process {row['pid']}"


def _pinned(row: dict[str, Any]) -> str:
    """By how many of those that tried; only instances on GPUs do."""
    tried = len(row["pinned_by"]) + len(row["refused_by"])
    return f"{len(row['pinned_by'])}/{tried}" if tried and not row["gpu"] else "-"
