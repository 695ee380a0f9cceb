# SPDX-License-Identifier: Apache-2.0
"""`penstock perf`: throughput, and where the time of a request goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .connecting import connected
from .failures import CommandFailed, NotStable, Unreachable, exit_codes, failing_as
from .model_names import model_argument
from .perf_options import perf_options
from .rendering import print_json
from .several_values import SeveralValuesCommand

if TYPE_CHECKING:
    from ..client import Client
    from ..models import ModelInfo
    from ..perf.figures import Row
    from ..perf.plan import Plan, Windows


@click.command(
    cls=SeveralValuesCommand,
    short_help="Measure throughput, and where the time of a request goes.",
    epilog=exit_codes(
        {
            0: "measured",
            1: "the broker or the model answered with an error, an answer was wrong, or a file could not be written",
            2: "wrong usage, or no connection to a broker",
            3: "--strict, and some row did not become stable",
        }
    ),
)
@model_argument()
@perf_options
def perf(model: str, address: str | None, repository: Path | None, as_json: bool, strict: bool, **options: Any) -> None:
    """Measure MODEL at every batch size and concurrency: inferences (rows) per second, the stages of a request, percentiles.

    The client keeps requests in flight, from inputs that were prepared before. It measures in windows until three in a row
    agree; the table is of those three. Stages are means per request, each measured on its own; Unaccounted is what they leave
    of the mean latency. docs/performance.md says where the clock of each starts and stops.

    Nobody else may use MODEL meanwhile. Each window is reported on standard error; the table goes to standard output. With
    --json: an object with evaluation_mode, address, model, version, shared_memory, input_data, seed and rows, an array.
    """
    windows_of(options)
    if repository is not None and _is_typed("address"):
        raise click.UsageError("--serve measures a broker of its own: leave --address out")
    with ExitStack() as held:
        client = held.enter_context(_measured_broker(address, repository, options))
        held.enter_context(failing_as(CommandFailed))
        info = client.model(model)
        plan = plan_of(client, info, options)
        rows = list(_measure(client, info, plan, options["result_path"]))
        address = str(client.address)
    if as_json:
        print_json({"evaluation_mode": options["evaluation_mode"], "address": address, **_document(info, plan, rows)})
    else:
        from .perf_table import print_rows

        print_rows(f"{info.name}/{info.version} over {address}, shared memory {plan.memory}", rows)
    _tell_unstable(rows, strict)


def windows_of(options: dict[str, Any]) -> Windows:
    """How long is measured. Raises UsageError where it is said twice."""
    from ..perf.plan import INTERVAL_MS, Windows

    interval_ms, count = options["measurement_interval_ms"], options["measurement_request_count"]
    if interval_ms and count:
        raise click.UsageError("a window ends by --measurement-interval-ms or by --measurement-request-count: give one of them")
    return Windows(
        warmup=options["warmup"], interval_ms=interval_ms or INTERVAL_MS, request_count=count or 0,
        stability_percentage=options["stability_percentage"], max_trials=options["max_trials"],
    )  # fmt: skip


def _is_typed(name: str) -> bool:
    """Whether an option was given on the command line, and not by the environment."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def plan_of(client: Client, info: ModelInfo, options: dict[str, Any]) -> Plan:
    """What the options ask for. Raises CallerError naming what this model or this link cannot do."""
    from ..perf.plan import Plan, input_shapes, memory_over, points_of

    shapes = dict(options["shapes"])
    points = points_of(info, options["batch_sizes"], options["concurrencies"], client.max_in_flight)
    input_shapes(info, points[0].batch, shapes)
    return Plan(
        points=points, shapes=shapes, memory=memory_over(client.address.kind, options["shared_memory"], client.address.is_tcp),
        input_data=options["input_data"], string_length=options["string_length"], seed=options["seed"],
        verify=options["verify"], windows=windows_of(options),
    )  # fmt: skip


@contextmanager
def _measured_broker(address: str | None, repository: Path | None, options: dict[str, Any]) -> Iterator[Client]:
    """A client over the link that is to be measured. What the link cannot do is said before anything is started."""
    from ...ipc.addresses import parse_address
    from ..perf.plan import address_of_link, memory_over

    with ExitStack() as held:
        held.enter_context(failing_as(Unreachable))
        link = options["link"] or ("local" if repository else parse_address(address).kind)
        memory_over(link, options["shared_memory"])
        if repository is not None:
            from .own_broker import own_broker

            listening = held.enter_context(own_broker(repository))
            yield held.enter_context(connected(str(address_of_link(listening, link))))
            return
        found = held.enter_context(_found(address))
        if found.address.kind != link:
            found = held.enter_context(connected(str(address_of_link(found.status()["addresses"], link))))
        yield found


@contextmanager
def _found(address: str | None) -> Iterator[Client]:
    with ExitStack() as held:
        try:
            client = held.enter_context(connected(address))
        except Unreachable as error:
            raise Unreachable(f"{error.message}; start one (penstock serve REPOSITORY), or give --serve REPOSITORY") from error
        yield client


def _measure(client: Client, info: ModelInfo, plan: Plan, path: Path | None) -> Iterator[Row]:
    from ..perf.measuring import Measurer
    from ..perf.table_file import table_file
    from ..perf.target import TargetSpec
    from ..perf.targets import open_target

    def say(text: str) -> None:
        click.echo(text, err=True)

    with ExitStack() as held:
        try:
            add = held.enter_context(table_file(path)) if path else None
        except OSError as error:
            raise CommandFailed(f"cannot write {path}: {error.strerror}") from error
        spec = TargetSpec(link=client.address.kind, address=str(client.address), model=info.name)
        target = held.enter_context(closing(open_target(spec)))
        for row in Measurer(target, plan, say).rows():
            if add is not None:
                add(row)
            yield row


def _document(info: ModelInfo, plan: Plan, rows: list[Row]) -> dict[str, Any]:
    from ..perf.figures import document

    return {
        "model": info.name, "version": info.version, "shared_memory": plan.memory, "input_data": plan.input_data,
        "seed": plan.seed, "rows": [document(row) for row in rows],
    }  # fmt: skip


def _tell_unstable(rows: list[Row], strict: bool) -> None:
    unstable = [f"batch {row.batch} at concurrency {row.concurrency}" for row in rows if not row.is_stable]
    if unstable:
        text = f"not stable, the last windows are shown: {', '.join(unstable)}"
        if strict:
            raise NotStable(text)
        click.echo(f"penstock: {text}", err=True)
