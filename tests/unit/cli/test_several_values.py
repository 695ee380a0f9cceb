# SPDX-License-Identifier: Apache-2.0
"""Options with several values after one name, as users of such tools type them."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from penstock.clients.cli.several_values import SeveralNumbers, SeveralRates, SeveralValuesCommand


@click.command(cls=SeveralValuesCommand)
@click.argument("word", required=False)
@click.option("--sizes", cls=SeveralNumbers)
@click.option("--counts", cls=SeveralNumbers, default=["1"])
@click.option("--rounds", type=int)
def command(word: str | None, sizes: tuple[int, ...], counts: tuple[int, ...], rounds: int | None) -> None:
    click.echo(f"{word} {list(sizes)} {list(counts)} {rounds}")


@click.command(cls=SeveralValuesCommand)
@click.argument("word", required=False)
@click.option("--rates", cls=SeveralRates)
def rated(word: str | None, rates: tuple[float, ...]) -> None:
    click.echo(f"{word} {list(rates)}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("m --sizes 1 2 4", "m [1, 2, 4] [1] None"),
        ("--sizes 1 2 4 m", "m [1, 2, 4] [1] None"),
        ("m --sizes 1 2 --counts 8 16 --rounds 3", "m [1, 2] [8, 16] 3"),
        ("m --sizes 1,2 4 --sizes 8", "m [1, 2, 4, 8] [1] None"),
        ("m --sizes 2 1,2 --sizes 1", "m [2, 1] [1] None"),
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
        ("m --sizes 1 2.5", "'2.5' is not a whole number of at least 1"),
        ("m --sizes x", "'x' is not a whole number of at least 1"),
        ("m --sizes -1", "'-1' is not a whole number of at least 1"),
        ("m --sizes", "--sizes"),
    ],
)
def test_what_is_no_number_is_refused(line: str, text: str) -> None:
    shown = CliRunner().invoke(command, line.split())
    assert shown.exit_code == 2
    assert text in shown.output


@pytest.mark.parametrize(
    ("line", "said"),
    [("m --rates 200 12.5 0.5", "m [200.0, 12.5, 0.5]"), ("--rates 1.5,2 m", "m [1.5, 2.0]"), ("--rates=7 8.25 m", "m [7.0, 8.25]")],
)  # fmt: skip
def test_rates_may_have_decimals(line: str, said: str) -> None:
    assert CliRunner().invoke(rated, line.split()).output == said + "\n"


@pytest.mark.parametrize("word", ["0", "0.0", "-1", "1e3", "x", "1000000.5", "9" * 400])
def test_what_is_no_rate_is_refused(word: str) -> None:
    shown = CliRunner().invoke(rated, ["m", "--rates", word])
    assert shown.exit_code == 2
    assert f"'{word}' is not a number above 0 and up to 1000000, as 200 or 12.5" in shown.output
