# SPDX-License-Identifier: Apache-2.0
"""How much of onnxruntime's own speed is left when a real model is served: both sides by turns in one run.

In process: the best of plain loops around onnxruntime, over the numbers of threads, with spinning threads and without, each on
distinct inputs. Served: the same batch size as one request, a few requests in flight, through the public Client. Percentages
are of the best loop's median.

usage: real_model.py [--json FILE] [--seconds S] [--rounds N] [--only MODEL]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnxruntime
from measurement import Row, alternate, machine, median_row
from programs import Clients
from server import Server, serving

CASES = (("resnet50_shaped", 1, 1), ("resnet50_shaped", 8, 3), ("one_ms", models.ONE_MS_BATCH, 1))
"""(model, rows per request, how many times --seconds a measurement lasts: a batch that takes a second needs more)."""
IN_FLIGHT = 4
DISTINCT_INPUTS = 4


class Loop:
    """onnxruntime called in this process, again and again."""

    def __init__(self, file: Path, batch: int, threads: int, spinning: bool) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        (tensor,) = self.session.get_inputs()
        random = np.random.default_rng(0)
        shape = (batch, *tensor.shape[1:])
        self.feeds = [{tensor.name: random.random(shape, np.float32)} for _ in range(DISTINCT_INPUTS)]
        self.name = f"{threads} thread{'s' * (threads > 1)}{', spinning' * (spinning and threads > 1)}"

    def measure(self, seconds: float) -> Row:
        run, feeds, batches = self.session.run, self.feeds, 0
        run(None, feeds[0])
        started = now = time.perf_counter()
        while now - started < seconds:
            run(None, feeds[batches % DISTINCT_INPUTS])
            batches += 1
            now = time.perf_counter()
        return {"batches_per_s": round(batches / (now - started), 2)}


def loops(file: Path, batch: int) -> list[Loop]:
    cores = len(os.sched_getaffinity(0))
    return [Loop(file, batch, 1, spinning=False)] + [
        Loop(file, batch, cores, spinning) for spinning in (False, True) if cores > 1
    ]


def compare(server: Server, repository: Path, model: str, batch: int, link: str, seconds: float, rounds: int) -> Row:
    """One model at one batch size: the served rate, and its share of the best loop's."""
    file = repository / model / "1" / "model.onnx"
    in_process = {loop.name: loop for loop in loops(file, batch)}
    with Clients(server, link, model, in_flight=IN_FLIGHT, batch=batch, onnx=file) as load:
        sides: dict[str, Callable[[], Row]] = {name: partial(loop.measure, seconds) for name, loop in in_process.items()}
        sides["served"] = partial(load.measure, seconds)
        measured = {name: median_row(found) for name, found in alternate(sides, rounds).items()}
    served = measured.pop("served")
    rates = {name: row["batches_per_s"] for name, row in measured.items()}
    best = max(rates, key=lambda name: float(rates[name]))
    return {
        "model": model, "batch": batch, "link": link, "in_flight": IN_FLIGHT,
        "served_batches_per_s": served["requests_per_s"], "best_loop": best, "loop_batches_per_s": rates[best],
        "percent": round(100 * served["requests_per_s"] / rates[best], 1), "loops": rates,
        "p50_us": served["p50_us"], "p99_us": served["p99_us"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Served models against plain onnxruntime loops.")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements per figure")
    parser.add_argument("--only", choices=sorted({model for model, _, _ in CASES}))
    args = parser.parse_args()
    repository = models.repository("real_model")
    report: dict[str, Any] = {"bench": "real_model", "machine": machine(), "rows": []}
    with serving(repository) as server:
        chosen = [case for case in CASES if args.only in (None, case[0])]
        for (model, batch, times), link in itertools.product(chosen, server.links):
            row = compare(server, repository, model, batch, link, args.seconds * times, args.rounds)
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            report["rows"].append(row)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
