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
@click.argument("command", required=False, default="")
@click.pass_context
def help(ctx: click.Context, command: str) -> None:  # noqa: A001 - the command's name
    """Show the manual page of COMMAND, or of penstock itself, in a pager where standard output is a terminal."""
    from .manual import page

    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    found = root.command.get_command(root, command) if command else root.command
    if found is None:
        known = ", ".join(root.command.list_commands(root))
        raise click.UsageError(f"there is no command {command!r}; there are {known}", ctx)
    inner = click.Context(found, info_name=command, parent=root) if command else root
    click.echo_via_pager(page(found, inner))
