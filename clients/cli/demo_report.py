# SPDX-License-Identifier: Apache-2.0
"""What `penstock demo` says: the figures, as one document for scripts and as a page for people."""

from __future__ import annotations

import shutil
from typing import Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt

from .demo_run import CLIENTS, Outcome
from .digit_drawing import draw
from .rendering import duration, memory

TOLERANCE = 1e-5
"""How far a score may be from onnxruntime's own: batches of another size round differently in the last bits."""
ACCURACY_WANTED = 0.97
IMAGE_BYTES = 8 * 8 * 4


class Figures(NamedTuple):
    """The document of `penstock demo --json`."""

    images: int  # answers, each checked
    accuracy: float
    mismatches: int
    requests_per_s: float
    p50_us: float
    p99_us: float
    batch_sizes: dict[int, int]  # rows of a batch -> batches
    copies: dict[str, dict[str, int]]  # kind -> count and byte_size

    @property
    def is_good(self) -> bool:
        """Whether the demo showed what it promises."""
        return self.mismatches == 0 and self.accuracy >= ACCURACY_WANTED


def figures_of(outcome: Outcome) -> Figures:
    """Counts and times what came back."""
    scores = all_scores(outcome)
    latencies_us = np.concatenate([answers.latencies_ns.ravel() for answers in outcome.answers]) / 1000
    started_ns = min(answers.started_ns for answers in outcome.answers)
    ended_ns = max(answers.ended_ns for answers in outcome.answers)
    answered = scores.shape[0] * scores.shape[1]
    return Figures(
        images=answered,
        accuracy=float(((scores.argmax(axis=2) == outcome.labels) & np.isfinite(scores).all(axis=2)).mean()),
        mismatches=int((~_agree(scores, outcome.direct)).sum()),
        requests_per_s=round(answered / ((ended_ns - started_ns) / 1e9), 1),
        p50_us=round(float(np.percentile(latencies_us, 50)), 1),
        p99_us=round(float(np.percentile(latencies_us, 99)), 1),
        batch_sizes={row["batch_size"]: row["compute_infer"]["count"] for row in outcome.statistics["batch_stats"]},
        copies=outcome.stages["copies"],
    )


def all_scores(outcome: Outcome) -> npt.NDArray[np.float32]:
    """The clients' shares put together again: [rounds, images, 10]."""
    rounds = outcome.answers[0].scores.shape[0]
    scores = np.full((rounds, len(outcome.images), 10), np.nan, np.float32)
    for number, answers in enumerate(outcome.answers):
        scores[:, number::CLIENTS] = answers.scores
    return scores


def _agree(scores: npt.NDArray[np.float32], direct: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Per answer, whether it is onnxruntime's own; one that was never written (NaN) is not."""
    agree: npt.NDArray[np.bool_] = (np.abs(scores - direct) <= TOLERANCE).all(axis=2)
    return agree


def print_report(outcome: Outcome, figures: Figures, left: list[str]) -> None:
    """The page."""
    scores = all_scores(outcome)
    click.echo(
        f"{CLIENTS} client processes, two over each link, sent {figures.images} scans of handwriting the model never saw:\n"
    )
    for line in _drawing(outcome, scores):
        click.echo(f"  {line}")
    right = round(figures.accuracy * figures.images)
    furthest = float(np.abs(scores - outcome.direct).max())
    closed: dict[str, int] = outcome.stages["closed"]
    copied = [f"{kind} {row['count']} times, {memory(row['byte_size'])}" for kind, row in figures.copies.items()]
    lines = {
        "accuracy": f"{figures.accuracy:.2%} ({right} of {figures.images})",
        "checked": f"{figures.images} answers against onnxruntime called directly: {figures.mismatches} differ by more than "
        f"{TOLERANCE:g} (largest difference {furthest:.1g})",
        "speed": f"{figures.requests_per_s:,.0f} requests/s; p50 {duration(figures.p50_us * 1e3)}, p99 "
        f"{duration(figures.p99_us * 1e3)}, with all of a client's digits in flight at once",
        "batches": ", ".join(f"{count} of {size}" for size, count in sorted(figures.batch_sizes.items(), reverse=True)),
        "closed": ", ".join(f"{count} {reason}" for reason, count in sorted(closed.items(), key=lambda item: -item[1])),
        "copied": f"{'; '.join(copied) or 'nothing'}; {memory(figures.images * IMAGE_BYTES)} of images were sent",
        "left behind": ", ".join(left) or "no process, no file, nothing in /dev/shm",
    }
    click.echo()
    for name, text in lines.items():
        click.echo(f"  {name:<12} {text}")


def _drawing(outcome: Outcome, scores: npt.NDArray[np.float32]) -> list[str]:
    """A few digits, one that was read wrong among them where there is one."""
    read = scores[-1].argmax(axis=1)
    wrong = list(np.flatnonzero(read != outcome.labels)[:1])
    chosen = [*range(3), *wrong, *range(3, 6)]
    captions = [_caption(int(read[position]), int(outcome.labels[position])) for position in chosen]
    return draw(outcome.images[chosen], captions, shutil.get_terminal_size().columns - 2)


def _caption(read: int, label: int) -> str:
    return f"read as {read}" if read == label else f"read as {read}, is {label}"


def document_of(figures: Figures) -> dict[str, Any]:
    """For --json."""
    return figures._asdict()
