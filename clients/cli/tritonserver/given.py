# SPDX-License-Identifier: Apache-2.0
"""The flags of one command line, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .flags import FLAGS
from .parsing import GivenFlag, bad_option, boolean, whole


class Given:
    """The flags of one command line, as values."""

    def __init__(self, flags: Mapping[str, GivenFlag]) -> None:
        self._flags = flags

    def __repr__(self) -> str:
        return f"<Given {list(self._flags)}>"

    def __contains__(self, name: str) -> bool:
        return name in self._flags

    def texts(self, name: str) -> list[str]:
        """All that was said of a flag."""
        return self._flags[name].texts if name in self._flags else []

    def text(self, name: str) -> str:
        """What was said of it last, or its default."""
        return self._flags[name].text if name in self._flags else FLAGS[name].default

    def whole(self, name: str, least: int | None = None) -> int:
        """Raises UsageError where it is less than what is possible."""
        found = whole(self.text(name))
        if least is not None and found < least:
            raise bad_option(name, f"must be at least {least}. Got {found}")
        return found

    def boolean(self, name: str) -> bool:
        """Whether it is true."""
        return boolean(self.text(name))

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Raises UsageError where it is none of these."""
        text = self.text(name)
        if text not in choices:
            raise bad_option(name, f"invalid argument for --{name}")
        return text

    def spoken(self) -> list[GivenFlag]:
        """What was given, in its order."""
        return list(self._flags.values())
