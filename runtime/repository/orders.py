# SPDX-License-Identifier: Apache-2.0
"""What a load is asked for: a model, perhaps with a configuration and files of its own. Sentences are Triton's."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from pathlib import Path

from ...ipc.errors import invalid

FILE_PREFIX = "file:"
"""Triton's parameter for a file is file:VERSION/NAME."""
COPIED_AT_ONCE = 1 << 24


class BroughtFile:
    """The content of a file that came with a load: bytes, or a descriptor, which it owns."""

    def __init__(self, content: bytes = b"", fd: int = -1) -> None:
        self._content = content
        self._fd = fd

    def __repr__(self) -> str:
        return f"<BroughtFile {f'fd {self._fd}' if self._fd >= 0 else f'{len(self._content)} bytes'}>"

    @property
    def byte_size(self) -> int:
        """Of the content."""
        return len(self._content) if self._fd < 0 else os.fstat(self._fd).st_size

    def copy_to(self, path: Path) -> None:
        """Writes the content to a new file. Blocks. Raises OSError."""
        with path.open("xb") as file:
            if self._fd < 0:
                file.write(self._content)
                return
            offset = 0
            while copied := os.sendfile(file.fileno(), self._fd, offset, COPIED_AT_ONCE):
                offset += copied

    def close(self) -> None:
        """Gives the descriptor back. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Order:
    """A load that is asked for, checked. `files`: path within the model directory -> its content, which the order owns."""

    def __init__(self, name: str, override: str = "", files: Mapping[str, BroughtFile] | None = None) -> None:
        self.name = name
        self.override = override
        self.files = dict(files or {})

    def __repr__(self) -> str:
        return f"<Order {self.name}{', with a configuration' if self.override else ''}, {len(self.files)} files>"

    @property
    def byte_size(self) -> int:
        """Of all files together."""
        return sum(file.byte_size for file in self.files.values())

    def write_to(self, directory: Path) -> None:
        """Makes the model directory and writes the files. Blocks. Raises OSError."""
        directory.mkdir()
        for path, file in self.files.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            file.copy_to(directory / path)

    def close(self) -> None:
        """Gives back what came with it. Idempotent."""
        for file in self.files.values():
            file.close()


def check_name(name: str) -> None:
    """Raises CallerError for what cannot be the name of a model."""
    if not name:
        raise invalid("Model name cannot be empty. Please enter a valid name to deploy.")
    if "/" in name or "\\" in name or "\0" in name or ".." in name or name == ".":
        raise invalid(f"invalid model name '{name}', model name must not contain path traversal characters")


def check_parameters(override: str, files: list[str]) -> list[str]:
    """The paths within the model directory that Triton's parameters file:VERSION/NAME name. Raises CallerError."""
    paths = [_path_of(name) for name in files]
    if files and not override:
        raise invalid("Load parameter 'config' must be specified for model file override")
    if len(set(paths)) != len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise invalid(f"file '{twice}' is given twice")
    return paths


def _path_of(parameter: str) -> str:
    if not parameter.startswith(FILE_PREFIX):
        raise invalid(f"unrecognized load parameter '{parameter}'.")
    given = parameter.removeprefix(FILE_PREFIX)
    path = posixpath.normpath(given)
    if not given or "\0" in path or path == "." or path.startswith(("/", "../")) or path == "..":
        raise invalid(f"Invalid file parameter '{parameter}' with normalized path '{path}' must stay within model directory.")
    return path
