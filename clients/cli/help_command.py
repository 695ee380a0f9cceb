# SPDX-License-Identifier: Apache-2.0
"""`penstock help`: a command's manual page."""

from __future__ import annotations

import click

from .failures import exit_codes


@click.command(
    name="help",
    short_help="A command's manual page: options, environment, files, exit codes.",
    epilog=exit_codes({0: "done", 2: "there is no such command"}),
)
@click.argument("command", nargs=-1)
@click.pass_context
def help(ctx: click.Context, command: tuple[str, ...]) -> None:  # noqa: A001 - the command's name
    """Show the manual page of COMMAND, or of penstock itself, in a pager where standard output is a terminal."""
    from .manual import page

    found, inner = ctx.find_root().command, ctx.find_root()
    for word in command:
        known = found.list_commands(inner) if isinstance(found, click.Group) else []
        if word not in known:
            raise click.UsageError(f"there is no command {' '.join(command)!r}; {_known(inner, known)}", ctx)
        assert isinstance(found, click.Group)
        found = found.get_command(inner, word) or found
        inner = click.Context(found, info_name=word, parent=inner)
    click.echo_via_pager(page(found, inner))


def _known(ctx: click.Context, commands: list[str]) -> str:
    return f"there are {', '.join(commands)}" if commands else f"{ctx.info_name} has no commands of its own"
