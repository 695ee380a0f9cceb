# SPDX-License-Identifier: Apache-2.0
"""Options with several values after one name, as users of such tools type them."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from penstock.clients.cli.several_values import SeveralNumbers, SeveralValuesCommand


@click.command(cls=SeveralValuesCommand)
@click.argument("word", required=False)
@click.option("--sizes", cls=SeveralNumbers)
@click.option("--counts", cls=SeveralNumbers, default=["1"])
@click.option("--rounds", type=int)
def command(word: str | None, sizes: tuple[int, ...], counts: tuple[int, ...], rounds: int | None) -> None:
    click.echo(f"{word} {list(sizes)} {list(counts)} {rounds}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("m --sizes 1 2 4", "m [1, 2, 4] [1] None"),
        ("--sizes 1 2 4 m", "m [1, 2, 4] [1] None"),
        ("m --sizes 1 2 --counts 8 16 --rounds 3", "m [1, 2] [8, 16] 3"),
        ("m --sizes 1,2 4 --sizes 8", "m [1, 2, 4, 8] [1] None"),
        ("m --sizes=1 2 --counts=3", "m [1, 2] [3] None"),
        ("--sizes 1 2 -- 4", "4 [1, 2] [1] None"),
        ("--sizes 1 --rounds 7 m", "m [1] [1] 7"),
        ("m", "m [] [1] None"),
    ],
)
def test_values_as_they_are_typed(line: str, said: str) -> None:
    shown = CliRunner().invoke(command, line.split())
    assert shown.output == said + "\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("m --sizes 0 2", "'0' is not a whole number of at least 1"),
        ("m --sizes x", "'x' is not a whole number of at least 1"),
        ("m --sizes -1", "'-1' is not a whole number of at least 1"),
        ("m --sizes", "--sizes"),
    ],
)
def test_what_is_no_number_is_refused(line: str, text: str) -> None:
    shown = CliRunner().invoke(command, line.split())
    assert shown.exit_code == 2
    assert text in shown.output
