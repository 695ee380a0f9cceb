# SPDX-License-Identifier: Apache-2.0
"""What `penstock demo people-detection` says and writes: calls, Triton's statistics, times, charts, images with boxes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..people_detection.boxes import Box, found
from ..people_detection.calling import largest_difference
from ..people_detection.counting import Means, means
from ..people_detection.demonstration import Demonstrated
from ..people_detection.drawing import draw_boxes
from ..people_detection.images import LoadedImage
from ..people_detection.memory import why_unpinned
from .failures import CommandFailed
from .rendering import duration, print_table

TOLERANCE = 0.01
"""How far answers to one image may be apart: batches of another size round differently, most in half precision."""
NO_NUMBERS = "an answer has values that are no numbers, or was not written whole"
CHART_WIDTH = 48
_DURATION = re.compile(r'\{\s+"count": (\d+),\s+"ns": (\d+)\s+\}')


class Shown(NamedTuple):
    """A round, with what was made of its answers."""

    done: Demonstrated
    means: Means
    objects: list[list[Box]]  # per call
    largest_difference: float
    overlays: list[str]  # files, where they were asked for

    @property
    def on(self) -> str:
        """What the instances compute on."""
        gpus = sorted({row["gpu"]["ordinal"] for row in self.done.workers if row["gpu"]})
        return f"GPU {', '.join(map(str, gpus))}" if gpus else "the CPU"


def shown_of(done: Demonstrated, image: LoadedImage, folder: Path | None) -> Shown:
    """Boxes of the answers; with a folder, drawn there. Says on standard error what is not as it was asked for."""
    objects = [found(answer.coverage, answer.boxes) for answer in done.round.answers]
    overlays = [] if folder is None else _write_overlays(image, objects, folder)
    counted, calls = done.counted["inference_stats"]["success"]["count"], len(done.round.calls)
    if counted != calls:
        click.echo(
            f"penstock: the statistics are of {counted} requests, {calls} of them ours: somebody else calls the model", err=True
        )
    if done.memory == "pinned" and (reason := why_unpinned(done.region)):
        click.echo(f"penstock: nothing is pinned: {reason}", err=True)
    return Shown(done, means(done.counted), objects, largest_difference(done.round.answers), overlays)


def _write_overlays(image: LoadedImage, objects: Sequence[Sequence[Box]], folder: Path) -> list[str]:
    files = [folder / f"capture_overlay_{number}.png" for number in range(len(objects))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, boxes in zip(files, objects, strict=True):
            draw_boxes(image.original, boxes).save(file)
    except OSError as error:
        raise CommandFailed(f"cannot write to {folder}: {error.strerror or error}") from error
    return [str(file) for file in files]


# --- one round -------------------------------------------------------------------------------------------------------------


def print_round(shown: Shown, verbose: bool) -> None:
    """The page."""
    done = shown.done
    click.echo(
        f"{done.model.name}/{done.model.version}: {_counted(done.instances, 'instance')} on {shown.on}, dynamic batching "
        f"{'on' if done.dynamic_batching else 'off'}; {len(done.round.calls)} calls at once, tensors in {done.memory} memory"
    )
    if verbose:
        _print_calls(shown)
    click.echo(f"found   {_listed(shown.objects[0])}; {_alike(shown)}")
    if together := _how_batched(shown.done):
        click.echo(f"batches {together}")
    if shown.overlays:
        click.echo(f"images  {shown.overlays[0]} to {Path(shown.overlays[-1]).name}")
    click.echo(f"\nModel '{done.model.name}' Stats:\n{_indented({'model_stats': [done.counted]})}")
    click.echo(f"\nTOTAL INFERENCE TIME: {done.round.total_ns / 1e6:.0f}ms")


def _how_batched(done: Demonstrated) -> str:
    """Why calls were batched otherwise than the first alone and the others together; empty where nothing is to be said."""
    if not done.dynamic_batching or len(done.round.calls) == 1:
        return ""
    if done.counted["execution_count"] == 1:
        return "one of all calls: they had come before the first was sent on, as on a busy machine, or as a queue delay has it"
    if done.counted["execution_count"] == done.counted["inference_count"]:
        return "none of several calls: an instance was free for each, or max_batch_size is 1"
    return ""


def _indented(document: dict[str, Any]) -> str:
    """JSON for people: as Triton indents it, but each count with its duration in one line."""
    return _DURATION.sub(r'{"count": \1, "ns": \2}', json.dumps(document, indent=3))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _print_calls(shown: Shown) -> None:
    for number, call in enumerate(shown.done.round.calls):
        how = call.explanation
        together = f"with {how.batch_requests - 1} more" if how.batch_requests > 1 else "alone"
        compute_ns = how.compute_input_ns + how.compute_infer_ns + how.compute_output_ns
        click.echo(
            f"call {number}  {duration(call.latency_ns)}: queue {duration(how.queue_ns)}, compute {duration(compute_ns)} "
            f"by {how.instance} {together}"
        )
    for box in shown.objects[0]:
        click.echo(f"{box.label:<6}  {box.confidence:.2f} at ({box.x1:.0f}, {box.y1:.0f}) to ({box.x2:.0f}, {box.y2:.0f})")


def _listed(boxes: Sequence[Box]) -> str:
    counted = Counter(box.label for box in boxes)
    return ", ".join(f"{count} {label}" for label, count in counted.items()) or "nothing"


def _alike(shown: Shown) -> str:
    if shown.largest_difference == 0:
        return "every answer the same to the bit"
    if not isfinite(shown.largest_difference):
        return NO_NUMBERS
    why = " (batches of another size round differently)" if shown.largest_difference <= TOLERANCE else ""
    return f"answers differ by at most {shown.largest_difference:.1g}{why}"


# --- a sweep ---------------------------------------------------------------------------------------------------------------


def print_sweep_line(shown: Shown, verbose: bool) -> None:
    """A round of several, while they go on."""
    done = shown.done
    click.echo(
        f"{_counted(done.instances, 'instance')} on {shown.on}: {_counted(done.counted['execution_count'], 'execution')}, "
        f"{done.round.total_ns / 1e6:.0f} ms; {_listed(shown.objects[0])}; {_alike(shown)}"
    )
    if verbose:
        _print_calls(shown)


def print_sweep(rounds: Sequence[Shown]) -> None:
    """The table and the chart."""
    done = rounds[0].done
    batching = "on" if done.dynamic_batching else "off"
    title = f"{done.model.name}/{done.model.version}: {len(done.round.calls)} calls at once, dynamic batching {batching}"
    columns = ("instances", "executions", "total ms", "request ms", "queue ms", "compute ms", "batches")
    click.echo()
    print_table(title, columns, [_row(shown) for shown in rounds], right_from=0)
    click.echo("total, ms")
    longest = max(shown.done.round.total_ns for shown in rounds)
    for shown in rounds:
        total_ns = shown.done.round.total_ns
        click.echo(f"{shown.done.instances:>3} {_bar('█', total_ns / longest)} {total_ns / 1e6:.1f}")
    click.echo("\na request's mean, ms: ░ queue, █ compute")
    longest_ms = max(shown.means.queue_ms + shown.means.compute_ms for shown in rounds)
    for shown in rounds:
        queue, compute = shown.means.queue_ms, shown.means.compute_ms
        bars = _bar("░", queue / longest_ms) + _bar("█", compute / longest_ms)
        click.echo(f"{shown.done.instances:>3} {bars} {queue:.1f} + {compute:.1f}")


def _row(shown: Shown) -> tuple[object, ...]:
    times_ms = (shown.done.round.total_ns / 1e6, shown.means.request_ms, shown.means.queue_ms, shown.means.compute_ms)
    batches = ", ".join(f"{row['compute_infer']['count']} of {row['batch_size']}" for row in shown.done.counted["batch_stats"])
    times = (f"{time_ms:.1f}" for time_ms in times_ms)
    return shown.done.instances, shown.done.counted["execution_count"], *times, batches


def _bar(character: str, share: float) -> str:
    return character * round(share * CHART_WIDTH)


# --- for scripts -----------------------------------------------------------------------------------------------------------


def document_of(shown: Shown) -> dict[str, Any]:
    """An element of `rounds`."""
    done = shown.done
    return {
        "model": done.model.name,
        "version": done.model.version,
        "memory": done.memory,
        "pinned_by": done.region["pinned_by"],
        "instances": done.instances,
        "on": sorted({row["gpu"]["uuid"] if row["gpu"] else "cpu" for row in done.workers}),
        "dynamic_batching": done.dynamic_batching,
        "total_ms": done.round.total_ns / 1e6,
        **shown.means._asdict(),
        "calls": [
            {
                "latency_ms": call.latency_ns / 1e6,
                "queue_ms": call.explanation.queue_ns / 1e6,
                "compute_input_ms": call.explanation.compute_input_ns / 1e6,
                "compute_infer_ms": call.explanation.compute_infer_ns / 1e6,
                "compute_output_ms": call.explanation.compute_output_ns / 1e6,
                "instance": call.explanation.instance,
                "batch_size": call.explanation.batch_size,
            }
            for call in done.round.calls
        ],
        "objects": [box._asdict() for box in shown.objects[0]],
        "largest_difference": shown.largest_difference,
        "statistics": {"model_stats": [done.counted]},
        "overlays": shown.overlays,
    }
