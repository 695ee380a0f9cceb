# SPDX-License-Identifier: Apache-2.0
"""`penstock report`: tables and plots of what `penstock perf` has measured, as a page of HTML and one of Markdown."""

from __future__ import annotations

from pathlib import Path

import click

from .failures import CommandFailed, exit_codes, failing_as
from .options import json_option
from .rendering import print_json


@click.command(
    short_help="Tables and plots of measurements, as HTML and Markdown.",
    epilog=exit_codes(
        {
            0: "written",
            1: "a file is no measurement, there is none, no row was measured, a package is missing, or the report cannot be "
            "written",
            2: "wrong usage",
        }
    ),
)
@click.argument("paths", metavar="DIR|FILE.json...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), show_default="the first DIR, or that of the first FILE",
    metavar="DIR", help="Where the report is written: report.html, report.md, and the plots in report/.",
)  # fmt: skip
@click.option("--title", default="", show_default="of one run, its own", help="What the report is called.")
@json_option
def report(paths: tuple[Path, ...], output: Path | None, title: str, as_json: bool) -> None:
    """Make a report of the runs in each DIR (documents of `penstock perf --result-dir DIR`, also in its folders) and in each
    FILE.

    Several runs come into the same plots and, where they have the same batch size and load, into tables with their
    differences to the first: name what others are compared with first. docs/report.md says how to read it.

    The paths of the two pages go to standard output; with --json an object with html, markdown and runs (their titles).
    """  # noqa: D205 - the first paragraph is the help text's first paragraph
    with failing_as(CommandFailed):
        try:
            from ..report.files import write_report
            from ..report.reading import read_runs

            runs = read_runs(paths)
            folder = output or (paths[0] if paths[0].is_dir() else paths[0].parent)
            html, markdown = write_report(runs, folder, title)
        except OSError as error:
            raise CommandFailed(str(error)) from error
    if as_json:
        print_json({"html": str(html), "markdown": str(markdown), "runs": [each.run.title for each in runs]})
    else:
        click.echo(f"{html}\n{markdown}")
