# SPDX-License-Identifier: Apache-2.0
"""Runs the commands of demonstrations.md and writes what they print into it and its translation: `python docs/demonstrate.py`.

Figures are worth something on a machine that does nothing else: on a busy one calls arrive late, and batches form differently.
The picture is the first call's image, smaller. "..." stands for the broker's reasons, and for all objects but two.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
PAGES = (DOCS / "demonstrations.md", DOCS / "demonstrations.zh.md")
PICTURE, PICTURE_SIZE, COLOURS = DOCS / "images" / "people-detection.png", (720, 408), 96
_BLOCK = re.compile(r"(?<=^```console\n)\$ (.*)\n(?:.*\n)*?(?=^```$)", re.MULTILINE)
_WARNING = re.compile(r"^\S+ (WARNING .*?served on the CPU because of --fallback cpu).*$", re.MULTILINE)
_OBJECTS = re.compile(r"((?:^(?:person|bag|face) +[\d.]+ at .*\n){2})(?:^(?:person|bag|face) +[\d.]+ at .*\n)+", re.MULTILINE)


def printed(command: str, folder: Path) -> str:
    """What the command prints, as the page has it."""
    program, *words = shlex.split(command)
    assert program == "penstock", command
    done = subprocess.run(
        [sys.executable, "-m", "penstock.clients.cli", *words], cwd=folder, env={**os.environ, "COLUMNS": "100"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
    )  # fmt: skip
    text = _WARNING.sub(r"... \1 ...", done.stdout)
    text = _OBJECTS.sub(r"\1...\n", text)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def main() -> None:
    """Each command once; the same output in both pages."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for command in _BLOCK.findall(PAGES[0].read_text()):
            sys.stdout.write(f"$ {command}\n")
            found[command] = printed(command, Path(folder))
        overlay = Image.open(Path(folder) / "people-detection-output" / "capture_overlay_0.png")
        PICTURE.parent.mkdir(exist_ok=True)
        overlay.resize(PICTURE_SIZE).quantize(COLOURS).save(PICTURE, optimize=True)
    for page in PAGES:
        page.write_text(_BLOCK.sub(lambda block: f"$ {block[1]}\n{found[block[1]]}", page.read_text()))
        sys.stdout.write(f"{page.name} written\n")


if __name__ == "__main__":
    main()
