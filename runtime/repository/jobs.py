# SPDX-License-Identifier: Apache-2.0
"""What the broker has done in the helper thread, since it may block: each a small object, its `run` the work.

The thread runs one after the other, so that what is told of a model arrives in order.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ...ipc.errors import CallerError
from ..gpu_survey import LookForGpus
from .changes import NOWHERE, Places, differences
from .directory import find_model, find_models, only_directory, read_model
from .orders import Order
from .origins import Moment, Opened, Origin
from .placement import ANYWHERE, Placing
from .private_directories import PrivateDirectory, sweep
from .stamps import Stamps, stamps_of

log = logging.getLogger("penstock.repository")


class Sweep(NamedTuple):
    """Removes the private directories of brokers that were killed."""

    def run(self) -> None:
        """Raises OSError."""
        sweep()


class Survey(NamedTuple):
    """Looks for models in all repositories; with `before`, what an earlier one found, for what has changed since."""

    repositories: tuple[str, ...]
    before: Places | None = None

    def run(self) -> Found:
        """Raises CallerError for a repository that is not a readable directory, OSError."""
        found = find_models(self.repositories)
        if self.before is None:
            return Found(frozenset(found))
        places = {name: _place(directories) for name, directories in found.items()}
        return Found(frozenset(found), places, *differences(self.before, places))


class Found(NamedTuple):
    """What a survey found. `places` and what they differ in are there where the survey was to compare."""

    names: frozenset[str]
    places: Places = NOWHERE
    changed: Sequence[str] = ()
    gone: Sequence[str] = ()


class OpenModel(NamedTuple):
    """Finds and reads one model. `before`: what is loaded of it, which may turn out to be what there is."""

    repositories: tuple[str, ...]
    order: Order
    before: Opened | None
    placing: Placing = ANYWHERE

    def run(self) -> Opened | None:
        """None: nothing has changed. Raises CallerError, OSError. The order is closed in any case."""
        try:
            return self._open_brought() if self.order.files else self._open_found()
        finally:
            self.order.close()

    def _open_brought(self) -> Opened:
        order = self.order
        private = PrivateDirectory.create(order.byte_size)
        directory = private.path / order.name
        try:
            order.write_to(directory)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            private.close()
            text = f"the files for model '{order.name}' cannot be written: {error.strerror}: {error.filename}"
            raise CallerError(text) from None
        except BaseException:
            private.close()
            raise
        return self._read(directory, Origin(order.name, private), None)

    def _open_found(self) -> Opened | None:
        directory = only_directory(self.order.name, find_model(self.repositories, self.order.name))
        stamps = stamps_of(directory)  # before reading: a change meanwhile will count as one
        before = self.before
        if before is not None and (before.source.directory, before.stamps, before.override) == (
            directory, stamps, self.order.override,
        ):  # fmt: skip
            return None
        return self._read(directory, Origin(self.order.name), stamps)

    def _read(self, directory: Path, origin: Origin, stamps: Stamps | None) -> Opened:
        try:
            source = read_model(directory, self.placing, self.order.override)
        except BaseException:
            origin.become(Moment.LOAD_FAIL)
            origin.tell(Moment.LOAD_FAIL)
            raise
        origin.agents = source.agents
        return Opened(source, origin, stamps, self.order.override)


class Tell(NamedTuple):
    """Tells an origin what moment it is."""

    origin: Origin
    moment: Moment

    def run(self) -> None:
        """Raises MachineError."""
        self.origin.tell(self.moment)


Job = Sweep | Survey | OpenModel | Tell | LookForGpus


def _place(directories: list[Path]) -> tuple[str, Stamps | None]:
    """Where a model is, and what its files are; an ambiguous one is wherever it is."""
    if len(directories) > 1:
        return "\n".join(map(str, directories)), None
    try:
        return str(directories[0]), stamps_of(directories[0])
    except OSError:  # it is gone again, or may not be read: a load says so
        return str(directories[0]), None
