# SPDX-License-Identifier: Apache-2.0
"""`--config FILE`: a TOML file with the options of `serve` and `broker`, for those that nothing else sets.

Precedence: flag, environment variable, file, default. What an environment variable can set is a key of the file, under the
option's own name: `max_in_flight` for --max-in-flight. click's default_map does the rest.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """Adds --config. It is read before the other options, whose defaults it changes."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_use,
        help="A TOML file with any of these options (conf/penstock.toml names them all). Flags and environment come first.",
    )(command)


def keys_of(command: click.Command) -> dict[str, click.Option]:
    """Key of the file -> the option that it sets, in the order of the command's help."""
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return {key_of(option): option for option in options if option.allow_from_autoenv and option.expose_value}


def key_of(option: click.Option) -> str:
    """--max-in-flight -> max_in_flight."""
    return max(option.opts, key=len).removeprefix("--").replace("-", "_")


def read_settings(path: Path, keys: Mapping[str, click.Option]) -> dict[str, Any]:
    """Parameter name -> value. Raises click.UsageError that names file, key and, for an unknown one, the nearest known."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.UsageError(f"{path}: {error}") from error
    found: dict[str, Any] = {}
    for key, value in document.items():
        option = keys.get(key)
        if option is None:
            raise click.UsageError(f"{path}: unknown key {key!r}; {_suggestion(key, keys)}")
        if not _is_a(value, option):
            raise click.UsageError(f"{path}: {key} must be {wanted(option)}, got {value!r}")
        assert option.name is not None
        found[option.name] = value
    return found


def _use(ctx: click.Context, _option: click.Parameter, path: Path | None) -> None:
    if path is not None:
        ctx.default_map = read_settings(path, keys_of(ctx.command))


def _suggestion(key: str, keys: Mapping[str, click.Option]) -> str:
    near = difflib.get_close_matches(key.replace("-", "_"), keys, 1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(keys)}"


def _is_a(value: object, option: click.Option) -> bool:
    """TOML's types are taken at their word: no text for a number, no fraction for a count, no number for a flag."""
    if option.multiple:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return type(value) in _kind(option)[0]


def wanted(option: click.Option) -> str:
    """What the value of an option's key must be, for messages and the documentation."""
    return "an array of strings" if option.multiple else _kind(option)[1]


def _kind(option: click.Option) -> tuple[tuple[type, ...], str]:
    if option.is_flag or isinstance(option.type, click.types.BoolParamType):
        return (bool,), "true or false"
    if isinstance(option.type, click.types.FloatParamType):
        return (int, float), "a number"
    if isinstance(option.type, click.types.IntParamType):
        return (int,), "a whole number"
    return (str,), "a string"
