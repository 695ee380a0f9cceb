# SPDX-License-Identifier: Apache-2.0
"""What clients may do to models: load and unload them. For the broker's own user, and where the control mode lets clients."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..ipc.errors import BrokerError, CallerError, Code, PenstockError, invalid
from ..ipc.messages import Done, Load, Unload
from .loading import Tell
from .repository.orders import BroughtFile, Order, check_name, check_parameters
from .sessions import Session

if TYPE_CHECKING:
    from .core import Core


class Control:
    """Takes loads and unloads in, and answers them when they are over, however long that takes."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def __repr__(self) -> str:
        return f"<Control in mode {self._core.settings.control_mode.value}>"

    def load(self, session: Session, message: Load, fds: Sequence[int], parts: Sequence[bytes]) -> None:
        """The caller keeps `fds`. Raises CallerError for what is wrong with the message; anything else is told later."""
        self._check(session, message.model)
        files = _files(message, fds, parts)
        self._core.loads.load(Order(message.model, message.config, files), self._answer_to(session, message.id))

    def unload(self, session: Session, message: Unload) -> None:
        """Unloads; an unknown model is unloaded already."""
        self._check(session, message.model)
        self._core.loads.unload(message.model, self._answer_to(session, message.id))

    def _check(self, session: Session, name: str) -> None:
        require_owner(session, "load and unload models")
        if self._core.stopping:
            raise BrokerError("the broker is stopping", Code.UNAVAILABLE)
        if not self._core.settings.takes_loads:
            raise BrokerError("explicit model load / unload is not allowed if polling is enabled", Code.UNAVAILABLE)
        check_name(name)

    def _answer_to(self, session: Session, number: int) -> Tell:
        def answer(error: PenstockError | None) -> None:
            if error is not None:
                self._core.reception.refuse(session, number, error)
            elif not session.ended:
                self._core.reception.send(session, Done(number))

        return answer


def require_owner(session: Session, may: str) -> None:
    """Raises CallerError unless the client runs as the broker's own user."""
    if session.peer is None or session.peer.uid != os.geteuid():
        raise CallerError(f"only uid {os.geteuid()} may {may}", Code.UNSUPPORTED)


def _files(message: Load, fds: Sequence[int], parts: Sequence[bytes]) -> dict[str, BroughtFile]:
    paths = check_parameters(message.config, message.files)
    if len(paths) != len(fds) + len(parts):
        raise invalid(f"{len(paths)} files are named, but {len(fds)} descriptors and {len(parts)} parts came")
    for fd, name in zip(fds, message.files, strict=False):
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise invalid(f"the content of '{name}' must come as a memfd or a regular file")
    contents = [BroughtFile(part) for part in parts]
    try:
        contents.extend(BroughtFile(fd=os.dup(fd)) for fd in fds)
    except OSError:
        for content in contents:
            content.close()
        raise
    return dict(zip(paths, contents, strict=True))
