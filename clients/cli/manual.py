# SPDX-License-Identifier: Apache-2.0
"""Manual pages, made of what the commands say of themselves, in the sections that man(7) has."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence

import click

WIDTH = 96
MARGIN = " " * 4

ENVIRONMENT = (
    ("PENSTOCK_ADDRESS", "the broker's address, for every command that talks to one or is one"),
    ("PENSTOCK_RUNTIME_DIR", "where sockets are made; else $XDG_RUNTIME_DIR/penstock, else /tmp/penstock-UID"),
)
FILES = (
    ("broker.sock, broker.zmq", "in the runtime directory: the local link and ZeroMQ (mode 0600, with a .lock beside each)"),
    ("REPOSITORY/MODEL/config.pbtxt", "a model's configuration, as Triton has it; may be left out for ONNX models"),
    ("REPOSITORY/MODEL/VERSION/", "a version of the model, a number; model.onnx in it"),
)


def page(command: click.Command, ctx: click.Context) -> str:
    """The page of a command, or of the group of all."""
    return "\n".join(_lines(command, ctx))


def _lines(command: click.Command, ctx: click.Context) -> Iterator[str]:
    words = _words(ctx)
    summary = (command.short_help or inspect.cleandoc(command.help or "").partition("\n")[0]).rstrip(".")
    yield from _section("NAME", [f"{'-'.join(words)} - {summary}"])
    usage = " ".join(command.collect_usage_pieces(ctx))
    yield from _section("SYNOPSIS", [f"{' '.join(words)} {usage}"])
    yield from _section("DESCRIPTION", list(_paragraphs(command.help or "")))
    if isinstance(command, click.Group):
        named = [(each, command.get_command(ctx, each)) for each in command.list_commands(ctx)]
        yield from _section("COMMANDS", _entries([(each, found.get_short_help_str(WIDTH)) for each, found in named if found]))
    records = [record for parameter in command.get_params(ctx) if (record := parameter.get_help_record(ctx)) is not None]
    yield from _section("OPTIONS", _entries(records))
    yield from _section("ENVIRONMENT", _entries([*ENVIRONMENT, *_variables(command)]))
    yield from _section("FILES", _entries(FILES))
    yield from _section("EXIT CODES", [line.strip() for line in (command.epilog or "").splitlines()[2:]])
    yield from _section("SEE ALSO", ["penstock help COMMAND; docs/settings.md, docs/errors.md, docs/guides.md"])


def _words(ctx: click.Context) -> list[str]:
    """The command as it is typed."""
    return ["penstock"] if ctx.parent is None else [*_words(ctx.parent), str(ctx.info_name)]


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if not lines:
        return
    yield click.style(title, bold=True)
    for line in lines:
        yield textwrap.indent(line, MARGIN)
    yield ""


def _paragraphs(text: str) -> Iterator[str]:
    """Filled to the width; those that begin with a backspace keep their lines, as in click's own help."""
    for position, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if position:
            yield ""
        yield paragraph.lstrip("\b\n") if paragraph.startswith("\b") else textwrap.fill(" ".join(paragraph.split()), WIDTH)


def _entries(records: Sequence[tuple[str, str]]) -> list[str]:
    """A term on its own line, what it means indented below, as man pages have it."""
    return [f"{term}\n{textwrap.indent(textwrap.fill(text, WIDTH - 4), MARGIN)}" for term, text in records]


def _variables(command: click.Command) -> Iterator[tuple[str, str]]:
    """The variables that stand for options, where a command has them."""
    prefix = (command.context_settings or {}).get("auto_envvar_prefix")
    if prefix:
        yield f"{prefix}_OPTION", f"stands for --option, with underscores for hyphens: {prefix}_DRAIN_S is --drain-s"
