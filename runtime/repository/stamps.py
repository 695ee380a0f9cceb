# SPDX-License-Identifier: Apache-2.0
"""What tells whether files have changed: paths, sizes and times of modification, in digests. Blocks, and reads no content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from stat import S_ISDIR

from msgspec import Struct

from .versions import LARGEST

CONFIG_NAME = "config.pbtxt"
MAX_ENTRIES = 20_000
"""Of one version, or of all that is beside the versions. What lies beyond them in a larger tree is not looked at."""
IGNORED = frozenset({"__pycache__"})
"""Written by whoever imports from the directory; hidden files are not looked at either."""


class Stamps(Struct, frozen=True):
    """A model directory at one moment: its configuration, what its versions share, and each version. Equal: unchanged."""

    config: bytes
    shared: bytes
    versions: dict[int, bytes]


def stamps_of(directory: Path) -> Stamps:
    """Looks at all files of a model directory. What vanishes meanwhile counts as not there. Raises OSError."""
    shared: list[str] = []
    versions: dict[int, bytes] = {}
    for name in os.listdir(directory):
        if is_version(name):
            versions[int(name)] = _stamp(directory, [name])
        elif name != CONFIG_NAME:
            shared.append(name)
    return Stamps(_stamp(directory, [CONFIG_NAME]), _stamp(directory, shared), versions)


def is_version(name: str) -> bool:
    """Whether a directory of this name is a version of a model."""
    return name.isascii() and name.isdigit() and not name.startswith("0") and int(name) <= LARGEST


def _stamp(directory: Path, names: list[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    waiting = sorted(names, reverse=True)
    entered: set[tuple[int, int]] = set()
    count = 0
    while waiting and count < MAX_ENTRIES:
        name = waiting.pop()
        base = os.path.basename(name)
        if base.startswith(".") or base in IGNORED:
            continue
        count += 1
        try:
            status = os.stat(directory / name)
            inner = os.listdir(directory / name) if S_ISDIR(status.st_mode) else []
        except (FileNotFoundError, NotADirectoryError):
            continue
        if S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) not in entered:  # else a link leads back to where it is
                entered.add((status.st_dev, status.st_ino))
                waiting += sorted((f"{name}/{each}" for each in inner), reverse=True)
            digest.update(f"{name}/\n".encode(errors="surrogateescape"))
        else:
            digest.update(f"{name}\n{status.st_size} {status.st_mtime_ns} {status.st_ino}\n".encode(errors="surrogateescape"))
    return digest.digest()
