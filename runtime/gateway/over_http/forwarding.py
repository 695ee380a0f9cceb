# SPDX-License-Identifier: Apache-2.0
"""Headers that become parameters of a request (Triton's --http-header-forward-pattern). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ....ipc.errors import invalid
from .infer_request import RESERVED_PREFIX

RESERVED = frozenset({"sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output"})
NOTHING: Mapping[str, str] = {}


class HeaderForwarding:
    """`pattern`: a regular expression for a header's whole name, in any case unless it begins with (?-i). Empty: none."""

    def __init__(self, pattern: str) -> None:
        self._pattern: re.Pattern[str] | None = None
        if pattern:
            exact = pattern.removeprefix("(?-i)")  # RE2's, which re does not have at this place
            try:
                self._pattern = re.compile(exact, re.IGNORECASE if exact == pattern else 0)
            except re.error as error:
                raise invalid(f"--http-header-forward-pattern {pattern!r} is no regular expression: {error}") from None

    def __repr__(self) -> str:
        return f"<HeaderForwarding {self._pattern.pattern if self._pattern else 'of nothing'}>"

    def parameters(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Those of a request's headers that are forwarded. Raises CallerError for a reserved name."""
        if self._pattern is None:
            return NOTHING
        found = {name: value for name, value in headers.items() if self._pattern.fullmatch(name)}
        for name in found:
            if name.lower() in RESERVED or name.lower().startswith(RESERVED_PREFIX):
                raise invalid(f"Header '{name}' is reserved for Triton usage and cannot be forwarded.")
        return found
