# SPDX-License-Identifier: Apache-2.0
"""One fault: a line that says something else than it should, and the tests that must notice."""

from __future__ import annotations

from dataclasses import dataclass


class MisfitError(Exception):
    """A fault that cannot be put into the source as it is now."""


@dataclass(frozen=True)
class Fault:
    """`line` becomes `instead` in `file`; some test of `tests` must fail then, and none without.

    `line` is any piece of the source that is there exactly once; neighbouring lines may belong to it, to tell it from another
    place, but one line only differs. `tests` are arguments for pytest, as few and as narrow as will do: examples, not
    random ones, so that it is no matter of luck.
    """

    name: str
    file: str
    line: str
    instead: str
    tests: tuple[str, ...]

    def applied(self, source: str) -> str:
        """The faulty source. Raises MisfitError naming the fault."""
        count = source.count(self.line)
        if count != 1:
            raise MisfitError(f"{self.name}: {self.file} has {count} times, and not once: {self.line!r}")
        faulty = source.replace(self.line, self.instead)
        before, after = source.splitlines(), faulty.splitlines()
        if len(before) != len(after) or sum(old != new for old, new in zip(before, after, strict=True)) != 1:
            raise MisfitError(f"{self.name}: must change one line of {self.file}")
        return faulty
