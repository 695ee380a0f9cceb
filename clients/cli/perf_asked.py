# SPDX-License-Identifier: Apache-2.0
"""What the options of `penstock perf` ask for together. What makes no sense is refused by name, before anything is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..models import ModelInfo
    from ..perf.plan import Memory, Plan, Point, Windows

Options = Mapping[str, Any]
KSERVE_LINKS = ("http", "grpc")
ONLINE_CONCURRENCIES = (8, 16, 32, 64, 128, 256)
STALL_S, LEAST_IN_FLIGHT = 2.0, 64
"""An open loop goes on sending while a server answers nothing for so long, or for so many requests: all are prepared before."""


def _is_online(options: Options) -> bool:
    return bool(options["evaluation_mode"] == "online")


def _is_kserve(options: Options) -> bool:
    return options["link"] in KSERVE_LINKS


def _has_no_range(options: Options) -> bool:
    loads = options["request_rates"] or options["concurrencies"] or (ONLINE_CONCURRENCIES if _is_online(options) else ())
    return len(set(loads)) < 2


_REFUSALS: tuple[tuple[Callable[[Options], Any], str], ...] = (
    (
        lambda options: _is_online(options) and options["batch_sizes"],
        "--batch-sizes is for --evaluation-mode offline: an online request has one row, and the server makes the batches",
    ),
    (
        lambda options: not _is_online(options) and options["request_rates"],
        "--request-rate sends requests of one row by the clock: give --evaluation-mode online with it",
    ),
    (
        lambda options: options["concurrencies"] and options["request_rates"],
        "--concurrency keeps requests in flight, --request-rate sends them by the clock: give one of them",
    ),
    (
        lambda options: options["distribution"] and not options["request_rates"],
        "--distribution is that of the times at which --request-rate sends: give --request-rate with it",
    ),
    (
        lambda options: options["binary_search"] and options["latency_threshold_ms"] is None,
        "--binary-search looks for the most load within --latency-threshold-ms: give --latency-threshold-ms with it",
    ),
    (
        lambda options: options["binary_search"] and _has_no_range(options),
        "--binary-search looks between two values: give the smallest and the largest --concurrency or --request-rate",
    ),
    (
        lambda options: options["measurement_interval_ms"] and options["measurement_request_count"],
        "a window ends by --measurement-interval-ms or by --measurement-request-count: give one of them",
    ),
    (
        lambda options: options["repository"] and options["address"],
        "--serve measures a broker of its own: leave --address out",
    ),
    (
        lambda options: options["repository"] and _is_kserve(options),
        "--serve starts a broker, which is measured over --link local or zmq",
    ),
    (
        lambda options: options["address"] and _is_kserve(options),
        "--address is that of a broker: a server that speaks KServe v2 (--link http, grpc) has --url HOST:PORT",
    ),
    (
        lambda options: options["url"] and not _is_kserve(options),
        "--url is for --link http and grpc: a broker (--link local, zmq) has --address",
    ),
)


def check(options: Options) -> None:
    """`options["address"]` is what was typed. Raises UsageError for what cannot be asked for together."""
    for is_so, why in _REFUSALS:
        if is_so(options):
            raise click.UsageError(why)


def windows_of(options: Options) -> Windows:
    """How long is measured."""
    from ..perf.plan import INTERVAL_MS, Windows

    return Windows(
        warmup=options["warmup"], interval_ms=options["measurement_interval_ms"] or INTERVAL_MS,
        request_count=options["measurement_request_count"] or 0, stability_percentage=options["stability_percentage"],
        max_trials=options["max_trials"],
    )  # fmt: skip


def plan_of(model: ModelInfo, memory: Memory, max_in_flight: int, options: Options) -> Plan:
    """All that is to be measured. Raises CallerError naming what this model or this server cannot do."""
    from ..perf.plan import Plan, input_shapes

    shapes, points = dict(options["shapes"]), _points(model, max_in_flight * options["processes"], options)
    if options["input_data"] in ("random", "zero"):
        input_shapes(model, points[0].batch, shapes)
    return Plan(
        points=points, memory=memory, shapes=shapes, input_data=options["input_data"], string_length=options["string_length"],
        seed=options["seed"], verify=options["verify"], windows=windows_of(options), evaluation_mode=options["evaluation_mode"],
        distribution=options["distribution"] or "poisson", processes=options["processes"],
        latency_threshold_ms=options["latency_threshold_ms"], search="binary" if options["binary_search"] else "linear",
    )  # fmt: skip


def _points(model: ModelInfo, max_in_flight: int, options: Options) -> tuple[Point, ...]:
    from ..perf.plan import points_of

    if not _is_online(options):
        return points_of(model, options["batch_sizes"], options["concurrencies"] or (1,), max_in_flight)
    if options["request_rates"]:
        most = [min(max(LEAST_IN_FLIGHT, ceil(rate * STALL_S)), max_in_flight) for rate in options["request_rates"]]
        points = points_of(model, (1,), most, max_in_flight)
        return tuple(point._replace(request_rate=rate) for point, rate in zip(points, options["request_rates"], strict=True))
    fitting = [count for count in ONLINE_CONCURRENCIES if count <= max_in_flight] or [max_in_flight]
    return points_of(model, (1,), options["concurrencies"] or fitting, max_in_flight)


def run_name(model: str, options: Options) -> str:
    """Of the run and of its files."""
    return str(options["name"] or f"{model}-{options['evaluation_mode']}")


def result_files(name: str, options: Options) -> list[Path]:
    """Every file that is to be written, each once."""
    from ..perf.run_keeping import TEXTS

    folder: Path | None = options["result_dir"]
    beside = [folder / f"{name}{suffix}" for suffix in TEXTS] if folder is not None else []
    return list(dict.fromkeys([*beside, *options["result_paths"]]))
