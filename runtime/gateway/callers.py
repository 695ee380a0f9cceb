# SPDX-License-Identifier: Apache-2.0
"""Who makes a request: a connection, and the user of this machine whose socket is at its other end."""

from __future__ import annotations

from collections.abc import Callable

from ...ipc.local_sockets import UNKNOWN


def _nobody() -> int:
    return UNKNOWN


class Caller:
    """One connection's caller."""

    __slots__ = ("principal", "uid")

    def __init__(self, principal: str, uid: Callable[[], int] = _nobody) -> None:
        self.principal = principal  # what the broker counts queued requests by, and shares turns among
        self.uid = uid
        """Its user; -1 where that is not known."""

    def __repr__(self) -> str:
        return f"<Caller {self.principal}>"
