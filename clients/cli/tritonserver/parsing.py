# SPDX-License-Identifier: Apache-2.0
"""The words of a `tritonserver` command line, read as getopt_long and `command_line_parser.cc` read them.

`--flag value` and `--flag=value`, names may be shortened as long as they stay unique, and the last of a flag that is given
twice counts. What is wrong is said in Triton's words, for scripts that look for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from getopt import GetoptError, gnu_getopt
from typing import NamedTuple

from .flags import FLAGS, Flag, Kind

LARGEST = 2**31 - 1
"""Of a whole number: what C++ makes an int of."""
RESTRICTED = (
    "health", "metadata", "inference", "shared-memory", "model-config", "model-repository", "statistics", "trace", "logging",
)  # fmt: skip

_WHOLE = re.compile(r"\s*[+-]?\d+")  # what follows is passed over, as std::stoi does
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_BOOLEANS = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}


class UsageError(Exception):
    """A command line that Triton answers with its usage. The text is what comes after it."""


class Refused(Exception):  # noqa: N818 - the end of the command, as UsageError
    """What was asked for is not to be had, and going on without it would be wrong. Not a matter of usage."""


class GivenFlag:
    """One flag of a command line, and what was said of it each time, in order."""

    def __init__(self, flag: Flag, text: str) -> None:
        self.flag = flag
        self.texts = [text]

    def __repr__(self) -> str:
        return f"<GivenFlag {self.flag.name} {self.texts}>"

    @property
    def text(self) -> str:
        """What counts of it, where only one does."""
        return self.texts[-1]


def read_words(words: Sequence[str]) -> dict[str, GivenFlag]:
    """The flags of a command line by name, in its order; each text is one that its kind allows. Raises UsageError."""
    takes_value = [name if flag.kind is Kind.NONE else f"{name}=" for name, flag in FLAGS.items()]
    try:
        pairs, others = gnu_getopt(list(words), "", takes_value)
    except GetoptError as error:
        raise UsageError(_said_by_getopt(error)) from None
    if others:
        raise UsageError(f"Unexpected argument: {others[0]}")
    found: dict[str, GivenFlag] = {}
    for option, text in pairs:
        flag = FLAGS[option.removeprefix("--")]
        try:
            _CHECKS[flag.kind](flag, text)
        except ValueError as error:
            raise UsageError(f'Bad option: "--{flag.name}".\n{error}') from None
        if flag.name in found:
            found[flag.name].texts.append(text)
        else:
            found[flag.name] = GivenFlag(flag, text)
    return found


def bad_option(name: str, text: str) -> UsageError:
    """What is wrong with the value of a flag."""
    return UsageError(f'Bad option: "--{name}".\n{text}')


def whole(text: str) -> int:
    """A whole number. Raises ValueError in Triton's words."""
    found = _WHOLE.match(text)
    if not found:
        raise ValueError(f"Invalid option value. Got {text}")
    if abs(int(found[0])) > LARGEST:
        raise ValueError(f"Provided option value is out of bound. Got {text}")
    return int(found[0])


def number(text: str) -> float:
    """A number. Raises ValueError in Triton's words."""
    found = _NUMBER.match(text)
    if not found:
        raise ValueError(f"Invalid option value. Got {text}")
    return float(found[0])


def boolean(text: str) -> bool:
    """Yes or no. Raises ValueError in Triton's words."""
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError(f"invalid value for bool option: {text}") from None


class _Form(NamedTuple):
    """How Triton says what the value of such a flag looks like: in general, and when the name before the comma is missing."""

    general: str
    nameless: str
    must_be_named: bool = False


