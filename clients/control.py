# SPDX-License-Identifier: Apache-2.0
"""Loading and unloading models, as a client asks for it. Both may take minutes, so nothing but the caller limits them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from ..ipc.messages import Load, Unload
from .catalog import Catalog
from .session import Question, Session

Files = Mapping[str, bytes]
"""Triton's parameter file:VERSION/NAME -> content."""


class Control:
    """Asks the broker, and forgets what was known of the model."""

    def __init__(self, session: Session, catalog: Catalog) -> None:
        self._session = session
        self._catalog = catalog

    def __repr__(self) -> str:
        return f"<Control over {self._session!r}>"

    def load(self, model: str, config: str, files: Files, timeout_s: float | None) -> None:
        """Loads. Raises what the broker answers."""
        with carried(files, self._session.address.kind == "local") as (fds, parts):
            try:
                self._session.ask(load_question(model, config, files, fds, parts), parts, timeout_s)
            finally:
                self._catalog.forget_model(model)

    def unload(self, model: str, unload_dependents: bool, timeout_s: float | None) -> None:
        """Unloads. Raises what the broker answers."""
        try:
            self._session.ask(unload_question(model, unload_dependents), timeout_s=timeout_s)
        finally:
            self._catalog.forget_model(model)


@contextmanager
def carried(files: Files, by_descriptor: bool) -> Iterator[tuple[Sequence[int], Sequence[bytes]]]:
    """The contents as memfds, which last as long as the block, or else as parts."""
    contents = [bytes(content) for content in files.values()]
    with ExitStack() as opened:
        fds: list[int] = []
        for content in contents if by_descriptor else ():
            fds.append(_memfd(content))
            opened.callback(os.close, fds[-1])
        yield fds, () if fds else contents


def load_question(model: str, config: str, files: Files, fds: Sequence[int], parts: Sequence[bytes]) -> Question:
    """What a load asks, under the number that it is given."""
    return lambda number: (Load(number, model, config, list(files), len(fds), len(parts)), fds)


def unload_question(model: str, unload_dependents: bool) -> Question:
    """The same of an unload."""
    return lambda number: (Unload(number, model, unload_dependents), ())


def _memfd(content: bytes) -> int:
    fd = os.memfd_create("penstock-file", os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd
