# SPDX-License-Identifier: Apache-2.0
"""Whether `penstock perf` says what a stopwatch says: the command and a plain loop around Client.infer, by turns in one run.

The stopwatch is what a user would write: one slot, one request after the other, the clock around each. Both sides are processes
of their own on the same broker. Printed are the medians of the rounds, and the median of the ratios command / stopwatch of each
round: 1 is agreement, and 0.95 to 1.05 is what is asked for.

usage: perf_agreement.py [--model NAME] [--batch B] [--link local|zmq] [--seconds S] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from measurement import Row, alternate, median_row
from server import serving

from penstock.clients import Client

MODELS = Path(__file__).resolve().parents[1] / "model_repository"
WARM_UP = 50


def command(address: str, model: str, batch: int, seconds: float) -> Row:
    words = [sys.executable, "-m", "penstock.clients.cli", "perf", model, "--address", address, "--json"]
    words += ["--batch-sizes", str(batch), "--warmup", str(WARM_UP), "--max-trials", "3"]
    words += ["--measurement-interval-ms", str(int(seconds / 3 * 1000))]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    (row,) = json.loads(done.stdout)["rows"]
    return {
        "inferences_per_s": row["inferences_per_s"],
        "p50_us": row["p50_latency_ms"] * 1e3,
        "avg_us": row["avg_latency_ms"] * 1e3,
    }


def stopwatch(address: str, model: str, batch: int, seconds: float) -> Row:
    latencies_ns = []
    with Client(address) as client, client.buffers(model, batch=batch) as io:
        for array in io.inputs.values():
            array[...] = np.random.default_rng(0).random(array.shape)
        for _ in range(WARM_UP):
            client.infer(io)
        started_ns = time.monotonic_ns()
        while time.monotonic_ns() < started_ns + seconds * 1e9:
            begun_ns = time.monotonic_ns()
            client.infer(io)
            latencies_ns.append(time.monotonic_ns() - begun_ns)
        elapsed_ns = time.monotonic_ns() - started_ns
    return {
        "inferences_per_s": batch * len(latencies_ns) / elapsed_ns * 1e9,
        "p50_us": float(np.median(latencies_ns)) / 1e3,
        "avg_us": float(np.mean(latencies_ns)) / 1e3,
    }


def in_a_process(address: str, model: str, batch: int, seconds: float) -> Row:
    words = [sys.executable, __file__, "--stopwatch", address, "--model", model, "--batch", str(batch)]
    done = subprocess.run([*words, "--seconds", str(seconds)], stdout=subprocess.PIPE, check=True)
    row: Row = json.loads(done.stdout)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="penstock perf against a stopwatch.")
    parser.add_argument("--model", default="digits")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--link", choices=("local", "zmq"), default="local")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--stopwatch", metavar="ADDRESS", help="be the stopwatch, print one JSON object")
    args = parser.parse_args()
    if args.stopwatch:
        print(json.dumps(stopwatch(args.stopwatch, args.model, args.batch, args.seconds)))
        return
    with serving(MODELS) as server:
        what = (server.links[args.link], args.model, args.batch, args.seconds)
        sides = {"perf": lambda: command(*what), "stopwatch": lambda: in_a_process(*what)}
        found = alternate(sides, args.rounds)
    for name, rows in found.items():
        print(f"{name:<10}", "  ".join(f"{figure} {value:.1f}" for figure, value in median_row(rows).items()))
    pairs = list(zip(found["perf"], found["stopwatch"], strict=True))
    ratios = {figure: statistics.median(perf[figure] / watch[figure] for perf, watch in pairs) for figure in found["perf"][0]}
    print(f"{'ratio':<10}", "  ".join(f"{figure} {value:.3f}" for figure, value in ratios.items()))


if __name__ == "__main__":
    main()
