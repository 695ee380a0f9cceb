# SPDX-License-Identifier: Apache-2.0
"""`penstock timeline`: draws a recording."""

from __future__ import annotations

import codecs
import shutil
import sys
from pathlib import Path

import click

from .failures import CommandFailed, exit_codes, failing_as

NARROWEST = 40


@click.command(
    short_help="Draw a recording of `penstock trace`: instances over time, in the terminal and as SVG.",
    epilog=exit_codes({0: "drawn", 1: "FILE is not a recording, or the picture cannot be written", 2: "wrong usage"}),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--svg", "svg_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a picture to this file too.")
@click.option(
    "--from-ms", type=click.FloatRange(0.0), default=0.0, show_default=True, help="Begin so long after the first arrival."
)
@click.option("--to-ms", type=click.FloatRange(0.0), default=0.0, show_default="the end", help="End so long after it.")
@click.option("--requests", "with_requests", is_flag=True, help="Draw each request too: dots while it waits, then its batch.")
@click.option("--width", type=click.IntRange(NARROWEST), show_default="the terminal's", help="Columns.")
def timeline(file: Path, svg_file: Path | None, from_ms: float, to_ms: float, with_requests: bool, width: int | None) -> None:
    """Draw FILE: a lane for each instance with the batches it executed, xN where one of N rows begins, and below them how many
    requests of the model waited (a digit; + from ten on).

    One lane with batches back to back is an instance that serialises; lanes side by side are parallel; a digit under full
    lanes is a request that waits for the next free one.
    """  # noqa: D205 - the first paragraph is the help text's first paragraph
    import msgspec

    from ..timeline.chrome_trace import read_chrome_trace
    from ..timeline.drawing import PLAIN, draw
    from ..timeline.svg import svg

    with failing_as(CommandFailed):
        try:
            found = read_chrome_trace(msgspec.json.decode(file.read_bytes()))
        except (OSError, msgspec.DecodeError) as error:
            raise CommandFailed(f"{file}: {error}") from error
    begin_ns = found.begin_ns + int(from_ms * 1e6)
    end_ns = found.begin_ns + int(to_ms * 1e6) if to_ms else found.end_ns
    shown = found.between(begin_ns, end_ns)
    lines = draw(shown, width or max(shutil.get_terminal_size((100, 24)).columns, NARROWEST), with_requests=with_requests)
    for line in lines:
        click.echo(line if _has_unicode() else line.translate(PLAIN))
    if svg_file is not None:
        try:
            svg_file.write_text(svg(shown), encoding="utf-8")
        except OSError as error:
            raise CommandFailed(f"{svg_file}: {error.strerror}") from error


def _has_unicode() -> bool:
    """Whether standard output takes every character."""
    return codecs.lookup(sys.stdout.encoding or "ascii").name.startswith("utf")
