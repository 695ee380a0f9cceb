# SPDX-License-Identifier: Apache-2.0
"""Writes the parts of the documentation that the code knows better: `python docs/generate.py`.

A page says `<!-- generated: NAME -->`, what follows is replaced up to `<!-- end -->`. conf/penstock.toml is generated as a
whole. A unit test (tests/unit/test_pages.py) fails while anything is stale.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import sections

ROOT = Path(__file__).resolve().parents[1]
_MARKED = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

SECTIONS: dict[str, Callable[[], str]] = {
    "senders": sections.senders,
    "messages": sections.messages,
    "frame": sections.frame,
    "wire": lambda: f"```python\n{(ROOT / 'clients' / 'wire.py').read_text()}```\n",
    "fields": sections.fields,
    "settings": sections.settings,
    "commands": sections.commands,
    "states": sections.states,
    "triton-flags": sections.triton_flags,
}


def stale() -> dict[Path, str]:
    """What ought to be in the files that differ from it."""
    wanted = {ROOT / "conf" / "penstock.toml": sections.settings_file()}
    for page in sorted((ROOT / "docs").glob("*.md")):
        wanted[page] = _MARKED.sub(_replaced, page.read_text())
    return {path: text for path, text in wanted.items() if not path.exists() or path.read_text() != text}


def _replaced(found: re.Match[str]) -> str:
    return f"{found[1]}{SECTIONS[found[2]]()}{found[3]}"


if __name__ == "__main__":
    for path, text in stale().items():
        path.write_text(text)
        sys.stdout.write(f"{path.relative_to(ROOT)} written\n")
