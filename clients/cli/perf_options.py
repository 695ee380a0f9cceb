# SPDX-License-Identifier: Apache-2.0
"""The options of `penstock perf`, in the groups of its help, and their values as click gives them."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any
from unicodedata import category

import click

from .options import address_option, in_order, json_option
from .several_values import SeveralNumbers, SeveralRates

GROUPS = {
    "evaluation_mode": "Load", "link": "Server", "shared_memory": "Inputs", "warmup": "Measuring", "name": "Results",
}  # fmt: skip
"""First parameter of a group -> the title that help gives it."""
SUFFIXES = (".csv", ".json", ".md")


def named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """NAME:1,2,3, split at the last colon: names may contain one."""
    name, separator, dims = text.rpartition(":")
    words = dims.split(",")
    if not separator or not name or not all(word.isdecimal() and int(word) for word in words):
        raise click.BadParameter(f"{text!r} is not NAME:1,2,3 with dims of at least 1")
    return name, tuple(map(int, words))


class FiniteRange(click.FloatRange):
    """A number within the range; neither `nan`, which is on neither side of any limit, nor `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click's own, after that."""
        found = super().convert(value, param, ctx)
        if not isfinite(found):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return found


def _check_text(text: str) -> None:
    """Files and pages have no place for what controls a terminal, nor for what is no UTF-8."""
    if any(category(each) in ("Cc", "Cs") for each in text):
        raise click.BadParameter(f"{text!r} has characters that cannot be shown")


def label(text: str) -> tuple[str, str]:
    """Key=Value, split at the first equals sign."""
    _check_text(text)
    key, separator, value = (part.strip() for part in text.partition("="))
    if not separator or not key or not value:
        raise click.BadParameter(f'{text!r} is not "Key=Value"')
    return key, value


def input_data(text: str) -> str:
    """random, zero, or the path of what is there."""
    if text not in ("random", "zero") and not Path(text).exists():
        raise click.BadParameter(f"{text!r} is neither random nor zero, nor a file or directory that is there")
    return text


def run_name(text: str) -> str:
    """Of a run, and of its files."""
    _check_text(text)
    if not text or text.startswith(".") or "/" in text or "\0" in text:
        raise click.BadParameter(f"{text!r} is to name files: no '/' in it, no '.' before it")
    return text


def result_path(text: str) -> Path:
    """A file of a kind that there is."""
    path = Path(text)
    if path.suffix not in SUFFIXES:
        raise click.BadParameter(f"{text!r} ends with none of {', '.join(SUFFIXES)}, which say what is written")
    if path.is_dir():
        raise click.BadParameter(f"{text!r} is a directory")
    return path


_OPTIONS = (
    click.option(
        "--evaluation-mode",
        type=click.Choice(["offline", "online"]),
        default="offline",
        show_default=True,
        help="offline: the client makes batches, one after the other. online: requests of one row, which the server batches.",
    ),
    click.option(
        "--batch-sizes",
        cls=SeveralNumbers,
        show_default="1 2 4 8 16 32 64, as far as MODEL takes them",
        help="Rows per request, offline; a row of the table for each.",
    ),
    click.option(
        "--concurrency",
        "concurrencies",
        cls=SeveralNumbers,
        show_default="1 offline, 8 16 32 64 128 256 online, as far as the server lets a client have in flight",
        help="Requests in flight: a closed loop, in which each answer is followed by the next request.",
    ),
    click.option(
        "--request-rate",
        "request_rates",
        cls=SeveralRates,
        help="Requests per second: an open loop, online, which sends by the clock; latency counts from when a request was due.",
    ),
    click.option(
        "--distribution",
        type=click.Choice(["poisson", "constant"]),
        show_default="poisson",
        help="Of the times between requests, with --request-rate.",
    ),
    click.option(
        "--processes",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Client processes that share the load, for when one is not enough.",
    ),
    click.option(
        "--latency-threshold-ms",
        type=FiniteRange(0, min_open=True),
        help="Look for the most load at which the p95 latency is no larger.",
    ),
    click.option(
        "--binary-search",
        is_flag=True,
        help="Look between the smallest and the largest of --concurrency or --request-rate by halving.",
    ),
    click.option(
        "--link",
        type=click.Choice(["local", "zmq", "http", "grpc"]),
        show_default="that of --address",
        help="local, zmq: that address of a broker. http, grpc: any server that speaks KServe v2; needs penstock[gateway].",
    ),
    address_option,
    click.option(
        "--serve",
        "repository",
        type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
        metavar="REPOSITORY",
        help="Start a broker on this repository for the measurement, and measure that one.",
    ),
    click.option(
        "--url",
        metavar="HOST:PORT",
        show_default="localhost:8000 for http, localhost:8001 for grpc",
        help="Of --link http and grpc.",
    ),
    click.option(
        "--shared-memory",
        type=click.Choice(["memfd", "system", "cuda", "none"]),
        show_default="memfd on the local link, system over ZeroMQ, none over tcp, http and grpc",
        help="What inputs and outputs lie in. none: they travel with the messages (not over local). memfd: local link only.",
    ),
    click.option(
        "--input-data",
        type=input_data,
        metavar="random|zero|FILE.json|DIR",
        default="random",
        show_default=True,
        help="random: fractions from 0 to 1, whole numbers from 0 to 127, strings of letters. Files: as perf_analyzer's.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random inputs."),
    click.option(
        "--shape",
        "shapes",
        type=named_shape,
        metavar="NAME:1,2,3",
        multiple=True,
        help="Dims of an input with variable ones, without the batch dimension. Repeatable.",
    ),
    click.option(
        "--string-length", type=click.IntRange(0), default=128, show_default=True, help="Of each random BYTES element."
    ),
    click.option(
        "--verify", is_flag=True, help="Check every answer. For models that give back what they get; costs throughput."
    ),
    click.option(
        "--warmup", type=click.IntRange(0), default=8, show_default=True, help="Requests before a row's first window."
    ),
    click.option(
        "--measurement-interval-ms", type=click.IntRange(1), show_default="1000", help="How long requests are sent in a window."
    ),
    click.option(
        "--measurement-request-count", type=click.IntRange(1), help="End a window after so many requests, and not by the clock."
    ),
    click.option(
        "--stability-percentage",
        type=FiniteRange(0),
        default=10.0,
        show_default=True,
        help="Stop when throughput and avg latency of three windows in a row differ by no more.",
    ),
    click.option(
        "--max-trials", type=click.IntRange(1), default=7, show_default=True, help="Stop after so many windows in any case."
    ),
    click.option("--strict", is_flag=True, help="Exit with 3 when a row did not become stable."),
    click.option(
        "--name",
        type=run_name,
        metavar="NAME",
        show_default="MODEL-offline, MODEL-online",
        help="Of the run, and of its files.",
    ),
    click.option(
        "--label",
        "labels",
        type=label,
        metavar='"KEY=VALUE"',
        multiple=True,
        help="A row of the configuration table, as the server does not tell it: --label Precision=FP16. Repeatable.",
    ),
    click.option(
        "--result-dir",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Write NAME.json, NAME.csv and NAME.md there; penstock report DIR makes tables and plots of them.",
    ),
    click.option(
        "--result-path",
        "result_paths",
        type=result_path,
        metavar="FILE.csv|.json|.md",
        multiple=True,
        help="Write this file, in the format that its suffix says. Repeatable.",
    ),
    json_option,
)

perf_options = in_order(_OPTIONS)
