# SPDX-License-Identifier: Apache-2.0
"""Options that take several values after one name, as `--batch-sizes 1 2 4`; also given again, or with commas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

_VALUES = re.compile(r"\d+(\.\d+)?(,\d+(\.\d+)?)*,?")
_RATE = re.compile(r"\d+(\.\d+)?")


class SeveralNumbers(click.Option):
    """Whole numbers from 1 on, as a flat tuple. Its command must be a SeveralValuesCommand."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **{"metavar": "N...", "callback": _numbers, **attributes, "type": str, "multiple": True})


LARGEST_RATE = 1_000_000
"""Requests per second: each is scheduled beforehand, and no client of ours sends a tenth of that."""


class SeveralRates(SeveralNumbers):
    """Numbers above 0, with or without decimals, none beyond LARGEST_RATE."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **{"metavar": "R...", "callback": _rates, **attributes})


class SeveralValuesCommand(click.Command):
    """Gives the name of such an option to each of the values that follow it, which is what click understands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's own, after that."""
        names = {name for parameter in self.params if isinstance(parameter, SeveralNumbers) for name in parameter.opts}
        return super().parse_args(ctx, spread(args, names))


def spread(words: Sequence[str], names: set[str]) -> list[str]:
    """`--n 1 2 model` -> `--n 1 --n 2 model`. A word that is no number ends the values; nothing is changed after `--`."""
    found: list[str] = []
    name, values = "", 0
    for position, word in enumerate(words):
        if word == "--":
            return found + list(words[position:])
        if name and _VALUES.fullmatch(word):
            found += [name, word] if values else [word]
            values += 1
            continue
        begins, _, given = word.partition("=")
        name, values = (begins, 1 if given else 0) if begins in names else ("", 0)
        found.append(word)
    return found


def _numbers(_ctx: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[int, ...]:
    for word in _words(texts):
        if not (word.isdecimal() and int(word) >= 1):
            raise click.BadParameter(f"{word!r} is not a whole number of at least 1")
    return tuple(map(int, _words(texts)))


def _rates(_ctx: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[float, ...]:
    for word in _words(texts):
        if not (_RATE.fullmatch(word) and 0 < float(word) <= LARGEST_RATE):
            raise click.BadParameter(f"{word!r} is not a number above 0 and up to {LARGEST_RATE}, as 200 or 12.5")
    return tuple(map(float, _words(texts)))


def _words(texts: tuple[str, ...]) -> list[str]:
    """Each once: a row of the table says no more when it is there twice."""
    return list(dict.fromkeys(word for word in ",".join(texts).split(",") if word))
