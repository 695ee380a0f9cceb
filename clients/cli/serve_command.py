# SPDX-License-Identifier: Apache-2.0
"""`penstock serve`: a broker and its workers."""

from __future__ import annotations

from typing import Any

import click

from .failures import exit_codes
from .serving import CONTEXT, run_broker, serving_options


@click.command(
    short_help="Serve the models of a repository: a broker and its workers.",
    context_settings=CONTEXT,
    epilog=exit_codes(
        {
            0: "was told to stop, and did",
            2: "wrong usage, an unusable repository, or an address that cannot be bound (another broker's pid is named)",
            3: "--strict, and some model could not be loaded",
        }
    ),
)
@serving_options
def serve(**options: Any) -> None:
    """Serve the models of these repositories (Triton's layout and config.pbtxt), until SIGTERM, SIGINT or `penstock stop`.

    Starts one worker process per model instance. When every model is loaded, or has failed to, one line on standard output
    says so: with --json an object with pid, addresses and models. Log lines, and what workers print, go to standard error.

    One model that fails to load does not stop the others: requests for it are refused with the reason, and
    `penstock models` shows it. Models can be loaded again, unloaded and added meanwhile: see `penstock load --help`, and
    --control-mode for other ways.

    Each option can be set by an environment variable too, such as PENSTOCK_DRAIN_S for --drain-s, or in a file: flags come
    first, then the environment, then the file.
    """
    run_broker(spawn_workers=True, **options)
