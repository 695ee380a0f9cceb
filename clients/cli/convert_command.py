# SPDX-License-Identifier: Apache-2.0
"""`penstock convert`: from a torch module or an ONNX file to a model in a repository, compared with its source as served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .children import interrupted_once
from .convert_options import convert_options
from .failures import CommandFailed, Differs, exit_codes, failing_as
from .rendering import print_json
from .several_values import SeveralValuesCommand
from .standard_output import prints_to_stderr

if TYPE_CHECKING:
    from ..convert.conversion import Subject
    from ..convert.entry_config import Form, Serving
    from ..convert.report import Verdict
    from ..convert.repository_entry import Place
    from ..convert.source import Asked
    from ..convert.tolerances import Precision


@click.command(
    cls=SeveralValuesCommand,
    short_help="Convert a torch module or an ONNX file into a model that is served.",
    epilog=exit_codes(
        {
            0: "converted, found right, written (and loaded)",
            1: "the source, a conversion, or the broker failed, or the version is there already; if something was written, "
            "it says so",
            2: "wrong usage, or no connection to a broker for --load",
            3: "some output differs from the source's by more than its tolerance; if something was written, it says so",
        }
    ),
)
@convert_options
def convert(as_json: bool, load: bool, address: str | None, search: bool, check: str, **options: Any) -> None:
    """Convert SOURCE and put it into a model repository, if it answers as its source does.

    SOURCE is an ONNX file, or module:function, a function that builds a torch module: function(config, checkpoint) or
    get_model(**model_args); what follows -- are its own options. docs/convert.md says what it may return.

    The converted model must answer as its source does, first in this process and then as served, by a broker of this command's
    own. Only then is it moved to REPOSITORY/NAME/VERSION. Steps are told on standard error; the comparison goes to standard
    output. With --json: an object with source, model, version, directory, loaded, right, and attempts, an array.
    """
    forms: tuple[Form, ...] = options["forms"]
    precisions: tuple[Precision, ...] = options["precisions"] or (("fp32", "fp16") if search else ("fp32",))
    if not search and (len(forms) != 1 or len(precisions) != 1):
        raise click.UsageError("say one --format and one --precision, or --search to try several")
    if check == "converted" and (search or "trt" in forms):
        raise click.UsageError("--check converted: a trt plan, and speed, are found out as served only")
    if load:
        _find_broker(address)
    with interrupted_once(), prints_to_stderr(), failing_as(CommandFailed):
        from ..convert.conversion import check_rows, tried_once
        from ..convert.repository_entry import Place, Staging

        place = Place(options["repository"], options["name"], options["version"], options["force"])
        place.check()
        serving, asked = _serving(options), _asked(options)
        with Staging(place) as staging:
            from .convert_steps import Steps

            subject = _subject(asked, options)
            if serving.is_batched:
                check_rows(subject)
            for name in tried_once(subject):
                _say(f"input '{name}' has variable dims, and is compared with one shape only; two --shape {name}:... try two")
            steps = Steps(subject, staging, serving, options["labels"], _say)
            if search:
                verdicts, chosen = steps.search(forms, precisions, options["interval_ms"])
            else:
                chosen = steps.one(forms[0], precisions[0], is_served=check == "served")
                verdicts = [chosen]
            is_right = chosen is not None and chosen.is_right
            directory = staging.publish(str(chosen.attempt)) if chosen is not None and is_right else None
        if chosen is not None and directory is not None and load:
            from .convert_steps import load_and_compare

            chosen.served += load_and_compare(address, place, directory, chosen, subject, _say)
    _show(place, directory, load, verdicts, chosen, as_json, asked.source)


def _show(
    place: Place,
    directory: Path | None,
    load: bool,
    verdicts: list[Verdict],
    chosen: Verdict | None,
    as_json: bool,
    source: str,
) -> None:
    if as_json:
        from ..convert.report import verdict_document

        print_json(
            {
                "source": source, "model": place.name, "version": place.version,
                "directory": None if directory is None else str(directory), "loaded": load and directory is not None,
                "right": chosen is not None and chosen.is_right, "attempts": [verdict_document(each) for each in verdicts],
            }
        )  # fmt: skip
    else:
        from .convert_table import print_verdicts

        print_verdicts(verdicts, chosen)
    if chosen is None:
        wrong = [str(each.attempt) for each in verdicts if each.comparisons and not each.is_right and not each.error]
        raise Differs(f"none is right: {', '.join(wrong)}") if wrong else CommandFailed("nothing could be converted")
    if not chosen.is_right:
        names = dict.fromkeys(f"'{each.output}' ({where})" for where, each in chosen.comparisons if not each.is_right)
        outcome = "nothing was written" if directory is None else f"{directory} was written, and the broker has loaded it"
        raise Differs(f"{chosen.attempt}: differs from the source by more than its tolerance: {', '.join(names)}; {outcome}")
    if not as_json:
        click.echo(f"{chosen.attempt}: written to {directory}" + (", and loaded" if load else ""))


def _find_broker(address: str | None) -> None:
    """Minutes before it is needed."""
    from .connecting import connected

    with connected(address):
        return


def _asked(options: dict[str, Any]) -> Asked:
    from ..convert.signatures import parse_tensor
    from ..convert.source import Asked

    shapes: dict[str, list[tuple[int, ...]]] = {}
    for name, dims in options["shapes"]:
        shapes.setdefault(name, []).append(dims)
    return Asked(
        source=options["source"], config=options["config_file"], checkpoint=options["checkpoint"], words=options["words"],
        inputs=tuple(map(parse_tensor, options["inputs"])), output_names=options["output_names"],
        max_batch_size=options["max_batch_size"], shapes=shapes, device=options["device"], opset=options["opset"],
        preferred_batch_sizes=options["preferred_batch_sizes"], workspace_bytes=options["max_workspace_size"] or 0,
        timing_cache=options["timing_cache"],
    )  # fmt: skip


def _serving(options: dict[str, Any]) -> Serving:
    from ..convert.entry_config import Serving, parse_instances

    if options["batching"] == "none" and (options["preferred_batch_sizes"] or options["max_queue_delay_us"]):
        raise click.UsageError("--preferred-batch-sizes and --max-queue-delay-us are for --batching dynamic")
    instances, kind = parse_instances(options["instances"])
    return Serving(
        instances=instances, kind=kind, is_batched=options["batching"] == "dynamic",
        preferred_batch_sizes=tuple(sorted(set(options["preferred_batch_sizes"]))),
        max_queue_delay_us=options["max_queue_delay_us"], acceleration=options["acceleration"],
        captures_graphs=options["captures_graphs"], labels=options["labels"].name if options["labels"] else "",
    )  # fmt: skip


def _subject(asked: Asked, options: dict[str, Any]) -> Subject:
    """The source, opened, with what it answers."""
    from ..convert.conversion import subject_of
    from ..convert.tolerances import Tolerances, parse_tolerances

    tolerances = Tolerances(parse_tolerances("--atol", options["atol"]), parse_tolerances("--rtol", options["rtol"]))
    _say(f"reading {asked.source}")
    return subject_of(asked, options["inputs_path"], options["seed"], tolerances)


def _say(step: str) -> None:
    click.echo(step, err=True)
