# SPDX-License-Identifier: Apache-2.0
"""Directories for what must not stay: private to this user, in memory where there is room, removed when they are closed.

Each is locked (flock) for as long as its process lives. A directory that nobody has locked was left by a process that was
killed, and is removed when a broker starts or the next one is made; process ids would not tell, as two containers may share
/dev/shm.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...ipc.errors import MachineError

log = logging.getLogger("penstock.repository")

MEMORY = Path("/dev/shm")  # noqa: S108 - directories in it are made by mkdtemp
PREFIX = "penstock-private-"


class PrivateDirectory:
    """One directory, mode 0700. Made by `create`; `close` removes it with everything in it."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock  # descriptor of the directory, locked; -1: closed

    def __repr__(self) -> str:
        return f"<PrivateDirectory {self.path} {'closed' if self._lock < 0 else 'open'}>"

    def check_invariants(self) -> None:
        """It is there as long as it is open."""
        assert (self._lock >= 0) == self.path.exists(), self

    @classmethod
    def create(cls, byte_size: int) -> PrivateDirectory:
        """An empty one with room for `byte_size` bytes. Raises MachineError when there is none anywhere."""
        free: dict[str, int] = {}
        for parent in _parents():
            _remove_abandoned(parent)
            free[str(parent)] = _free_bytes(parent)
            if free[str(parent)] >= byte_size:
                return cls(*_locked_directory(parent))
        raise MachineError(f"no room for a private directory of {byte_size} bytes; bytes free: {free}")

    def close(self) -> None:
        """Removes it. Idempotent."""
        if self._lock >= 0:
            shutil.rmtree(self.path)
            os.close(self._lock)
            self._lock = -1


def _parents() -> list[Path]:
    """Where they may lie, the best place first."""
    places = dict.fromkeys((MEMORY, Path(tempfile.gettempdir())))
    return [place for place in places if os.access(place, os.W_OK | os.X_OK)]


def _free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def _locked_directory(parent: Path) -> tuple[Path, int]:
    """A fresh directory and the descriptor that holds its lock."""
    while True:
        try:
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        except OSError as error:
            raise MachineError(f"cannot make a private directory in {parent}: {error.strerror}") from error
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path, lock
        os.close(lock)  # another process took it for abandoned before it was locked


def sweep() -> None:
    """Removes what processes of this user left that were killed. Raises OSError where something cannot be removed."""
    for parent in _parents():
        _remove_abandoned(parent)


def _remove_abandoned(parent: Path) -> None:
    for path in _own(parent):
        with suppress(FileNotFoundError):  # another process removes it too
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
                log.warning("removed %s, which a process that was killed has left", path)
            except BlockingIOError:
                continue  # its process lives
            finally:
                os.close(lock)


def _own(parent: Path) -> Iterator[Path]:
    for entry in os.scandir(parent):
        is_one = entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)
        if is_one and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
            yield Path(entry.path)
