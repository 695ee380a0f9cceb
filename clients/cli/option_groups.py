# SPDX-License-Identifier: Apache-2.0
"""Options of a command in groups, each under a title of its own in the help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from .several_values import SeveralValuesCommand


class GroupedCommand(SeveralValuesCommand):
    """A command whose help has titles among its options. `groups`: the name of a group's first parameter -> its title."""

    def __init__(self, *args: Any, groups: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's own, with those titles."""
        found: dict[str, list[tuple[str, str]]] = {}
        title = "Options"
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None or isinstance(parameter, click.Argument):
                continue
            title = self._groups.get(parameter.name or "", title)
            found.setdefault(title, []).append(record)
        for heading, records in found.items():
            with formatter.section(heading):
                formatter.write_dl(records)
