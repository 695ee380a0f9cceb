# SPDX-License-Identifier: Apache-2.0
"""`penstock doctor`: what this machine can and cannot do for Penstock, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .failures import exit_codes
from .options import json_option
from .rendering import console, print_json

if TYPE_CHECKING:
    from .checks.finding import Finding

MARKS = {"ok": "[green]ok[/]", "note": "[cyan]note[/]", "warning": "[yellow]warning[/]", "problem": "[bold red]problem[/]"}


@click.command(
    short_help="What this machine can and cannot do, and why.",
    epilog=exit_codes({0: "Penstock can serve here (there may be warnings)", 1: "there is a problem", 2: "wrong usage"}),
)
@json_option
def doctor(as_json: bool) -> None:
    """Look at everything that Penstock needs of this machine: the interpreter, the kernel, shared memory, limits, packages,
    GPUs, ports, the runtime directory, and a broker at the default address, which is asked over both links.

    Each line says what was looked at, what was found, what follows from it, and how to change it. With --json: an array of
    objects with what, verdict (ok, note, warning, problem), found, consequence and fix.
    """  # noqa: D205 - the first paragraph is the help text's first paragraph
    findings = _findings()
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        _show(findings)
    if any(finding.verdict == "problem" for finding in findings):
        raise click.exceptions.Exit(1)


def _findings() -> list[Finding]:
    from .checks import broker, gpu, limits, machine, memory, ports, software
    from .checks.finding import examine

    checks = (
        machine.python, machine.kernel, machine.cores, machine.numa, memory.shared_memory, memory.main_memory,
        memory.locked_memory, limits.user, limits.descriptors, limits.processes, software.packages, software.optional_packages,
        gpu.gpus, ports.usual_ports, broker.directory, broker.local_link, broker.zeromq,
    )  # fmt: skip
    return [finding for check in checks for finding in examine(check)]


def _show(findings: Sequence[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for finding in findings:
        lines = [escape(finding.found)]
        lines += [f"[dim]{escape(finding.consequence)}[/]"] if finding.consequence else []
        lines += [f"{'to change it' if finding.verdict == 'ok' else 'fix'}: {escape(finding.fix)}"] if finding.fix else []
        table.add_row(MARKS[finding.verdict.value], escape(finding.what), "\n".join(lines))
    console().print(table)
    counts = {name: sum(finding.verdict == name for finding in findings) for name in ("problem", "warning", "note")}
    said = [f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count]
    click.echo(f"\n{', '.join(said) or 'nothing to complain about'}")
