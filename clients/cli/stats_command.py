# SPDX-License-Identifier: Apache-2.0
"""`penstock stats`: how often, how long, in what batches."""

from __future__ import annotations

from typing import Any

import click

from .connecting import connected
from .failures import exit_codes
from .model_names import model_argument
from .options import address_option, json_option
from .rendering import duration, mean, memory, model_label, print_json, print_table

STAGES = ("total", "queue", "compute_input", "compute_infer", "compute_output")


@click.command(
    short_help="How often, how long, in what batches.",
    epilog=exit_codes({0: "done", 1: "the broker answered with an error", 2: "wrong usage, or no connection to a broker"}),
)
@model_argument(required=False)
@address_option
@json_option
def stats(model: str, address: str | None, as_json: bool) -> None:
    """Show the statistics of MODEL, or of every model that is READY.

    Requests are counted and timed as Triton does: each request of a batch is credited with the whole batch's compute
    times. Below that, what Triton does not say: p50 and p99 of every stage (off by at most 12.5 %), how large
    the batches were, why they were closed, and what was copied.

    With --json: an object with model_stats (Triton's document) and stages (an array: name, version, histograms_ns,
    batch_sizes, closed, copies).
    """
    with connected(address) as client:
        found = {**client.statistics(model), "stages": client.stages(model)}
    if as_json:
        print_json(found)
        return
    _show_requests(found["model_stats"])
    for row in found["stages"]:
        _show_stages(row)


def _show_requests(models: list[dict[str, Any]]) -> None:
    rows = []
    for row in models:
        counted = row["inference_stats"]
        means = [mean(counted[stage]["ns"], counted[stage]["count"]) for stage in ("success", *STAGES[1:])]
        counts = (counted["success"]["count"], counted["fail"]["count"], row["inference_count"], row["execution_count"])
        rows.append((model_label(row), *counts, _hit_rate(counted), *means))
    columns = ("model", "succeeded", "failed", "rows", "batches", "cache hits", "request", "queue", "input", "infer", "output")
    print_table("requests, with mean times", columns, rows)
    if not rows:
        click.echo("no model is READY")


def _hit_rate(counted: dict[str, Any]) -> str:
    """How much the response cache answered of what it was asked."""
    hits, misses = (counted[what]["count"] for what in ("cache_hit", "cache_miss"))
    return f"{hits / (hits + misses):.0%}" if hits + misses else "-"


def _show_stages(row: dict[str, Any]) -> None:
    histograms = row["histograms_ns"]
    if not histograms["total"]["count"]:
        return
    times = [(stage, *(duration(histograms[stage][quantile]) for quantile in ("p50", "p99"))) for stage in STAGES]
    print_table(f"{model_label(row)}: times", ("stage", "p50", "p99"), times)
    sizes = sorted(((int(rows), count) for rows, count in row["batch_sizes"].items()), reverse=True)
    click.echo(f"batches   {', '.join(f'{count} of {rows}' for rows, count in sizes)}")
    click.echo(f"closed    {', '.join(f'{reason} {count}' for reason, count in row['closed'].items())}")
    copies = [f"{kind} {counted['count']} times, {memory(counted['byte_size'])}" for kind, counted in row["copies"].items()]
    click.echo(f"copied    {'; '.join(copies) or 'nothing'}\n")
