# SPDX-License-Identifier: Apache-2.0
"""Where each key of a configuration stands in its file, so that errors can say so.

protobuf's Python parser keeps no positions. This scanner reads a text that protobuf has already accepted, so it need not
validate; on anything else it finds less, and never raises.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<skip>\#[^\n]*|\s+)
      | (?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<word>[-+]?[\w.][\w.+-]*)
      | (?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"{": "}", "<": ">"}


class Location(NamedTuple):
    """Line and column, from 1."""

    line: int
    column: int


class ConfigFile(NamedTuple):
    """A configuration file as errors name it (`digits/config.pbtxt`), and where its keys are."""

    name: str
    locations: dict[str, Location]

    def at(self, path: str) -> str:
        """`digits/config.pbtxt:12:3` of a path such as `input[1].dims`; of what encloses it where it is not written itself."""
        while path:
            found = self.locations.get(path.replace("[0]", ""))
            if found:
                return f"{self.name}:{found.line}:{found.column}"
            path = path.rpartition(".")[0]
        return self.name


def locate(text: str) -> dict[str, Location]:
    """Path -> position of the key, or of the element in a list. An index of 0 is left out: `input.dims`, `input[1].dims`."""
    scanner = _Scanner(text)
    scanner.message("", "")
    return scanner.found


class _Scanner:
    def __init__(self, text: str) -> None:
        self.found: dict[str, Location] = {}
        starts = [0, *(match.end() for match in re.finditer("\n", text))]
        line = 1
        #: what was not read yet, the next one last
        self._tokens: list[tuple[str, Location]] = []
        for match in _TOKEN.finditer(text):
            while line < len(starts) and starts[line] <= match.start():
                line += 1
            if match.lastgroup != "skip":
                self._tokens.append((match.group(), Location(line, match.start() - starts[line - 1] + 1)))
        self._tokens.reverse()

    def __repr__(self) -> str:
        return f"<_Scanner {len(self.found)} found, {len(self._tokens)} tokens left>"

    def message(self, prefix: str, closing: str) -> None:
        """Reads the keys of a message, up to and with its closing sign."""
        counts: dict[str, int] = {}
        while self._tokens:
            key, location = self._tokens.pop()
            if key == closing:
                return
            if key in ",;":
                continue
            self._take(":")
            if not self._take("["):
                self._value(prefix, key, location, counts)
                continue
            while self._tokens and not self._take("]"):
                if not self._take(","):
                    self._value(prefix, key, self._tokens[-1][1], counts)

    def _value(self, prefix: str, key: str, location: Location, counts: dict[str, int]) -> None:
        index = counts.get(key, 0)
        counts[key] = index + 1
        path = f"{prefix}{key}[{index}]" if index else prefix + key
        self.found[path] = location
        opening = self._tokens.pop()[0] if self._tokens else ""
        if opening in _CLOSING:
            self.message(path + ".", _CLOSING[opening])
        elif opening == "-" and self._tokens:
            self._tokens.pop()
        while opening[:1] in ("'", '"') and self._tokens and self._tokens[-1][0][:1] in ("'", '"'):
            self._tokens.pop()  # neighbouring strings are one value

    def _take(self, sign: str) -> bool:
        if self._tokens and self._tokens[-1][0] == sign:
            self._tokens.pop()
            return True
        return False
