# SPDX-License-Identifier: Apache-2.0
"""The argument MODEL: completed by the names that a running broker knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def model_argument(*, required: bool = True) -> Callable[[Command], Command]:
    """The argument `model` of a command, "" where it may be left out and is."""
    if required:
        return click.argument("model", shell_complete=_complete)
    return click.argument("model", required=False, default="", shell_complete=_complete)


def _complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names that begin so; none where no broker answers at once: completing must not wait, nor complain."""
    from ...ipc.errors import PenstockError
    from ..client import Client

    try:
        with Client(ctx.params.get("address"), name="penstock completion", connect_timeout_s=0.0) as client:
            return sorted({row["name"] for row in client.index() if row["name"].startswith(incomplete)})
    except PenstockError:
        return []
