# SPDX-License-Identifier: Apache-2.0
"""`penstock top`: a broker's models, live."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .connecting import connected
from .failures import exit_codes
from .options import address_option, json_option
from .rendering import console, duration, memory, print_json

if TYPE_CHECKING:
    from ..client import Client
    from .rates import Look, ModelRates

COLUMNS = ("model", "up", "queued", "req/s", "rows/s", "fail/s", "batch", "p50", "p99", "wait p99")


@click.command(
    short_help="A broker's models, live: rates, queues, p50 and p99, batch sizes.",
    epilog=exit_codes({0: "done (Ctrl-C is the usual end)", 1: "the broker went away", 2: "wrong usage, or no connection"}),
)
@address_option
@click.option("--interval-s", type=click.FloatRange(0.1), default=1.0, show_default=True, help="How long each figure is over.")
@click.option("--count", type=click.IntRange(0), default=0, show_default="until Ctrl-C", help="Stop after that many figures.")
@json_option
def top(address: str | None, interval_s: float, count: int, as_json: bool) -> None:
    """Show what each model did in the last interval: requests and rows per second, failures, how many rows a batch had, how
    long requests took, and how long the slowest hundredth of them waited. `up` is how many workers take batches, or why
    none does.

    p50 and p99 are over the interval alone, off by at most 12.5 %. With --json: one line per interval, an object with
    interval_s and models (an array with what the table shows; durations in ns, null where nothing was served).
    """  # noqa: D205 - the first paragraph is the help text's first paragraph
    with connected(address) as client:
        shown = itertools.islice(_intervals(client, interval_s), count or None)
        try:
            if as_json:
                for before, after, rows in shown:
                    print_json({"interval_s": after.time_s - before.time_s, "models": [row._asdict() for row in rows]})
            else:
                _show_live(shown)
        except KeyboardInterrupt:
            click.echo()


def _intervals(client: Client, interval_s: float) -> Iterator[tuple[Look, Look, list[ModelRates]]]:
    from .rates import rates

    before = _look(client)
    while True:
        time.sleep(max(0.0, before.time_s + interval_s - time.monotonic()))
        after = _look(client)
        yield before, after, rates(before, after)
        before = after


def _look(client: Client) -> Look:
    from .rates import Look

    status = client.status()
    return Look(time.monotonic(), status, client.statistics()["model_stats"], client.stages())


def _show_live(shown: Iterator[tuple[Look, Look, list[ModelRates]]]) -> None:
    from rich.live import Live

    output = console()
    if not output.is_terminal:  # into a pipe or a file: one table after the other
        for before, after, rows in shown:
            output.print(_screen(after, rows, after.time_s - before.time_s))
        return
    with Live(console=output, auto_refresh=False, screen=True) as live:
        for before, after, rows in shown:
            live.update(_screen(after, rows, after.time_s - before.time_s), refresh=True)


def _screen(look: Look, rows: list[ModelRates], seconds: float) -> Any:
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    status = look.status
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    for position, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if position else "left", no_wrap=True, min_width=12 if position == 0 else None)
    for row in rows:
        table.add_row(*(escape(cell) for cell in _cells(row)))
    head = (
        f"broker process {status['pid']}: {'ready' if status['ready'] else 'not ready'}; "
        f"{len(status['sessions'])} clients; {status['regions']} regions, {memory(status['region_bytes'])}; "
        f"the last {seconds:.1f} s"
    )
    return Group(escape(head), table)


def _cells(row: ModelRates) -> tuple[str, ...]:
    return (
        row.model, str(row.instances) if row.state == "READY" else row.state, str(row.queued),
        f"{row.requests:.0f}", f"{row.rows:.0f}",
        f"{row.failures:.0f}", "-" if row.mean_batch is None else f"{row.mean_batch:.1f}",
        duration(row.p50_ns), duration(row.p99_ns), duration(row.queue_p99_ns),
    )  # fmt: skip
