# SPDX-License-Identifier: Apache-2.0
"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ...ipc.addresses import ADDRESS_VARIABLE

Decorator = Callable[[Any], Any]


def in_order(options: Sequence[Decorator]) -> Decorator:
    """One decorator for all of them; help lists them in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


address_option = click.option(
    "--address",
    metavar="ADDRESS",
    envvar=ADDRESS_VARIABLE,
    show_envvar=True,
    show_default="the local socket in the runtime directory",
    help="Where the broker listens: unix:///PATH, ipc:///PATH or tcp://HOST:PORT.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, allow_from_autoenv=False, help="Print one JSON document, for scripts."
)

repositories_argument = click.argument(
    "repositories",
    metavar="REPOSITORY...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
)
