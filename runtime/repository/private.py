# SPDX-License-Identifier: Apache-2.0
"""Directories for the files that come with a load: this user's own, removed with the model, swept when a broker was killed.

Each is locked (flock) as long as its broker lives, by which the next broker knows what nobody uses any more, in whatever pid
namespace its owner ran. Everything here blocks.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .orders import BroughtFile

PREFIX = "penstock-model-"


class PrivateDirectory:
    """A directory around one model directory, `model`. Made by `write`."""

    def __init__(self, outer: Path, lock: int, name: str) -> None:
        self.model = outer / name
        self._outer = outer
        self._lock = lock

    def __repr__(self) -> str:
        return f"<PrivateDirectory {self.model}{'' if self._lock >= 0 else ', removed'}>"

    @classmethod
    def write(cls, name: str, files: Mapping[str, BroughtFile]) -> PrivateDirectory:
        """A model directory NAME with these files in it. Raises OSError, and has left nothing behind."""
        outer = Path(tempfile.mkdtemp(prefix=PREFIX))
        made = cls(outer, os.open(outer, os.O_RDONLY | os.O_DIRECTORY), name)
        try:
            fcntl.flock(made._lock, fcntl.LOCK_EX)
            made.model.mkdir()
            for path, file in files.items():
                (made.model / path).parent.mkdir(parents=True, exist_ok=True)
                file.copy_to(made.model / path)
        except BaseException:
            made.remove()
            raise
        return made

    def remove(self) -> None:
        """Removes it with all that is in it. Idempotent. Raises OSError."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
            shutil.rmtree(self._outer)


def sweep() -> list[Path]:
    """Removes what brokers of this user left that were killed; says what. Raises OSError where something cannot be removed."""
    found = Path(tempfile.gettempdir()).glob(f"{PREFIX}*")
    return [path for path in found if _is_abandoned(path)]


def _is_abandoned(path: Path) -> bool:
    """Whether nobody used it; it is gone then."""
    with suppress(FileNotFoundError, NotADirectoryError):  # its owner was quicker; or it is a link, and none of ours
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(fd).st_uid != os.geteuid():
                return False
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
            return True
        except BlockingIOError:
            return False  # its broker lives
        finally:
            os.close(fd)
    return False
