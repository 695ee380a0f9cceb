# SPDX-License-Identifier: Apache-2.0
"""`penstock status`: what a broker serves, by which workers, for whom."""

from __future__ import annotations

from typing import Any

import click

from ...ipc.processors import format_cpus
from .connecting import connected
from .failures import exit_codes
from .options import address_option, json_option
from .rendering import memory, model_label, print_json, print_table


@click.command(
    short_help="What a broker serves, by which workers, for whom.",
    epilog=exit_codes(
        {
            0: 'a broker answered (its "ready" may still be false)',
            1: "it answered with an error",
            2: "wrong usage, or no connection to a broker",
        }
    ),
)
@address_option
@json_option
def status(address: str | None, as_json: bool) -> None:
    """Show the broker, its models and why some are not READY, its workers, and the clients that are connected.

    With --json: an object with pid, addresses, ready, stopping, models, queued, queued_by_level (of models with priority
    levels or queue policies), loads, instances (each with its lanes and gpu, and under about how that runs the model), gpus
    (null as long as nothing needed to know), mps, gateways (each with its state, pid, session, in_flight, restarts, reason and
    addresses), sessions, regions, region_bytes, cache and bad_messages; with the rate
    limiter also resources, each with its device (null: global), count, used, and waiting.
    """
    with connected(address) as client:
        found = client.status()
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    state = "stopping" if found["stopping"] else "ready" if found["ready"] else "not ready"
    click.echo(f"broker process {found['pid']}: {state}; {', '.join(found['addresses'])}")
    click.echo(f"{found['regions']} regions, {memory(found['region_bytes'])}; {found['bad_messages']} bad messages refused")
    cache = found["cache"]
    size = f"{memory(cache['byte_size'])} of {memory(cache['capacity_bytes'])}"
    click.echo(f"response cache: {cache['entries']} entries, {size}, {cache['evictions']} evicted\n")
    rows = [
        (model_label(row), row["state"] or "-", row["reason"] or "-", _queued(found, model_label(row)))
        for row in found["models"]
    ]
    print_table("models", ("model", "state", "reason", "queued"), rows, right_from=3)
    loads = [(row["model"], row["what"], row["state"]) for row in found.get("loads", ())]
    print_table("loads and unloads under way", ("model", "what", "state"), loads, right_from=3)
    workers = [
        (
            _instance(row), f"{row['model']}/{row['version']}", row["state"],
            "-" if row["gpu"] is None else str(row["gpu"]["ordinal"]), format_cpus(row["cpus"]) or "any", row["pid"],
            row["regions_mapped"],
        )
        for row in found["instances"]
    ]  # fmt: skip
    print_table("workers", ("instance", "model", "state", "GPU", "CPUs", "process", "regions mapped"), workers, right_from=5)
    limited = [
        (row["resource"], "global" if row["device"] is None else row["device"], row["used"], row["count"], row["waiting"])
        for row in found.get("resources", ())
    ]
    if limited:
        print_table("resources", ("name", "device", "used", "count", "instances waiting"), limited, right_from=2)
    gateways = [
        (row["gateway"], row["state"], row["reason"] or "-", row["http"] or "-", row["grpc"] or "-",
         _or_dash(row["pid"]), _or_dash(row["session"]), row["in_flight"], row["restarts"])
        for row in found["gateways"]
    ]  # fmt: skip
    if gateways:
        named = ("gateway", "state", "reason", "HTTP", "gRPC", "process", "session", "in flight", "restarts")
        print_table("gateways", named, gateways, right_from=5)
    sessions = found["sessions"]
    columns = list(sessions[0]) if sessions else []
    print_table("clients", columns, [[_or_dash(row[column]) for column in columns] for row in sessions])


def _or_dash(value: object) -> object:
    return "-" if value is None else value


def _instance(row: dict[str, Any]) -> str:
    """The name of a worker's instance, and how many more it has: "digits_0_0 (4 lanes)"."""
    lanes = len(row["lanes"])
    return f"{row['instance']} ({lanes} lanes)" if lanes > 1 else str(row["instance"])


def _queued(found: dict[str, Any], model: str) -> str:
    """How many requests are queued, and in which priority levels: "5 (1: 2, 3: 3)"."""
    levels = {level: count for level, count in found["queued_by_level"].get(model, {}).items() if level != "0"}
    by_level = f" ({', '.join(f'{level}: {count}' for level, count in levels.items())})" if levels else ""
    return f"{found['queued'].get(model, '-')}{by_level}"
