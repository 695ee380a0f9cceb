# SPDX-License-Identifier: Apache-2.0
"""Triton's logging and trace extensions over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....ipc.errors import CallerError, Code, PenstockError
from ..parts import Parts
from ..shared_settings import BOUNDS, HTTP, check_format, log_file_is_fixed, trace_values
from .exchange import Call, Response, of_json
from .fields import parse, text
from .routes import Routes

SWITCHES = ("log_info", "log_warning", "log_error")


def add_routes(routes: Routes, parts: Parts) -> None:
    """Adds what is answered here."""
    answers = _HttpSettings(parts)
    routes.add("GET", "/v2/logging", answers.log)
    routes.add("POST", "/v2/logging", answers.change_log)
    path = "/v2(?:/models/(?P<model>[^/]+))?/trace/setting"
    routes.add("GET", path, answers.trace)
    routes.add("POST", path, answers.change_trace)


class _HttpSettings:
    def __init__(self, parts: Parts) -> None:
        self._settings = parts.shared_settings

    async def log(self, _call: Call) -> Response:
        return of_json(await self._settings.log({}))

    async def change_log(self, call: Call) -> Response:
        return of_json(await self._settings.log(_log_values(parse(call.body))))

    async def trace(self, _call: Call, model: str | None) -> Response:
        return of_json(await self._settings.trace(model or "", {}))

    async def change_trace(self, call: Call, model: str | None) -> Response:
        values = trace_values(_trace_texts(parse(call.body)), HTTP)
        return of_json(await self._settings.trace(model or "", values))


def _log_values(document: Mapping[str, Any]) -> dict[str, Any]:
    """Members that are null, or that nobody knows, mean nothing."""
    given = {name: value for name, value in document.items() if value is not None}
    if "log_file" in given:
        raise log_file_is_fixed()
    values: dict[str, Any] = {}
    for name in (*SWITCHES, "log_verbose_level", "log_format"):
        if name in given:
            values[name] = given[name]
            _check_log_value(name, given[name])
    return values


def _check_log_value(name: str, value: Any) -> None:
    if name in SWITCHES:
        if not isinstance(value, bool):
            raise _not_a("boolean")
    elif name == "log_verbose_level":
        if type(value) is not int or value < 0:
            raise _not_a("unsigned-integer")
    else:
        check_format(text(value), HTTP)


def _trace_texts(document: Mapping[str, Any]) -> dict[str, Sequence[str] | None]:
    texts: dict[str, Sequence[str] | None] = {}
    for name, value in document.items():
        if value is None or name == "trace_file":
            texts[name] = None
        elif name == "trace_level":
            if not isinstance(value, list):
                raise _not_a("array")
            if value:
                texts[name] = [text(level) for level in value]
        elif name in BOUNDS or name == "trace_mode":
            texts[name] = (text(value),)
    return texts


def _not_a(kind: str) -> PenstockError:
    return CallerError(f"attempt to access JSON non-{kind} as {kind}", Code.INTERNAL)
