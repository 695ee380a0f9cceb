# SPDX-License-Identifier: Apache-2.0
"""`penstock tritonserver`: a broker with gateways, started by Triton's command line."""

from __future__ import annotations

from typing import IO, Any

import click

from .failures import exit_codes
from .tritonserver.flags import GROUPS, Becomes, Flag, Kind
from .tritonserver.parsing import Refused, UsageError


class TritonUsageError(click.UsageError):
    """Ends the command as Triton does: its usage on standard error, then what is wrong; and its exit code."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints both."""
        assert self.ctx is not None
        click.echo(f"{self.ctx.get_help()}\n\n{self.format_message()}", file=file, err=file is None)


class FlagRefusedError(click.ClickException):
    """Ends the command: a flag asks for what is not to be had."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints why."""
        click.echo(f"penstock: {self.format_message()}", file=file, err=file is None)


class TritonCommand(click.Command):
    """Its options are Triton's flags, which are read as Triton reads them and not as click does."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params = [_option(flag) for flags in GROUPS.values() for flag in flags]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leaves the words to the command, but for those that ask for help."""
        if {"-h", "--help"}.intersection(args):
            return super().parse_args(ctx, ["--help"])
        ctx.params = {"words": tuple(args)}
        return []

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """In Triton's groups."""
        for title, flags in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([record for flag in flags if (record := _option(flag).get_help_record(ctx))])


def _option(flag: Flag) -> click.Option:
    text = flag.text if flag.becomes is Becomes.SETTING else f"{flag.becomes.value.capitalize()}: {flag.text}."
    return click.Option(
        [f"--{flag.name}"],
        is_flag=flag.kind is Kind.NONE,
        metavar=f"<{flag.kind.value}>" if flag.kind is not Kind.NONE else None,
        multiple=flag.repeats,
        help=f"{text} Default: {flag.default}." if flag.default else text,
    )


@click.command(
    cls=TritonCommand,
    short_help="Serve as tritonserver does: its flags, its ports, its log lines.",
    epilog=exit_codes(
        {
            0: "was told to stop, and did",
            1: "wrong usage, a flag that is refused, a port that cannot be had, or a model that could not be loaded (unless "
            "--exit-on-error=false)",
        }
    ),
)
@click.pass_context
def tritonserver(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Serve model repositories to Triton's clients, at the ports 8000, 8001 and 8002 of all addresses, until SIGTERM or SIGINT.

    Takes the command lines that scripts have for `tritonserver`. What `penstock serve` has beyond Triton's flags can be set by
    its environment variables, such as PENSTOCK_GATEWAY_PROCESSES or PENSTOCK_FALLBACK. docs/triton.md says what differs.
    """
    from .tritonserver.plan import read_plan
    from .tritonserver.server import serve_as_triton

    try:
        plan = read_plan(words)
    except UsageError as error:
        raise TritonUsageError(str(error), ctx) from None
    except Refused as error:
        raise FlagRefusedError(str(error)) from None
    serve_as_triton(plan)
