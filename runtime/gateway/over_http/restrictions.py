# SPDX-License-Identifier: Apache-2.0
"""Groups of endpoints that need a header (Triton's --http-restricted-api GROUP,GROUP:HEADER=VALUE). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..restricted import restricted_groups
from .exchange import Call, Response, of_message

GROUPS = {
    "health": r"/v2/health/.*|/v2/models/[^/]+(/versions/[^/]+)?/ready",
    "metadata": r"/v2/?|/v2/models/(?!stats$)[^/]+(/versions/[^/]+)?",
    "inference": r"/v2/models/[^/]+(/versions/[^/]+)?/(infer|generate|generate_stream)",
    "shared-memory": r"/v2/(system|cuda)sharedmemory(/.*)?",
    "model-config": r"/v2/models/[^/]+(/versions/[^/]+)?/config",
    "model-repository": r"/v2/repository/.*",
    "statistics": r"/v2/models/stats|/v2/models/[^/]+(/versions/[^/]+)?/stats",
    "trace": r"/v2(/models/[^/]+)?/trace/setting",
    "logging": r"/v2/logging",
}
"""Triton's groups, and the paths that belong to each."""


class Restriction:
    """The paths of some groups, and the header that they need."""

    def __init__(self, groups: Sequence[str], header: str, value: str) -> None:
        self._paths = re.compile("|".join(f"(?:{GROUPS[group]})" for group in groups))
        self._header = header
        self._value = value

    def __repr__(self) -> str:
        return f"<Restriction by '{self._header}' of {self._paths.pattern}>"

    def refusal(self, call: Call) -> Response | None:
        """What a call that lacks the header is answered."""
        if self._paths.fullmatch(call.path) is None or call.headers.get(self._header) == self._value:
            return None
        return of_message(403, f"This API is restricted, expecting header '{self._header}'")


def restrictions_of(flags: Sequence[str]) -> list[Restriction]:
    """From Triton's flags. Raises CallerError."""
    return [Restriction(*row) for row in restricted_groups(flags, "--http-restricted-api", "api", GROUPS)]
