# SPDX-License-Identifier: Apache-2.0
"""What Penstock itself costs: a model that costs nothing, served, against the floor, by turns in one run.

Every figure is the median of several rounds. Rows say link (the floor's are `floor_local`, `floor_zmq`), concurrency, clients
and requests in flight per client, rows per request, bytes per request, requests per second, latency, and CPU time per request
of broker, worker and client. Three more questions: `payload`, what 38 MB cost more than 600 KB, beyond what they cost the
floor; `gather`, what it costs to bring requests of a batch together, against a memcpy of the same bytes; `idle`, what is used
by doing nothing.

usage: overhead.py [--json FILE] [--seconds S] [--rounds N] [--only rows|payload|gather|idle]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import floor
import models
import numpy as np
from measurement import Row, alternate, cpu_ns, machine, median_row
from programs import Clients
from server import Server, serving

from penstock.clients import Client

LINKS = {"local": "memfd", "zmq": "system"}
"""Link -> the kind of memory that the client uses there by default."""
BATCHES = (1, 64)
LOADS = ((1, 1), (1, 8), (1, 64), (8, 8))
"""(clients, requests in flight of each)."""
PAYLOAD_ROUNDS = 9
PAYLOAD_SECONDS = 0.7
GATHERED, GATHER_ROUNDS = 32, 60
IDLE_S = 10.0


def rows(server: Server, seconds: float, rounds: int) -> list[Row]:
    """Every load, over both links and on the floor."""
    found: list[Row] = []
    for batch in BATCHES:
        for clients, in_flight in LOADS:
            if not _fits(batch * clients * in_flight * floor.ROW_BYTES):
                print(f"left out, too little memory: {clients} x {in_flight} requests of {batch} rows", flush=True)
                continue
            found += _row_of_each_side(server, batch, clients, in_flight, seconds, rounds)
    return found


def _row_of_each_side(server: Server, batch: int, clients: int, in_flight: int, seconds: float, rounds: int) -> list[Row]:
    sides: dict[str, Callable[[], Row]] = {}
    for link in LINKS:
        sides[link] = partial(_served, server, link, clients, in_flight, batch, seconds)
        if clients == 1:
            sides[f"floor_{link}"] = partial(floor.measured, link, in_flight, batch, seconds)
    found = [median_row(measured) for measured in alternate(sides, rounds).values()]
    for row in found:
        print(_line(row), flush=True)
    return found


def _served(server: Server, link: str, clients: int, in_flight: int, batch: int, seconds: float) -> Row:
    with Clients(server, link, "overhead", clients, in_flight, batch) as load:
        return load.measure(seconds)


def _fits(byte_size: int) -> bool:
    """Whether shared memory of that size, with as much again to spare, is available."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available_kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    shm = os.statvfs("/dev/shm")
    return byte_size * 2 < min(available_kib * 1024, shm.f_bavail * shm.f_frsize)


def payload(server: Server) -> list[Row]:
    """Per link: how much more a request of 64 rows takes than one of 1 row, less what it takes more on the floor; p50, us."""
    found = []
    for link, memory in LINKS.items():
        sides: dict[str, Callable[[], Row]] = {}
        for batch in BATCHES:
            sides[f"served {batch}"] = partial(_served, server, link, 1, 1, batch, PAYLOAD_SECONDS)
            sides[f"floor {batch}"] = partial(floor.measured, link, 1, batch, PAYLOAD_SECONDS)
        p50 = {name: [row["p50_us"] for row in measured] for name, measured in alternate(sides, PAYLOAD_ROUNDS).items()}
        served = [large - small for large, small in zip(p50["served 64"], p50["served 1"], strict=True)]
        beneath = [large - small for large, small in zip(p50["floor 64"], p50["floor 1"], strict=True)]
        extra = [mine - its for mine, its in zip(served, beneath, strict=True)]
        row: Row = {"link": link, "memory": memory, "small_bytes": floor.ROW_BYTES, "large_bytes": BATCHES[1] * floor.ROW_BYTES}
        row |= {
            "served_us": statistics.median(served),
            "floor_us": statistics.median(beneath),
            "extra_us": statistics.median(extra),
        }
        found.append({name: round(value, 1) if isinstance(value, float) else value for name, value in row.items()})
        print("payload", _line(found[-1]), flush=True)
    return found


