# SPDX-License-Identifier: Apache-2.0
"""Errors as a command shows them: one line on standard error and an exit code, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from ...ipc.errors import PenstockError


def exit_codes(meanings: dict[int, str]) -> str:
    """The end of a command's help. The first character tells click to keep the lines as they are."""
    return "\b\nExit codes:\n" + "\n".join(f"  {code}  {meaning}" for code, meaning in meanings.items())


class CommandFailed(click.ClickException):
    """Ends the command: the broker or the model answered with an error."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the line."""
        click.echo(f"penstock: {self.format_message()}", file=file, err=file is None)


class Unreachable(CommandFailed):
    """No broker, or no address to be one at. click's own exit code for wrong usage is the same."""

    exit_code = 2


class NotAllLoaded(CommandFailed):
    """serve --strict: some model could not be loaded."""

    exit_code = 3


class NotStable(CommandFailed):
    """perf --strict: some row did not become stable."""

    exit_code = 3


class Differs(CommandFailed):
    """convert: what was converted does not answer as its source does."""

    exit_code = 3


class Interrupted(CommandFailed):
    """perf: a signal ended it, and it has kept what it had. The code is a shell's for what SIGINT ended."""

    exit_code = 130


@contextmanager
def failing_as(kind: type[CommandFailed]) -> Iterator[None]:
    """Turns an error of Penstock's within the block into the end of the command."""
    try:
        yield
    except PenstockError as error:
        raise kind(str(error)) from error
