# SPDX-License-Identifier: Apache-2.0
"""`penstock completion`: the script by which a shell completes commands, options and the names of models."""

from __future__ import annotations

import click

from .failures import exit_codes

SHELLS = ("bash", "zsh", "fish")


@click.command(
    short_help="Completion for bash, zsh or fish.",
    epilog=exit_codes({0: "done", 2: "wrong usage"}),
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete commands, options, and the names of models that a running broker serves.

    \b
    bash   echo 'eval "$(penstock completion bash)"' >> ~/.bashrc     (bash 4.4 or newer)
    zsh    echo 'eval "$(penstock completion zsh)"' >> ~/.zshrc
    fish   penstock completion fish > ~/.config/fish/completions/penstock.fish
    """  # noqa: D301 - \b keeps click from joining the lines
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(ctx.find_root().command, {}, "penstock", "_PENSTOCK_COMPLETE").source())
