# SPDX-License-Identifier: Apache-2.0
"""What is asked of a served model: each question measures its sides by turns, and does without a side that cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from measurement import Row, alternate, median_row

from penstock.clients import Client

from . import models, served
from .raw_side import Raw
from .scale import Scale

IN_FLIGHT_PER_INSTANCE = 4
#: entry of the repository -> what the table calls it, instances
SHARED = {
    "chain_1": ("one process", 1), "chain_2": ("processes", 2), "chain_3": ("processes", 3), "chain_lanes_2": ("lanes", 2),
    "chain_lanes_3": ("lanes", 3),
}  # fmt: skip


def latency(client: Client, raw: Raw, batch: int, scale: Scale) -> list[Row]:
    """Every way of waiting and kind of memory, of one network and batch size, against the raw loop."""
    network = raw.network
    inputs, expected = models.inputs_of(network, batch), models.expected_of(network, batch, raw.folder)
    rows = []
    with ExitStack() as held:
        sides = raw_side(raw, "wait", batch, scale)
        for busy, kind in ((busy, kind) for busy in models.BUSY for kind in served.KINDS):
            entry = f"{network.name}_{busy}"
            with scale.optional(f"latency of {entry} at batch {batch}, {kind}"):
                requests = held.enter_context(served.Requests(client, entry, kind, inputs, expected))
                served.one_by_one(client, entry, requests, scale.seconds / 4)  # regions are pinned, paths warm
                sides[f"{busy} {kind}"] = partial(served.one_by_one, client, entry, requests, scale.seconds)
        measured = {name: median_row(found) for name, found in alternate(sides, scale.rounds).items()}
    best = measured.pop("raw", None)
    for name, found in measured.items():
        busy, kind = name.split()
        row = {"model": network.name, "busy_wait": busy, "memory": kind, "batch": batch, **found}
        if best is not None:
            row |= {"raw_mode": raw.mode(batch), "raw_us": best["p50_us"], "beyond_raw_us": row["p50_us"] - best["p50_us"]}
        rows.append(row)
        say("latency", row)
    return rows


def raw_side(raw: Raw, word: str, batch: int, scale: Scale, seconds: float = 0.0) -> dict[str, Callable[[], Row]]:
    """The raw loop as the first of the sides; none where it cannot be had."""
    sides: dict[str, Callable[[], Row]] = {}
    with scale.optional(f"raw loop of {raw.network.name} at batch {batch}"):
        raw.prepare(batch)
        raw.measure(word, batch, scale.seconds / 4)
        sides["raw"] = partial(raw.measure, word, batch, seconds or scale.seconds)
    return sides


def full_load(client: Client, raw: Raw, batch: int, scale: Scale) -> list[Row]:
    """One instance with enough to do, against the raw loop with enough to do."""
    network, expected = raw.network, models.expected_of(raw.network, batch, raw.folder)
    entry = f"{network.name}_auto"
    with served.Requests(client, entry, "memfd", models.inputs_of(network, batch), expected) as requests:
        served.together(client, requests, scale.seconds / 4)
        sides = raw_side(raw, "stream", batch, scale, 2 * scale.seconds)
        sides["served"] = partial(served.together, client, requests, 2 * scale.seconds)
        measured = {name: median_row(found) for name, found in alternate(sides, scale.rounds).items()}
    row = {"model": network.name, "batch": batch, "batches_per_s": measured["served"]["batches_per_s"]}
    if "raw" in measured:
        row |= {"raw_mode": raw.mode(batch), **_beside(row["batches_per_s"], measured["raw"])}
    say("full load", row)
    return [row]


def sharing(client: Client, entries: Sequence[str], raw: Raw, scale: Scale, mps: bool) -> list[Row]:
    """One GPU and small kernels, and whether several instances of a model do more than one."""
    rows: list[Row] = []
    inputs, outputs = models.inputs_of(raw.network, 1), models.expected_of(raw.network, 1, raw.folder)
    with ExitStack() as held:
        sides = raw_side(raw, "stream", 1, scale, 2 * scale.seconds)
        for entry in entries:
            copies = -(-IN_FLIGHT_PER_INSTANCE * SHARED[entry][1] // len(outputs))
            with scale.optional(f"throughput of {entry}"):
                requests = held.enter_context(served.Requests(client, entry, "memfd", inputs * copies, outputs * copies))
                served.together(client, requests, scale.seconds / 2)
                sides[entry] = partial(served.together, client, requests, 2 * scale.seconds)
        measured = {name: median_row(found) for name, found in alternate(sides, scale.rounds).items()}
    for entry in (entry for entry in entries if entry in measured):
        how, instances = SHARED[entry]
        own = measured[entry]["batches_per_s"]
        row: Row = {"how": how, "instances": instances, "mps": "on" if mps else "off", "batches_per_s": own}
        row |= _beside(own, measured["raw"]) if "raw" in measured else {}
        row |= {"times_one": round(own / measured["chain_1"]["batches_per_s"], 2)} if "chain_1" in measured else {}
        rows.append(row)
        say("throughput", row)
    return rows


def _beside(own: float, raw: Row) -> Row:
    return {"raw_batches_per_s": raw["batches_per_s"], "percent_of_raw": 100 * own / raw["batches_per_s"]}


def regions(client: Client, raw: Raw, scale: Scale) -> list[Row]:
    """What a new region costs a client: three of each kind, medians."""
    x, y = models.inputs_of(raw.network, 1)[0], models.expected_of(raw.network, 1, raw.folder)[0]
    rows = []
    for kind in served.KINDS:
        with scale.optional(f"regions of kind {kind}"):
            entry = f"{raw.network.name}_auto"
            found = [served.registering(client, entry, kind, scale.registered_bytes, x, y) for _ in range(3)]
            rows.append(median_row(found))
            say("region", rows[-1])
    return rows


def say(what: str, row: Row) -> None:
    """As it is measured, for who watches."""
    figures = (f"{key} {value:,.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
    print(what, ", ".join(figures), flush=True)
