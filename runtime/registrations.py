# SPDX-License-Identifier: Apache-2.0
"""What clients say of regions: Register, once the GPU of CUDA memory is known, and Unregister."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec import structs

from ..ipc.errors import PenstockError
from ..ipc.gpus import Gpus
from ..ipc.messages import Done, Register, Unregister
from .admission import register, registrant
from .known_gpus import uuid_of
from .sessions import Session, require_greeting
from .shared_regions import user_of

if TYPE_CHECKING:
    from .core import Core


class Registrations:
    """Carries them out; device_regions.py answers them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        #: (session, Register) that wait for the survey of GPUs, in order
        self._waiting: list[tuple[Session, Register]] = []

    def __repr__(self) -> str:
        return f"<Registrations in {self._core.regions!r}, {len(self._waiting)} wait for a survey>"

    def register(self, session: Session, message: Register) -> None:
        """A region is to be registered. Raises CallerError."""
        fds = session.link.take_fds(message.fds)
        try:
            require_greeting(session)
            if message.kind == "cuda" and not (message.uuid or fds):
                registrant(self._core.shared, session, message)  # before a process is started for it
                self._waiting.append((session, message))
                self._core.gpu_survey.ask(self._core.host, partial(self._surveyed, session, message))
            else:
                self._enter(session, message, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def unregister(self, session: Session, message: Unregister) -> None:
        """One region, or all, are to be forgotten, those too that are not there yet."""
        if message.on_behalf >= 0:
            self._unregister_shared(session, message)
            return
        for entry in [entry for entry in self._waiting if entry[0] is session and message.name in ("", entry[1].name)]:
            self._waiting.remove(entry)
            self._core.reception.send(session, Done(entry[1].id))
        session.bindings.clear()
        self._core.device_regions.unregistered(session, message.id, session.regions.take(message.name))

    def _unregister_shared(self, session: Session, message: Unregister) -> None:
        user_of(session, message.on_behalf)
        for entry in [entry for entry in self._waiting if _is_meant(entry[1], message)]:
            self._waiting.remove(entry)
            if not entry[0].ended:
                self._core.reception.send(entry[0], Done(entry[1].id))
        leaving = self._core.shared.of(message.on_behalf).leaving(message.name, message.kind)
        self._core.device_regions.unregistered(session, message.id, leaving, waits=False)

    def _surveyed(self, session: Session, message: Register, gpus: Gpus) -> None:
        """The client gave the number of a GPU, whose uuid is known now."""
        entry = (session, message)
        if entry not in self._waiting:  # it was unregistered meanwhile
            return
        self._waiting.remove(entry)
        if session.ended:
            return
        try:
            uuid = uuid_of(gpus, message.device_id, message.name)
            self._enter(session, structs.replace(message, uuid=uuid), ())
        except PenstockError as error:
            self._core.reception.refuse(session, message.id, error)

    def _enter(self, session: Session, message: Register, fds: Sequence[int]) -> None:
        who = registrant(self._core.shared, session, message)
        region = register(self._core.regions, who, message, fds)
        self._core.device_regions.registered(session, message.id, region)


def _is_meant(registering: Register, message: Unregister) -> bool:
    """Whether a shared region that is not there yet is unregistered."""
    return (
        registering.on_behalf == message.on_behalf
        and message.name in ("", registering.name)
        and message.kind in ("", registering.kind)
    )
