# SPDX-License-Identifier: Apache-2.0
"""The `penstock` command. Each command is a module of its own, imported when it is asked for.

So that `penstock --help` and shell completion stay quick, the command modules import click alone; the broker, workers,
onnxruntime, numpy and rich are imported inside the functions that need them.
"""

from __future__ import annotations

import importlib
import io
import sys

import click

from .failures import exit_codes

COMMANDS = (
    "serve", "tritonserver", "broker", "worker", "gateway", "demo", "status", "models", "stats", "top", "regions", "load",
    "unload", "config", "infer", "perf", "report", "convert", "trace", "timeline", "doctor", "completion", "help", "stop",
)  # fmt: skip
"""In the order of `penstock --help`. Command `x` is the function `x` of module `x_command`."""


class LazyGroup(click.Group):
    """Imports a command's module when the command is needed."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """All commands, whether imported or not."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None when there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f".{cmd_name}_command", __name__), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=exit_codes(
        {
            0: "done",
            1: "the broker or the model answered with an error (on standard error)",
            2: "wrong usage, or no connection to a broker, or an address that cannot be bound",
            3: "serve --strict: some model could not be loaded; perf --strict: some row did not become stable; "
            "convert: an output differs from the source's",
        }
    ),
)
@click.version_option(package_name="penstock", prog_name="penstock")
def main() -> None:
    """Inference for programs on one machine, through shared memory.

    `penstock demo` shows what it does; `penstock serve REPOSITORY` serves models; the others look at a broker that runs.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what the terminal has no character for is no reason to fail
