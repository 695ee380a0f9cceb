# SPDX-License-Identifier: Apache-2.0
"""Sending what is queued, at the end of each turn of the event loop."""

from __future__ import annotations

from ..ipc.errors import PenstockError
from ..ipc.local import LinkClosed
from .fleet import Fleet
from .instances import Instance
from .reception import Reception
from .sessions import Session


class Flushing:
    """To instances and sessions that have something queued. A session that lets more than `max_backlog_bytes` pile up ends."""

    def __init__(self, fleet: Fleet, reception: Reception, max_backlog_bytes: int) -> None:
        self._fleet = fleet
        self._reception = reception
        self._max_backlog_bytes = max_backlog_bytes

    def __repr__(self) -> str:
        return f"<Flushing {len(self._fleet.unflushed)} instances, {len(self._reception.unflushed)} sessions>"

    def flush(self) -> tuple[list[Session], list[Instance]]:
        """Returns those whose sockets are full, to be tried again when there is room."""
        full_sessions: list[Session] = []
        full_instances: list[Instance] = []
        instances, sessions = self._fleet.unflushed, self._reception.unflushed
        while instances or sessions:  # a session that ends has something to say to instances
            while instances:
                instance = instances.pop()
                try:
                    if not instance.link.flush():
                        full_instances.append(instance)
                except LinkClosed:
                    instance.hung_up()
                except PenstockError as error:
                    instance.kill(f"cannot be told what to do: {error.message}")
            while sessions:
                session = sessions.pop()
                if not self._flush_session(session):
                    full_sessions.append(session)
        return [session for session in full_sessions if not session.ended], full_instances

    def _flush_session(self, session: Session) -> bool:
        """Whether everything could be sent; a session that is gone or reads nothing is ended."""
        try:
            if session.link.flush():
                return True
        except LinkClosed:
            self._reception.end(session, "connection lost")
            return True
        except PenstockError as error:  # an answer beyond the frame limit, or no memory to send it
            self._reception.expel(session, f"cannot be answered: {error.message}")
            return True
        if session.link.backlog <= self._max_backlog_bytes:
            return False
        self._reception.expel(session, f"does not read its replies: {session.link.backlog} bytes are waiting")
        return True
