# SPDX-License-Identifier: Apache-2.0
"""Who makes a request: a connection, and the user of this machine whose socket is at its other end."""

from __future__ import annotations

from ...ipc.local_sockets import UNKNOWN, Address, uid_of


class Caller:
    """One connection's caller."""

    __slots__ = ("_local", "_remote", "principal")

    def __init__(self, principal: str, remote: Address | None, local: Address | None) -> None:
        self.principal = principal  # what the broker counts queued requests by, and shares turns among
        self._remote = remote
        self._local = local

    def __repr__(self) -> str:
        return f"<Caller {self.principal}>"

    def uid(self) -> int:
        """Its user; -1 where that is not known. Asked anew each time: ports are used again, by other users too."""
        if self._remote is None or self._local is None:
            return UNKNOWN
        return uid_of(self._remote, self._local)
