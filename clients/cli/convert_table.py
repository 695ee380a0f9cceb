# SPDX-License-Identifier: Apache-2.0
"""The tables of `penstock convert`: outputs against their source's, and, of a search, the attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ..convert.correctness import Comparison
from ..convert.report import Verdict
from .rendering import duration, print_table

SHOWN_CHARACTERS = 24
"""Of a value: texts may be long."""


def print_verdicts(verdicts: Sequence[Verdict], chosen: Verdict | None) -> None:
    """On standard output: the attempts where there are several, then the chosen one's outputs, or those that are wrong."""
    if len(verdicts) > 1 or chosen is None:
        columns = ("Attempt", "Outcome", "Inferences/Second", "Batch", "p50", "Max abs error")
        print_table("", columns, [_attempt(verdict, verdict is chosen) for verdict in verdicts], right_from=2)
        for verdict in verdicts:
            if verdict.error:
                click.echo(f"{verdict.attempt}: {verdict.error}")
    shown = [chosen] if chosen is not None else [each for each in verdicts if each.comparisons]
    for verdict in shown:
        titles = ("Output", "Where", "Max abs error", "Max rel error", "atol", "rtol", "Wrong", "Worst", "Source", "Found")
        print_table(str(verdict.attempt), titles, [_row(where, each) for where, each in verdict.comparisons], right_from=2)
        for where, each in verdict.comparisons:
            if each.mismatch:
                click.echo(f"output '{each.output}' ({where}): {each.mismatch}")


def _attempt(verdict: Verdict, is_chosen: bool) -> tuple[str, ...]:
    errors = [each.max_abs_error for _, each in verdict.comparisons]
    figures = ("-", "-", "-")
    if verdict.speed is not None:
        figures = (f"{verdict.speed.inferences_per_s:.1f}", str(verdict.speed.batch), duration(verdict.speed.latencies.p50_ns))
    outcome = "kept" if is_chosen else "right" if verdict.is_right else "failed" if verdict.error else "wrong"
    return str(verdict.attempt), outcome, *figures, _number(max(errors)) if errors else "-"


def _row(where: str, each: Comparison) -> tuple[str, ...]:
    worst = ("-", "-", "-")
    if each.worst is not None:
        place = f"request {each.worst.request} {list(each.worst.place)}"
        worst = (place, _value(each.worst.expected), _value(each.worst.found))
    return (
        each.output, where, _number(each.max_abs_error), _number(each.max_rel_error), _number(each.tolerance.atol),
        _number(each.tolerance.rtol), f"{each.wrong} of {each.elements}", *worst,
    )  # fmt: skip


def _number(value: float) -> str:
    return f"{value:.3g}"


def _value(value: Any) -> str:
    text = f"{value:.7g}" if isinstance(value, float) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
