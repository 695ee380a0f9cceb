# SPDX-License-Identifier: Apache-2.0
"""`penstock config`: a model's configuration as it is served, complete."""

from __future__ import annotations

import json

import click

from .connecting import connected
from .failures import exit_codes
from .model_names import model_argument
from .options import address_option
from .rendering import print_json


@click.command(
    short_help="A model's complete configuration.",
    epilog=exit_codes(
        {0: "done", 1: "there is no such model, or it has no version", 2: "wrong usage, or no connection to a broker"}
    ),
)
@model_argument()
@click.option("--version", "version", type=click.IntRange(1), help="Of this version; by default of the newest that is READY.")
@click.option("--json", "form", flag_value="json", default=True, help="Print one JSON document, for scripts. The default.")
@click.option("--pbtxt", "form", flag_value="pbtxt", help="Print it as a config.pbtxt.")
@address_option
def config(model: str, version: int | None, form: str, address: str | None) -> None:
    """Show the configuration of MODEL with all that was filled in: Triton's JSON, or the text of a config.pbtxt."""
    with connected(address) as client:
        document = client.config(model, -1 if version is None else version)
    if form == "json":
        print_json(document)
        return
    from ...runtime.repository.schema import as_text

    click.echo(as_text(json.dumps(document)), nl=False)
