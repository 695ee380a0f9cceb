# SPDX-License-Identifier: Apache-2.0
"""A model's directory in a repository: prepared where no broker looks, and moved into place when it has been found right.

The preparation is a hidden directory in the repository itself, so that moving is renaming, and a broker that looks meanwhile
sees the old or the new and nothing between. It is a repository with one model, which a broker can serve.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, final

from ...ipc.errors import CallerError, Code, MachineError, invalid

CONFIG_NAME = "config.pbtxt"


class Place(NamedTuple):
    """Where an entry is to be: REPOSITORY/NAME/VERSION."""

    repository: Path
    name: str
    version: int
    overwrites: bool = False  # --force

    @property
    def directory(self) -> Path:
        """Of the model."""
        return self.repository / self.name

    def check(self) -> None:
        """Raises CallerError for a name that is none, and for a version that is there and may not be overwritten."""
        if self.name in ("", ".", "..") or "/" in self.name or "\0" in self.name or self.name.startswith("."):
            raise invalid(f"--name {self.name!r} cannot be a model's: it names a directory, which is not hidden")
        version = self.directory / str(self.version)
        if version.exists() and not self.overwrites:
            raise CallerError(f"{version} is there already; --force writes over it", Code.ALREADY_EXISTS)


@final
class Staging:
    """The hidden directory. A context manager: whatever has not been published is gone in the end."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._folder: Path | None = None

    def __repr__(self) -> str:
        return f"<Staging of {self.place.name}/{self.place.version} {'closed' if self._folder is None else 'open'}>"

    def check_invariants(self) -> None:
        """What is open is there."""
        assert self._folder is None or self._folder.is_dir(), self

    def __enter__(self) -> Staging:
        try:
            self.place.repository.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=".convert-", dir=self.place.repository))
        except OSError as error:
            raise MachineError(f"cannot write to the repository {self.place.repository}: {error.strerror}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    @property
    def folder(self) -> Path:
        """For files of the conversion."""
        assert self._folder is not None, "Staging is not open"
        return self._folder

    def repository(self, attempt: str) -> Path:
        """A repository of its own for an attempt; the version's directory is in it."""
        self._version(attempt).mkdir(parents=True)
        return self.folder / attempt

    def file(self, attempt: str, filename: str) -> Path:
        """A file of the version."""
        return self._version(attempt) / filename

    def describe(self, attempt: str, config: str, labels: Path | None) -> None:
        """Writes config.pbtxt and copies the labels."""
        model = self._version(attempt).parent
        (model / CONFIG_NAME).write_text(config, encoding="utf-8")
        if labels is not None:
            shutil.copyfile(labels, model / labels.name)

    def check_config(self, config: str) -> None:
        """Raises CallerError where the model is there with another configuration, which may not be overwritten."""
        path = self.place.directory / CONFIG_NAME
        if self.place.overwrites or not path.exists():
            return
        if path.read_text(encoding="utf-8") != config:
            raise CallerError(
                f"{path} says something else than this version needs, and it is for all versions; --force writes over it",
                Code.ALREADY_EXISTS,
            )

    def publish(self, attempt: str) -> Path:
        """Moves the attempt into place; the directory of the version. Raises CallerError, MachineError."""
        self.place.check()
        staged, target = self._version(attempt).parent, self.place.directory
        version, replaced = target / str(self.place.version), self.folder / "replaced"
        try:
            if not target.exists():
                staged.rename(target)
                return version
            self.check_config((staged / CONFIG_NAME).read_text(encoding="utf-8"))
            if version.exists():
                version.rename(replaced)
            try:
                self._version(attempt).rename(version)
            except OSError:
                if replaced.exists():  # what was there before is better than nothing
                    replaced.rename(version)
                raise
            for file in staged.iterdir():
                os.replace(file, target / file.name)
        except OSError as error:
            raise MachineError(f"cannot write {version}: {error.strerror}") from error
        return version

    def _version(self, attempt: str) -> Path:
        return self.folder / attempt / self.place.name / str(self.place.version)