_FORMS = {
    "backend-config": _Form(
        "--backend-config option format is '<backend name>,<setting>=<value>'.",
        "No backend specified. --backend-config option format is <backend name>,<setting>=<value> or <setting>=<value>.",
    ),
    "trace-config": _Form(
        "--trace-config option format is '<trace mode>,<setting>=<value>'.",
        "No trace mode specified. --trace-config option format is <trace mode>,<setting>=<value> or <setting>=<value>.",
    ),
    "metrics-config": _Form(
        "--metrics-config option format is <setting>=<value>.", "--metrics-config option format is <setting>=<value>."
    ),
    "cache-config": _Form(
        "--cache-config option format is '<cache name>,<setting>=<value>'.",
        "No cache specified. --cache-config option format is <cache name>,<setting>=<value>.",
        must_be_named=True,
    ),
    "host-policy": _Form(
        "--host-policy option format is '<policy name>,<setting>=<value>'.",
        "--host-policy option format is '<policy name>,<setting>=<value>'.",
        must_be_named=True,
    ),
}


def setting(flag: str, text: str) -> tuple[str, str, str]:
    """`[NAME,]KEY=VALUE` in its parts. Raises ValueError in Triton's words."""
    form = _FORMS[flag]
    before, equals, value = text.partition("=")
    name, comma, key = before.partition(",")
    if not comma:
        name, key = "", before
    if not name and (comma or form.must_be_named):
        raise ValueError(f"{form.nameless} Got {text}")
    if not (equals and key and value):
        raise ValueError(f"{form.general} Got {text}")
    return name, key, value


def _resource(flag: Flag, text: str) -> None:
    name, *rest = text.split(":")
    if not name or len(rest) not in (1, 2):
        usual = "'<resource_name>:<count>:<device>' or '<resource_name>:<count>'"
        raise ValueError(f"--{flag.name} option format is {usual}. Got {text}")
    whole(rest[0])


def _pair(second: Callable[[str], int | float]) -> Callable[[Flag, str], None]:
    def check(_flag: Flag, text: str) -> None:
        parts = text.split(":")
        if len(parts) != 2:
            raise ValueError(
                "Cannot parse pair option due to incorrect number of inputs.--<pair option> argument requires format "
                f"<first>:<second>. Found: {text}"
            )
        whole(parts[0])
        second(parts[1])

    return check


def _restriction(flag: Flag, text: str) -> None:
    groups, colon, rest = text.partition(":")
    if not (colon and groups and rest.partition("=")[2]):
        raise ValueError(f"--{flag.name} option format is '<config name>:<setting>=<value>'. Got {text}")
    for group in groups.split(","):
        if group not in RESTRICTED:
            raise ValueError(f"unknown restricted {flag.name.rpartition('-')[2]} '{group}' ")


_CHECKS: dict[Kind, Callable[[Flag, str], object]] = {
    Kind.NONE: lambda _flag, _text: None,
    Kind.TEXT: lambda _flag, _text: None,
    Kind.WHOLE: lambda _flag, text: whole(text),
    Kind.NUMBER: lambda _flag, text: number(text),
    Kind.BOOLEAN: lambda _flag, text: boolean(text),
    Kind.WHOLE_PAIR: _pair(whole),
    Kind.NUMBER_PAIR: _pair(number),
    Kind.SETTING: lambda flag, text: setting(flag.name, text),
    Kind.NAMED_SETTING: lambda flag, text: setting(flag.name, text),
    Kind.RESOURCE: _resource,
    Kind.RESTRICTION: _restriction,
}


def _said_by_getopt(error: GetoptError) -> str:
    """The C library's sentences, which name the option."""
    if len(error.opt) == 1:
        return f"invalid option -- '{error.opt}'"
    if "requires argument" in error.msg:
        return f"option '--{error.opt}' requires an argument"
    if "must not have" in error.msg:
        return f"option '--{error.opt}' doesn't allow an argument"
    if "unique" in error.msg:
        possible = " ".join(f"'--{name}'" for name in FLAGS if name.startswith(error.opt))
        return f"option '--{error.opt}' is ambiguous; possibilities: {possible}"
    return f"unrecognized option '--{error.opt}'"
