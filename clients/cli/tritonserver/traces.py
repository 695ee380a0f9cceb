# SPDX-License-Identifier: Apache-2.0
"""Triton's `--trace-config`, and the older flags whose place it took."""

from __future__ import annotations

from typing import Any

from .given import Given
from .parsing import Refused, bad_option, setting, whole

LEVELS = ("off", "timestamps", "tensors")
MODES = ("triton", "opentelemetry")
OLD = {
    "trace-level": "level", "trace-rate": "rate", "trace-count": "count", "trace-file": "file",
    "trace-log-frequency": "log-frequency",
}  # fmt: skip
"""Flag -> the setting of --trace-config that took its place."""


def plan_traces(given: Given) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings in the words of ipc/trace_settings.py, and Triton's warnings. Raises UsageError, Refused."""
    said: dict[str, list[str]] = {}
    for text in given.texts("trace-config"):
        mode, key, value = setting("trace-config", text)
        if mode:
            _check_mode(mode.lower(), "trace-config")
        if mode.lower() != "opentelemetry":  # what is said of it has no effect where it is not the mode
            said.setdefault(key, []).append(value)
    for value in said.get("mode", ()):
        _check_mode(value.lower(), "trace-config mode")
        if value.lower() == "opentelemetry":
            raise Refused("--trace-config=mode=opentelemetry is refused: traces are written to files here, mode=triton")
    warnings = []
    for flag, key in OLD.items():
        if flag in given and key in said:
            rest = "rate value" if key == "rate" else key
            warnings.append(f"Warning: Overriding deprecated '--{flag}' in favor of provided {rest} in --trace-config!")
        elif flag in given:
            said[key] = given.texts(flag)
    return _settings(said), tuple(warnings)


def _check_mode(mode: str, where: str) -> None:
    if mode not in MODES:
        text = f'invalid value for trace mode option: {mode}. Available options are "triton" and "opentelemetry"'
        raise bad_option(where, text)


def _settings(said: dict[str, list[str]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    levels = [_level(value.lower()) for value in said.get("level", ())]
    if "off" not in levels:
        found["trace_level"] = tuple(dict.fromkeys(level.upper() for level in levels))
    for key, field, where in (
        ("rate", "trace_rate", "rate"), ("count", "trace_count", "count"),
        ("log-frequency", "log_frequency", "triton,log-frequency"),
    ):  # fmt: skip
        if key in said:
            try:
                found[field] = whole(said[key][-1])
            except ValueError as error:
                raise bad_option(f"trace-config {where}", str(error)) from None
    if "file" in said:
        found["trace_file"] = said["file"][-1]
    return found


def _level(value: str) -> str:
    if value not in LEVELS:
        raise bad_option("trace-config level", f"invalid value for trace level option: {value}")
    return value
