# SPDX-License-Identifier: Apache-2.0
"""Triton's trace settings: which requests have their timestamps written to a file. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from .errors import CallerError, Code, invalid

Level = Literal["TIMESTAMPS", "TENSORS"]
LEVELS: tuple[Level, ...] = ("TIMESTAMPS", "TENSORS")
Rate = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Count = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
Frequency = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class TraceSettings(Struct, frozen=True, kw_only=True):
    """Triton's names and defaults (server/docs/protocol/extension_trace.md)."""

    trace_level: tuple[Level, ...] = ()  # none: OFF
    trace_rate: Rate = 1000  # of so many requests that a gateway process takes in, one is sampled
    trace_count: Count = -1  # how many are still to be sampled; -1: any number
    log_frequency: Frequency = 0  # how many make a file; 0: all of them are in one
    trace_file: str = ""  # said at the start, and never changed
    trace_mode: str = "triton"

    def check(self) -> None:
        """Raises CallerError in Triton's words for what cannot be."""
        check_mode(self.trace_mode)
        if self.trace_rate == 0:
            raise invalid("Attempting to set invalid trace setting :sample rate must be non-zero")
        if self.trace_level and not self.trace_file:
            raise invalid("Attempting to set invalid trace setting :trace file name is not given")

    @property
    def samples(self) -> bool:
        """Whether any request may still be sampled."""
        return bool(self.trace_level) and self.trace_count != 0


class TraceChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be changed. nil: the setting is a model's own no more, or of all models that of the start."""

    trace_level: tuple[Level, ...] | UnsetType | None = UNSET
    trace_rate: Rate | UnsetType | None = UNSET
    trace_count: Count | UnsetType | None = UNSET
    log_frequency: Frequency | UnsetType | None = UNSET


def check_mode(mode: str) -> None:
    """Raises CallerError for a trace mode that there is not."""
    if mode == "opentelemetry":
        raise CallerError("trace mode 'opentelemetry' is not supported: traces go to files, mode 'triton'", Code.UNSUPPORTED)
    if mode != "triton":
        raise invalid(f"invalid argument for trace_mode, got: {mode}")
