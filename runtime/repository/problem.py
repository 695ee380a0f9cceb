# SPDX-License-Identifier: Apache-2.0
"""What is said of a configuration that is wrong, and a question that several of its keys have to answer."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple


class Problem(NamedTuple):
    """What is wrong, and the path of the key that it is about."""

    path: str
    text: str


def leaves_directory(filename: str) -> bool:
    """Whether a file name that counts from some directory names what is not below it."""
    path = PurePosixPath(filename)
    return path.is_absolute() or ".." in path.parts
