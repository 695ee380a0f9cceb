# SPDX-License-Identifier: Apache-2.0
"""`penstock load`: loads a model into a broker that runs, or loads it again."""

from __future__ import annotations

from pathlib import Path

import click

from .connecting import connected
from .failures import CommandFailed, exit_codes
from .model_names import model_argument
from .options import address_option, json_option
from .rendering import model_label, print_json


@click.command(
    short_help="Load a model, or load it again.",
    epilog=exit_codes(
        {
            0: "it is served as its repository has it now",
            1: "it could not be loaded (what was served before still is), or this broker's --control-mode does not allow it",
            2: "wrong usage, or no connection to a broker",
        }
    ),
)
@model_argument()
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Use this configuration, a config.pbtxt or Triton's JSON, instead of the repository's.",
)
@click.option("--wait-s", type=click.FloatRange(0, min_open=True), help="Give up after this long; the load goes on.")
@address_option
@json_option
def load(model: str, config_file: Path | None, wait_s: float | None, address: str | None, as_json: bool) -> None:
    """Load MODEL as its repository has it now, and wait until all of it is up.

    A model that has not changed is left as it is. One that has is loaded beside what is served, which then gives way; if
    loading fails, it stays. Where the instance groups alone are different, instances are started and stopped. Only the user who
    started the broker may load. With --json: the model's rows of the index.
    """
    try:
        config = "" if config_file is None else config_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{config_file}: {error}") from error
    with connected(address) as client:
        client.load(model, config, timeout_s=wait_s)
        rows = [row for row in client.index() if row["name"] == model]
    if as_json:
        print_json(rows)
    else:
        served = ", ".join(f"{model_label(row)} {row['state']}" for row in rows)
        click.echo(f"loaded: {served}")
