# SPDX-License-Identifier: Apache-2.0
"""What a reader must know before believing the figures. Nothing that is wrong with a run is left to be found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .levels import place_of
from .reading import NumberedRun, in_a_line

MOST_NAMED = 8
"""Rows in one sentence; the tables mark them all."""
NOTHING = "Every run is complete, every row became stable, and no request failed."


def warnings_of(runs: Sequence[NumberedRun]) -> tuple[str, ...]:
    """A sentence each, in the order of the runs and of their rows."""
    return tuple(sentence for numbered in runs for sentence in _of_run(numbered, f"Run {numbered.number}: " * (len(runs) > 1)))


def _of_run(numbered: NumberedRun, who: str) -> Iterator[str]:
    run = numbered.run
    if not run.complete:
        yield f"{who}Incomplete: it was interrupted or has failed; the {len(run.rows)} rows here were measured before that."
    for note in run.notes:
        yield f"{who}{in_a_line(note)}"
    unstable = [str(place_of(row)) for row in run.rows if not row.stable]
    if unstable:
        named = "; ".join(unstable if len(unstable) <= MOST_NAMED else [*unstable[:MOST_NAMED], "..."])
        yield f"{who}{len(unstable)} of {len(run.rows)} rows did not become stable (†): {named}."
    for row in run.rows:
        if row.failed:
            yield f"{who}{place_of(row)}: {row.failed:,} requests failed; they are in no latency."
        for note in row.notes:
            yield f"{who}{place_of(row)}: {in_a_line(note)}"
