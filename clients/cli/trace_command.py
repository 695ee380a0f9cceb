# SPDX-License-Identifier: Apache-2.0
"""`penstock trace`: records what becomes of requests and batches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ...ipc.errors import PenstockError
from .connecting import connected
from .failures import CommandFailed, exit_codes
from .options import address_option

if TYPE_CHECKING:
    from ..client import Client

EVERY_S = 0.2
"""How often records are fetched: far more often than a broker must drop any."""


@click.command(
    short_help="Record requests and batches for `penstock timeline`, Perfetto, and Triton's tools.",
    epilog=exit_codes(
        {
            0: "recorded (Ctrl-C ends a recording too)",
            1: "the broker answered with an error, or a file cannot be written",
            2: "wrong usage, or no connection",
        }
    ),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@address_option
@click.option("--model", default="", show_default="every model", help="Only requests for this model.")
@click.option("--duration-s", type=click.FloatRange(0.0), default=0.0, show_default="until Ctrl-C", help="Stop after so long.")
@click.option("--count", type=click.IntRange(0), default=0, show_default="any number", help="Stop after so many requests.")
@click.option(
    "--triton",
    "triton_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write Triton's trace JSON to this file too.",
)
def trace(file: Path, address: str | None, model: str, duration_s: float, count: int, triton_file: Path | None) -> None:
    """Record what becomes of requests until Ctrl-C, for a time, or for a number of requests, and write it to FILE.

    FILE is in Chrome's trace event format: open it in ui.perfetto.dev or chrome://tracing, or draw it with
    `penstock timeline FILE`. With --triton, the same requests in the format of Triton's trace files.

    Recording costs the broker about 2 us a request, and nothing where nobody records.
    """
    files = [each for each in (file, triton_file) if each is not None]
    with connected(address) as client:
        for each in files:
            _write(each, b"", "ab")  # before anything is recorded for a file that cannot be
        records, dropped, ended = _record(client, model, duration_s, count)
    import msgspec

    from ..timeline.chrome_trace import chrome_trace
    from ..timeline.records import trace_of
    from ..timeline.triton_trace import triton_trace

    found = trace_of(records, dropped)
    _write(file, msgspec.json.encode(chrome_trace(found)))
    if triton_file is not None:
        _write(triton_file, msgspec.json.encode(triton_trace(found)))
    requests = sum(len(batch.requests) for batch in found.batches)
    lost = f", {dropped} more were lost" if dropped else ""
    click.echo(f"{requests} requests in {len(found.batches)} batches, {len(found.early)} without one{lost}: {file}")
    if ended is not None:
        raise CommandFailed(f"the recording ended early: {ended}")


def _record(
    client: Client, model: str, duration_s: float, count: int
) -> tuple[list[dict[str, Any]], int, PenstockError | None]:
    """The records, how many were lost, and why it ended where that was not wanted: what led to it is worth the most then."""
    records: list[dict[str, Any]] = []
    dropped = requests = 0
    client.query("trace_start", model)
    click.echo("recording", err=True)
    end_s = time.monotonic() + duration_s if duration_s else float("inf")
    try:
        try:
            while time.monotonic() < end_s and not (count and requests >= count):
                time.sleep(min(EVERY_S, max(0.0, end_s - time.monotonic())))
                for answer in _taken(client):
                    records += answer["records"]
                    dropped += answer["dropped"]
                    requests += sum(len(record.get("requests", (0,))) for record in answer["records"])
        except KeyboardInterrupt:
            click.echo(err=True)
        for answer in _taken(client):
            records += answer["records"]
            dropped += answer["dropped"]
        client.query("trace_stop")
    except PenstockError as error:
        return records, dropped, error
    return records, dropped, None


def _taken(client: Client) -> Iterator[dict[str, Any]]:
    """Everything there is now."""
    more = True
    while more:
        answer = client.query("trace")
        yield answer
        more = answer["more"]


def _write(path: Path, content: bytes, mode: Literal["wb", "ab"] = "wb") -> None:
    try:
        with path.open(mode) as file:
            file.write(content)
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from error
