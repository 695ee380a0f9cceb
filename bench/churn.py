# SPDX-License-Identifier: Apache-2.0
"""What loading and unloading one model costs the clients of another, and whether anything of it stays in the broker.

A client keeps requests in flight for one model. By turns it is left alone for as long, and another model is loaded, fails to be
loaded, and is unloaded, again and again. p50 and p99 of both, and before the first and after the last cycle the broker's
descriptors, mappings and memory, and the bytes in /dev/shm.

usage: churn.py [--json FILE] [--cycles N] [--rounds N] [--in-flight N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import models
from measurement import Row, children_of, machine
from programs import Clients
from server import Server, serving
from table import goal, table

from penstock.clients import Client, ModelError

P99_GOAL_TIMES = 1.2
GOOD = {
    "backend": "fake",
    "max_batch_size": 4,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
}
"""The other model's configuration while it is to be loaded."""
FAILING = {**GOOD, "parameters": {"mode": {"string_value": "failing"}, "at": {"string_value": "load"}}}


def held(server: Server) -> Row:
    """What the broker holds, and /dev/shm."""
    status = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    memory = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    shm = os.statvfs("/dev/shm")
    return {
        "descriptors": len(os.listdir(f"/proc/{server.pid}/fd")),
        "mappings": len(Path(f"/proc/{server.pid}/maps").read_text().splitlines()),
        "rss_kib": memory,
        "shm_kib": (shm.f_blocks - shm.f_bfree) * shm.f_frsize // 1024,
    }


def cycle(client: Client, name: str) -> None:
    """A load, a load that fails and keeps what is there, an unload; which is what they must be."""
    client.load(name, json.dumps(GOOD))
    try:
        client.load(name, json.dumps(FAILING))
    except ModelError:
        client.unload(name)
        return
    raise RuntimeError("a load that must fail did not")


def with_cycles(server: Server, name: str, load: Clients, cycles: int) -> tuple[Row, float]:
    """The load's figures while so many cycles run beside it, and how long they took, in s."""
    with Client(server.links["local"]) as client:
        cycle(client, name)  # warms up; and says how long one takes
        start = time.monotonic()
        cycle(client, name)
        expected_s = (time.monotonic() - start) * cycles * 1.5
        failures: list[BaseException] = []

        def run() -> None:
            try:
                for _ in range(cycles):
                    cycle(client, name)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that measures
                failures.append(error)

        beside = threading.Thread(target=run)
        start = time.monotonic()
        beside.start()
        row = load.measure(expected_s)
        beside.join()
        took_s = time.monotonic() - start
    if failures:
        raise failures[0]
    return row, took_s


def measured(server: Server, cycles: int, rounds: int, in_flight: int) -> tuple[list[Row], list[Row], Row, Row]:
    """Figures alone and with cycles, by turns, and what the broker held before and after all of it."""
    quiet: list[Row] = []
    churning: list[Row] = []
    with Clients(server, "local", "overhead", in_flight=in_flight) as load:
        load.measure(0.5)
        with_cycles(server, "churning", load, 1)
        before = held(server)
        for _ in range(rounds):
            row, took_s = with_cycles(server, "churning", load, cycles)
            churning.append(row)
            quiet.append(load.measure(took_s))
            print(f"p99 {quiet[-1]['p99_us']} us alone, {row['p99_us']} us with {cycles} cycles", flush=True)
        return quiet, churning, before, held(server)


def main() -> None:
    parser = argparse.ArgumentParser(description="What loads and unloads cost the clients of another model.")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--cycles", type=int, default=100, help="loads, failing loads and unloads, over all rounds")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    parser.add_argument("--in-flight", type=int, default=8, help="requests of the client that is measured")
    args = parser.parse_args()
    each = max(1, args.cycles // args.rounds)
    with serving(models.repository("churn")) as server:
        with Client(server.links["local"]) as client:
            client.unload("churning")
        server.workers = children_of(server.pid)  # those of the model that stays
        quiet, churning, before, after = measured(server, each, args.rounds, args.in_flight)
    sides = {"alone": quiet, "with cycles": churning}
    rows = [
        {"side": side} | {figure: statistics.median(row[figure] for row in found) for figure in ("p50_us", "p99_us")}
        for side, found in sides.items()
    ]
    times = rows[1]["p99_us"] / rows[0]["p99_us"]
    kept = [{"of the broker": name, "before": before[name], "after": after[name]} for name in before]
    report: dict[str, Any] = {"bench": "churn", "machine": machine(), "cycles": each * args.rounds, "rows": rows, "held": kept}
    print(table(("side", "p50_us", "p99_us"), rows), end="\n\n")
    print(table(("of the broker", "before", "after"), kept), end="\n\n")
    print(
        table(("question", "measured", "goal", "met"), [goal("p99 with cycles, times alone", times, "at most", P99_GOAL_TIMES)])
    )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
