# SPDX-License-Identifier: Apache-2.0
"""Triton's logging and trace extensions over gRPC: TraceSettingRequest and LogSettingsRequest, and what answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....ipc.errors import invalid
from ..shared_settings import BOUNDS, GRPC, check_format, log_file_is_fixed, trace_values
from .schema import pb

PARAMETERS = {
    "log_info": ("bool_param", "boolean"), "log_warning": ("bool_param", "boolean"), "log_error": ("bool_param", "boolean"),
    "log_verbose_level": ("uint32_param", "int32"), "log_format": ("string_param", "string"),
}  # fmt: skip
"""Setting -> the field that has its value, and what Triton calls its type."""


def log_values(message: Any) -> dict[str, Any]:
    """What a LogSettingsRequest changes. Raises CallerError in Triton's words."""
    if "log_file" in message.settings:
        raise log_file_is_fixed()
    values: dict[str, Any] = {}
    for name, (field, kind) in PARAMETERS.items():
        if name in message.settings:
            setting = message.settings[name]
            if setting.WhichOneof("parameter_choice") != field:
                raise invalid(f"expect {kind} for '{name}'")
            values[name] = getattr(setting, field)
    if "log_format" in values:
        check_format(values["log_format"], GRPC)
    return values


def log_response(settings: Mapping[str, Any]) -> Any:
    """The message of all log settings."""
    message = pb.LogSettingsResponse()
    for name, value in settings.items():
        setattr(message.settings[name], PARAMETERS.get(name, ("string_param",))[0], value)
    return message


def trace_changes(message: Any) -> dict[str, Any]:
    """What a TraceSettingRequest changes. Raises CallerError in Triton's words."""
    texts: dict[str, Sequence[str] | None] = {}
    for name, setting in message.settings.items():
        if name in BOUNDS and len(setting.value) > 1:
            raise invalid(f"expect only 1 value for '{name}'")
        texts[name] = list(setting.value)
    return trace_values(texts, GRPC)


def trace_response(settings: Mapping[str, str | Sequence[str]]) -> Any:
    """The message of all trace settings."""
    message = pb.TraceSettingResponse()
    for name, value in settings.items():
        message.settings[name].value.extend([value] if isinstance(value, str) else value)
    return message
