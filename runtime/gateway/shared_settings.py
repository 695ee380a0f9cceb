# SPDX-License-Identifier: Apache-2.0
"""Triton's logging and trace extensions: what the broker keeps for all its gateways, in the words of both protocols."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ...ipc.errors import CallerError, Code, PenstockError, invalid
from ...ipc.log_lines import LogSettings, switch_log
from ...ipc.messages import Adjust, Adjusted
from ...ipc.trace_settings import LEVELS, TraceSettings, check_mode
from .link import BrokerLink
from .tracing import Tracing
from .unknown_models import LONGEST_NAME

FORMATS = ("default", "ISO8601")
"""Those that Triton's clients know. A broker that nobody told writes its own, which they are told is the default."""
OFF = "OFF"
BOUNDS = {"trace_rate": (0, 2**32 - 1), "trace_count": (-1, 2**31 - 1), "log_frequency": (0, 2**32 - 1)}
"""Of Triton's types: uint32, int32, uint32."""
_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,20})")


class Words(NamedTuple):
    """Where Triton says the same thing in two ways, one for each protocol."""

    format_option: str
    format_code: Code
    before_count: str


HTTP = Words("--log_format", Code.UNAVAILABLE, "")
GRPC = Words("log_format", Code.INVALID_ARG, " ")


class SharedSettings:
    """Asks the broker, whatever is to be read or changed; and does what the broker says holds."""

    def __init__(self, link: BrokerLink, tracing: Tracing) -> None:
        self._link = link
        self._tracing = tracing
        link.listen(self._told)

    def __repr__(self) -> str:
        return f"<SharedSettings of {self._link!r}>"

    def _told(self, message: Adjusted) -> None:
        switch_log(msgspec.convert(message.log, LogSettings))
        self._tracing.told(message.trace)

    async def log(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Changes log settings, and returns all of them. Raises CallerError."""
        answer = await self._link.ask(lambda number: Adjust(number, "log", values=dict(values)))
        found = dict(answer.value)
        if found["log_format"] not in FORMATS:
            found["log_format"] = FORMATS[0]
        return found

    async def trace(self, model: str, values: Mapping[str, Any]) -> dict[str, str | list[str]]:
        """Changes trace settings, of a model or of all, and returns all of them, as Triton's texts. Raises CallerError."""
        if len(model) > LONGEST_NAME:
            raise invalid(f"Request for unknown model : {model[:LONGEST_NAME]}...")
        answer = await self._link.ask(lambda number: Adjust(number, "trace", model, dict(values)))
        found = msgspec.convert(answer.value, TraceSettings)
        return {
            "trace_level": list(found.trace_level) or [OFF],
            "trace_rate": str(found.trace_rate),
            "trace_count": str(found.trace_count),
            "log_frequency": str(found.log_frequency),
            "trace_file": found.trace_file,
            "trace_mode": found.trace_mode,
        }


def check_format(name: str, words: Words) -> None:
    """Raises CallerError for a log format that Triton's clients do not know."""
    if name not in FORMATS:
        raise CallerError(f"invalid argument for {words.format_option}, got: {name}", words.format_code)


def log_file_is_fixed() -> PenstockError:
    """What a client gets that would have another log file."""
    return CallerError("log file location can not be updated through network protocol", Code.UNSUPPORTED)


def trace_values(given: Mapping[str, Sequence[str] | None], words: Words) -> dict[str, Any]:
    """What the texts of a request mean; None clears a setting, as no text does. Names that nobody knows mean nothing.

    Raises CallerError in Triton's words.
    """
    values: dict[str, Any] = {}
    for name, texts in given.items():
        if name == "trace_file":
            raise CallerError("trace file location can not be updated through network protocol", Code.UNSUPPORTED)
        if name == "trace_mode" and texts:
            check_mode(texts[0])
        elif name in BOUNDS:
            values[name] = _number(name, texts[0], words) if texts else None
        elif name == "trace_level":
            _add_levels(values, texts)
    return values


def _add_levels(values: dict[str, Any], texts: Sequence[str] | None) -> None:
    if not texts:
        values["trace_level"] = None
    elif OFF in texts:
        if len(texts) > 1:
            raise invalid("Expect only one trace level 'OFF' is specified")
        values["trace_level"] = []
    else:
        levels = [level for level in LEVELS if level in texts]
        if levels:  # Triton leaves levels that it does not know out too
            values["trace_level"] = levels


def _number(name: str, text: str, words: Words) -> int:
    lowest, highest = BOUNDS[name]
    matched = _NUMBER.fullmatch(text)
    if matched is None and not text.strip().lstrip("+-").isdecimal():
        raise invalid(f"Unable to parse '{name}', got: {text}")
    value = int(matched[1]) if matched else highest + 1
    if name == "trace_count" and -(2**31) <= value < lowest:
        raise invalid(f"Unable to parse '{name}'. Expecting value >= {lowest}, got:{words.before_count}{text}")
    if not lowest <= value <= highest:
        raise invalid(f"Unable to parse '{name}', value is out of range [ {lowest}, {highest} ], got: {text}")
    return value
