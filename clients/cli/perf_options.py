# SPDX-License-Identifier: Apache-2.0
"""The options of `penstock perf`, in the groups of its help, and their values as click gives them."""

from __future__ import annotations

from pathlib import Path

import click

from .options import address_option, in_order, json_option
from .several_values import SeveralNumbers


def named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """NAME:1,2,3, split at the last colon: names may contain one."""
    name, separator, dims = text.rpartition(":")
    words = dims.split(",")
    if not separator or not name or not all(word.isdecimal() and int(word) for word in words):
        raise click.BadParameter(f"{text!r} is not NAME:1,2,3 with dims of at least 1")
    return name, tuple(map(int, words))


_OPTIONS = (
    click.option(
        "--evaluation-mode",
        type=click.Choice(["offline"]),
        default="offline",
        show_default=True,
        help="offline: a closed loop, which keeps a fixed number of requests in flight.",
    ),
    click.option(
        "--batch-sizes",
        cls=SeveralNumbers,
        show_default="1 2 4 8 16 32 64, as far as MODEL takes them",
        help="Rows per request; a row of the table for each.",
    ),
    click.option(
        "--concurrency", "concurrencies", cls=SeveralNumbers, default=["1"], show_default="1", help="Requests in flight."
    ),
    click.option(
        "--shared-memory",
        type=click.Choice(["memfd", "system", "none"]),
        show_default="memfd on the local link, system over ZeroMQ, none over tcp",
        help="What inputs and outputs lie in. none: they travel with the messages (ZeroMQ only). memfd: local link only.",
    ),
    click.option(
        "--link",
        type=click.Choice(["local", "zmq"]),
        show_default="that of --address",
        help="Which of the broker's addresses is used.",
    ),
    click.option(
        "--input-data",
        type=click.Choice(["random", "zero"]),
        default="random",
        show_default=True,
        help="random: fractions from 0 to 1, whole numbers from 0 to 127, strings of letters.",
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
        type=click.FloatRange(0),
        default=10.0,
        show_default=True,
        help="Stop when throughput and avg latency of three windows in a row differ by no more.",
    ),
    click.option(
        "--max-trials", type=click.IntRange(1), default=10, show_default=True, help="Stop after so many windows in any case."
    ),
    click.option("--strict", is_flag=True, help="Exit with 3 when a row did not become stable."),
    click.option("--verify", is_flag=True, help="Check every answer. For models of the identity backend; costs throughput."),
    click.option(
        "--result-path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.csv", help="Write the table there too."
    ),
    click.option(
        "--serve",
        "repository",
        type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
        metavar="REPOSITORY",
        help="Start a broker on this repository for the measurement, and measure that one.",
    ),
    address_option,
    json_option,
)

perf_options = in_order(_OPTIONS)
