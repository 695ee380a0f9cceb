# SPDX-License-Identifier: Apache-2.0
"""`penstock broker`: a broker that waits for workers to be started by hand."""

from __future__ import annotations

from typing import Any

import click

from .failures import exit_codes
from .serving import CONTEXT, run_broker, serving_options


@click.command(
    short_help="A broker without workers, to which they are attached by hand.",
    context_settings=CONTEXT,
    epilog=exit_codes(
        {
            0: "was told to stop, and did",
            2: "wrong usage, an unusable repository, or an address that cannot be bound (another broker's pid is named)",
            3: "--strict, and some model could not be read from its repository",
        }
    ),
)
@serving_options
def broker(**options: Any) -> None:
    """Like `penstock serve`, but start no workers: they come by `penstock worker MODEL --connect ADDRESS`.

    That is for a debugger, a profiler, or a worker in another Python. The line on standard output comes as soon as the
    repositories have been read; a model is READY once a worker has loaded it. Options can be set as those of `penstock serve`.
    """
    run_broker(spawn_workers=False, **options)
