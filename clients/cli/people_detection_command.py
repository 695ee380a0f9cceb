# SPDX-License-Identifier: Apache-2.0
"""`penstock demo people-detection`: concurrent execution and dynamic batching, seen on a people detector."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .connecting import connected
from .failures import CommandFailed, exit_codes, failing_as
from .people_detection_options import people_detection_options
from .rendering import print_json

if TYPE_CHECKING:
    from ..client import Client
    from ..people_detection.demonstration import Plan
    from ..people_detection.images import LoadedImage
    from .people_detection_report import Shown


@click.command(
    "people-detection",
    short_help="Call a people detector several times at once: concurrent execution, dynamic batching.",
    epilog=exit_codes(
        {
            0: "every call was answered, and all alike",
            1: "the broker or the model answered with an error, answers differ, the memory cannot be had, or a file cannot be "
            "read or written",
            2: "wrong usage, or no connection to a broker",
        }
    ),
)
@people_detection_options
def people_detection(repository: str | None, address: str | None, as_json: bool, **options: Any) -> None:
    """Call a people detector (the layout of PeopleNet) several times at once on one image, and print what was counted of it.

    Serves REPOSITORY for that, models for GPUs on the CPU where there is none. In trtis_model_repo_sample_1 the model has three
    instances, which execute the calls side by side; in trtis_model_repo_sample_2 it has one, which executes together the calls
    that came while it was busy. The calls of --warmup are not in the statistics, and TOTAL INFERENCE TIME has neither them nor
    what is done to images and boxes. docs/demonstrations.md goes through both.

    With --json: an object with image, warm_up and rounds, an array of objects, one for each count of --sweep-count: model,
    version, memory, pinned_by, instances, on, dynamic_batching, total_ms, request_ms, queue_ms and compute_ms (means), calls,
    objects, largest_difference (null where an answer has values that are no numbers), statistics (Triton's document) and
    overlays.
    """
    if address is not None and (repository is not None or options["counts"] or options["dynamic_batching"] is not None):
        raise click.UsageError("-u calls models as they are served: leave out -r, --sweep-count and --dynamic-batching, or -u")
    from ..people_detection.samples import CONCURRENT, repository_at

    with failing_as(CommandFailed):
        served = None if address is not None else repository_at(repository or CONCURRENT)
        image, plan = _prepared(options)
    with _client(address, served) as client:
        shown = list(_demonstrations(client, plan, image, options, as_json))
    if as_json:
        from .people_detection_report import document_of

        source = str(options["image"] or "drawn")
        print_json({"image": source, "warm_up": plan.warm_up, "rounds": [document_of(each) for each in shown]})
    _check_alike(shown)


def _prepared(options: dict[str, Any]) -> tuple[LoadedImage, Plan]:
    """What the options ask for; what cannot be had is said before anything is started."""
    from ..people_detection.demonstration import Plan
    from ..people_detection.images import load_image, need_pillow
    from ..people_detection.memory import check_memory
    from ..people_detection.samples import sample_image

    check_memory(options["memory"])
    if options["save"]:
        need_pillow("-s true")
        _check_writable(options["output_dir"])
    image = load_image(options["image"]) if options["image"] else sample_image()
    return image, Plan(image.tensor, options["memory"], options["tasks"], options["warm_up"])


def _check_writable(folder: Path) -> None:
    """By what there is of its path already; nothing is made yet."""
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise CommandFailed(f"cannot write to {folder}: {place} is no directory that can be written to")


@contextmanager
def _client(address: str | None, repository: Path | None) -> Iterator[Client]:
    from .own_broker import own_broker

    with ExitStack() as held:
        if repository is not None:
            address, _ = held.enter_context(own_broker(repository))
        yield held.enter_context(connected(address))


def _demonstrations(client: Client, plan: Plan, image: LoadedImage, options: dict[str, Any], as_json: bool) -> Iterator[Shown]:
    """Each round, printed as soon as there is something to print."""
    from ..people_detection.demonstration import demonstrate, find_detector, sweep
    from ..people_detection.variants import variant
    from .people_detection_report import print_round, print_sweep, print_sweep_line, shown_of

    model, tensors = find_detector(client, options["model"])
    folder, batching = options["output_dir"] if options["save"] else None, options["dynamic_batching"]
    if not options["counts"]:
        if batching is not None:
            client.load(model.name, variant(client.config(model.name), dynamic_batching=batching))
        shown = shown_of(demonstrate(client, model, tensors, plan), image, folder)
        if not as_json:
            print_round(shown, options["verbose"])
        yield shown
        return
    rounds = []
    for count, demonstrated in sweep(client, model, tensors, plan, options["counts"], batching):
        rounds.append(shown_of(demonstrated, image, folder and folder / f"instances_{count}"))
        if not as_json:
            print_sweep_line(rounds[-1], options["verbose"])
        yield rounds[-1]
    if not as_json:
        print_sweep(rounds)


def _check_alike(shown: list[Shown]) -> None:
    """The same image was shown in every call."""
    from .people_detection_report import NO_NUMBERS, TOLERANCE

    worst = max(each.largest_difference for each in shown)
    if not isfinite(worst):
        raise CommandFailed(NO_NUMBERS)
    if worst > TOLERANCE:
        raise CommandFailed(f"answers to the same image differ by up to {worst:.3g}; {TOLERANCE:g} is allowed for rounding")
