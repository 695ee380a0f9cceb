# SPDX-License-Identifier: Apache-2.0
"""`penstock perf`: throughput, and where the time of a request goes."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ...ipc.errors import PenstockError
from .failures import CommandFailed, Interrupted, NotStable, exit_codes, failing_as
from .model_names import model_argument
from .option_groups import GroupedCommand
from .perf_asked import Options, check, plan_of, result_files, run_name
from .perf_options import GROUPS, perf_options

if TYPE_CHECKING:
    from ..perf.plan import Plan
    from ..perf.run_file import Run
    from ..perf.run_keeping import KeptRun
    from .perf_target import Opened


@click.command(
    cls=GroupedCommand,
    groups=GROUPS,
    short_help="Measure throughput, and where the time of a request goes.",
    epilog=exit_codes(
        {
            0: "measured",
            1: "the server or the model answered with an error, an answer was wrong, or a file could not be written; rows that "
            "were measured before are shown and kept",
            2: "wrong usage, or no connection to a server",
            3: "--strict, and some row did not become stable",
            130: "interrupted (Ctrl-C, SIGTERM); rows that were measured before are shown and kept",
        }
    ),
)
@model_argument()
@perf_options
def perf(model: str, address: str | None, as_json: bool, strict: bool, **options: Any) -> None:
    """Measure MODEL at every load that is asked for: inferences (rows) per second, the stages of a request, percentiles.

    Offline the client makes the batches; online it sends requests of one row, as many at once (--concurrency) or as often
    (--request-rate) as is asked, and the server makes the batches. Inputs are prepared before. A row of the table is measured
    in windows until three in a row agree, and is of those three. Stages are means per request, each measured on its own;
    Unaccounted is what they leave of the mean latency. docs/performance.md says where the clock of each starts and stops.

    Nobody else may use MODEL meanwhile. Each window is reported on standard error; the table goes to standard output. Files
    have every row as soon as it is measured. With --json: the document that NAME.json has.
    """
    options["address"] = address if _is_typed("address") else None  # else it is the environment's, which may be overruled
    check(options)
    from .children import interrupted_once

    with interrupted_once():
        try:
            run, failure = _run(model, options, as_json)
        except KeyboardInterrupt:
            raise Interrupted("interrupted before anything was measured") from None
    if failure is not None:
        raise failure
    _tell_unstable(run, strict)


def _is_typed(name: str) -> bool:
    """Whether an option was given on the command line, and not by the environment."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def _run(model: str, options: Options, as_json: bool) -> tuple[Run, CommandFailed | None]:
    """The run, which is shown and kept, and what ended it before its time, if something did."""
    from ..perf.run_keeping import KeptRun
    from .perf_target import opened

    with opened(model, options) as found, failing_as(CommandFailed):
        plan = plan_of(found.target.model, found.memory, found.target.max_in_flight, options)
        name = run_name(model, options)
        kept = KeptRun(_run_to_be(name, found, plan, dict(options["labels"])), result_files(name, options))
        with _writing():
            if options["result_dir"] is not None:
                options["result_dir"].mkdir(parents=True, exist_ok=True)
            for path in kept.begin():
                click.echo(f"penstock: what was in {path} is replaced", err=True)
        for note in found.target.server.notes:
            click.echo(f"penstock: {note}", err=True)
        failure = _measured(found, plan, kept)
        if kept.run.rows:
            _show(kept.run, as_json)
        if failure is not None:
            with _writing():
                kept.stop(f"not complete: {failure.message}")
        return kept.run, failure


def _run_to_be(name: str, found: Opened, plan: Plan, labels: dict[str, str]) -> Run:
    """All of the run that is known before anything is measured. Raises PenstockError."""
    from ..perf.configuration import configuration_of
    from ..perf.machine import installed, this_machine
    from ..perf.run_file import Measured, Run

    target, machine = found.target, this_machine(found.gpus)
    return Run(
        title=name, began=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), seconds=0.0,
        command=_writable(shlex.join(["penstock", *sys.argv[1:]])), evaluation_mode=plan.evaluation_mode,
        load="closed loop" if plan.points[0].request_rate is None else plan.distribution, machine=machine, packages=installed(),
        measured=Measured(
            server=f"{target.server.name} {target.server.version}", link=target.spec.link, address=target.spec.address,
            model=target.model.name, version=target.model.version, shared_memory=plan.memory,
            input_data=_writable(plan.input_data), seed=plan.seed, processes=plan.processes,
        ),
        configuration=configuration_of(target.configuration(), found.served(machine), labels), rows=(),
        notes=target.server.notes,
    )  # fmt: skip


def _writable(text: str) -> str:
    """With escapes for the bytes of a path that are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _measured(found: Opened, plan: Plan, kept: KeptRun) -> CommandFailed | None:
    """Measures every row and keeps it; what ended that before the last one, if something did."""
    from ..perf.measuring import Measurer
    from ..perf.run_tables import most_within, record_of
    from .perf_progress import shown

    began, threshold_ms = time.monotonic(), plan.latency_threshold_ms
    try:
        with shown(plan) as progress:
            for row in Measurer(found.target, plan, progress.say, progress.note).rows():
                record = record_of(row)
                with _writing():
                    kept.add(record, time.monotonic() - began)
                progress.add(record)
        found_out = [] if threshold_ms is None else most_within(kept.run.rows, threshold_ms)
        with _writing():
            kept.end(found_out)
        for note in found_out:
            click.echo(f"penstock: {note}", err=True)
    except KeyboardInterrupt:
        count = len(kept.run.rows)
        return Interrupted(f"interrupted after {count} row{'' if count == 1 else 's'}")
    except PenstockError as error:
        return CommandFailed(str(error))
    except CommandFailed as failure:
        return failure
    return None


@contextmanager
def _writing() -> Iterator[None]:
    """Files that cannot be written end the command."""
    try:
        yield
    except OSError as error:
        raise CommandFailed(f"cannot write {error.filename}: {error.strerror}") from error


def _show(run: Run, as_json: bool) -> None:
    if as_json:
        from .rendering import print_json

        print_json(run)
    else:
        from .perf_table import print_run

        print_run(run)


def _tell_unstable(run: Run, strict: bool) -> None:
    from ..perf.figures import place_of

    unstable = [place_of(row) for row in run.rows if not row.stable]
    if unstable:
        text = f"not stable, the last windows are shown: {'; '.join(unstable)}"
        if strict:
            raise NotStable(text)
        click.echo(f"penstock: {text}", err=True)
