# SPDX-License-Identifier: Apache-2.0
"""Headers, and metadata of gRPC, that become parameters of a request (Triton's --*-header-forward-pattern). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ...ipc.errors import invalid

RESERVED_PREFIX = "triton_"
RESERVED = frozenset({"sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output"})
NOTHING: Mapping[str, str] = {}


class HeaderForwarding:
    """`pattern`: a regular expression for a part of a header's name, in any case unless it begins with (?-i). Empty: none."""

    def __init__(self, pattern: str, flag: str) -> None:
        self._pattern: re.Pattern[str] | None = None
        if pattern:
            exact = pattern.removeprefix("(?-i)")  # RE2's, which re does not have at this place
            try:
                self._pattern = re.compile(exact, re.IGNORECASE if exact == pattern else 0)
            except re.error as error:
                raise invalid(f"{flag} {pattern!r} is no regular expression: {error}") from None

    def __repr__(self) -> str:
        return f"<HeaderForwarding {self._pattern.pattern if self._pattern else 'of nothing'}>"

    @property
    def is_wanted(self) -> bool:
        """Whether there is a pattern."""
        return self._pattern is not None

    def parameters(self, headers: Iterable[tuple[str, str]]) -> Mapping[str, str]:
        """Those of a request's headers that are forwarded. Raises CallerError for a reserved name."""
        if self._pattern is None:
            return NOTHING
        found = {name: value for name, value in headers if self._pattern.search(name)}
        for name in found:
            if name.lower() in RESERVED or name.lower().startswith(RESERVED_PREFIX):
                raise invalid(f"Header '{name}' is reserved for Triton usage and cannot be forwarded.")
        return found