def gather(server: Server) -> Row:
    """A batch of requests that do not lie side by side: the worker's time for its input, and a memcpy of the same bytes."""
    with Client(server.links["local"]) as client:
        model = client.model("gathering")
        slots = [client.buffers(model, batch=1) for _ in range(2 * GATHERED)][::2]  # the others keep them apart
        random = np.random.default_rng(0)
        for slot in slots:
            random.random(out=slot.inputs["image"], dtype=np.float32)
        images = [slot.inputs["image"] for slot in slots]
        together = np.zeros((GATHERED, *images[0].shape[1:]), np.float32)
        served_us, memcpy_us = [], []
        for _ in range(GATHER_ROUNDS):
            served_us.append(_gathered_us(client, slots))
            start = time.perf_counter_ns()
            for image, place in zip(images, together, strict=True):
                place[...] = image[0]
            memcpy_us.append((time.perf_counter_ns() - start) / 1e3)
    served, plain = statistics.median(served_us), statistics.median(memcpy_us)
    row = {"requests": GATHERED, "byte_size": together.nbytes, "served_us": round(served, 1), "memcpy_us": round(plain, 1)}
    row["times_memcpy"] = round(served / plain, 3)
    print("gather", _line(row), flush=True)
    return row


def _gathered_us(client: Client, slots: list[Any]) -> float:
    for slot in slots:
        slot.outputs["scores"][...] = np.nan
    futures = [client.submit(slot, explain=True) for slot in slots]
    results = [future.result() for future in futures]
    for slot, result in zip(slots, results, strict=True):
        if not np.array_equal(result.outputs["scores"].ravel(), slot.inputs["image"].ravel()[:10]):
            raise RuntimeError("the gathering model gave a wrong answer")
    explained = results[0].explain
    copies = {copy.kind: copy for copy in explained.copies}
    if explained.batch_requests != GATHERED or "gather" not in copies or copies["gather"].count != GATHERED:
        raise RuntimeError(f"not one batch with {GATHERED} copies: {explained}")
    return float(explained.compute_input_ns) / 1e3


def idle(server: Server) -> Row:
    """CPU of broker, workers and a connected client while nothing is asked of them, in percent of one core."""
    with Clients(server, "local", "overhead", in_flight=8) as load:
        load.measure(1.0)
        (client,) = load.processes
        before = {**server.cpu_ns(), "client": cpu_ns(client.pid)}
        time.sleep(IDLE_S)
        after = {**server.cpu_ns(), "client": cpu_ns(client.pid)}
    percent = {name: (after[name] - before[name]) / IDLE_S / 1e7 for name in before}
    row = {f"{name}_percent": round(value, 3) for name, value in percent.items()}
    row |= {"seconds": IDLE_S, "percent_of_one_core": round(sum(percent.values()), 3)}
    print("idle", _line(row), flush=True)
    return row


def _line(row: Row) -> str:
    return "  ".join(f"{name} {value}" for name, value in row.items())


def main() -> None:
    parser = argparse.ArgumentParser(description="What Penstock itself costs, against the floor.")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements per figure")
    parser.add_argument("--only", choices=("rows", "payload", "gather", "idle"))
    args = parser.parse_args()
    report: dict[str, Any] = {"bench": "overhead", "machine": machine()}
    with serving(models.repository("overhead")) as server:
        questions: dict[str, Callable[[], Any]] = {
            "rows": lambda: rows(server, args.seconds, args.rounds),
            "payload": lambda: payload(server),
            "gather": lambda: gather(server),
            "idle": lambda: idle(server),
        }
        for name, ask in questions.items():
            if args.only in (None, name):
                report[name] = ask()
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
