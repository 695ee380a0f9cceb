# SPDX-License-Identifier: Apache-2.0
"""Triton's shared memory extensions: regions of the caller's user, in the broker's shared scope."""

from __future__ import annotations

from typing import Any, Literal

from ...ipc.errors import CallerError, Code, PenstockError
from ...ipc.messages import Register, Unregister
from .callers import Caller
from .link import BrokerLink
from .settings import GatewaySettings

Kind = Literal["system", "cuda"]


class SharedMemory:
    """Registers, lists and forgets regions; the broker holds them, and they survive this process."""

    def __init__(self, link: BrokerLink, settings: GatewaySettings) -> None:
        self._link = link
        self._settings = settings

    def __repr__(self) -> str:
        return f"<SharedMemory of {self._link!r}>"

    async def register_system(self, caller: Caller, name: str, key: str, offset: int, byte_size: int) -> None:
        """Registers a POSIX segment of the caller's user. Raises CallerError."""
        self._check_allowed()
        uid = self._user(caller, name)
        try:
            await self._link.ask(lambda number: Register(number, name, "system", byte_size, key, offset, on_behalf=uid))
        except PenstockError as error:
            if error.code is Code.NOT_FOUND:
                raise CallerError(f"Unable to open shared memory region: '{key}'", Code.INTERNAL) from error
            raise

    async def unregister(self, caller: Caller, kind: Kind, name: str) -> None:
        """Forgets a region, or (no name) all of that kind. What is not there is forgotten already."""
        self._check_allowed()
        uid = caller.uid()
        if uid >= 0:
            await self._link.ask(lambda number: Unregister(number, name, uid, kind))

    async def status(self, caller: Caller, kind: Kind, name: str) -> list[dict[str, Any]]:
        """The caller's regions of a kind, or the one of that name. Raises CallerError (NOT_FOUND)."""
        uid = caller.uid()
        found = [] if uid < 0 else await self._link.query("shared_regions", on_behalf=uid)
        rows = [row for row in found if row["kind"] == kind and name in ("", row["name"])]
        if name and not rows:
            raise CallerError(f"Unable to find {kind} shared memory region: '{name}'", Code.NOT_FOUND)
        return rows

    def _check_allowed(self) -> None:
        if not self._settings.allow_client_shm:
            raise CallerError(
                "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.", Code.UNSUPPORTED
            )

    @staticmethod
    def _user(caller: Caller, name: str) -> int:
        uid = caller.uid()
        if uid < 0:
            raise CallerError(
                f"failed to register shared memory region '{name}': it is not known which user of this machine asks "
                f"({caller.principal}); such clients send tensors inline", Code.UNSUPPORTED,
            )  # fmt: skip
        return uid
