# SPDX-License-Identifier: Apache-2.0
"""The shared scope: regions that belong to a user of this machine, not to a session. Gateways register them for their clients.

They live until they are unregistered, whatever becomes of the gateway. Each user has names of its own, and nobody else's
requests can name them. The rule is Triton's (its shared_memory_manager.cc): a region that is in use when it is unregistered
keeps its name, and can be used, until its last request has ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..ipc.errors import CallerError, Code
from .regions import Region, RegionNames
from .sessions import Session


class SharedNames(RegionNames):
    """The names of one user's shared regions. A closing region keeps its own until it is closed."""

    owner = "a user"
    taken = "already in manager"

    def __init__(self, most: int, forget: Callable[[], None]) -> None:
        super().__init__(most)
        self._forget = forget

    def leaving(self, name: str, kind: str) -> list[Region]:
        """The regions to be retired: one, or all when the name is empty, of this kind or (empty) of any."""
        return [region for region in self if name in ("", region.name) and kind in ("", region.kind) and not region.closing]

    def drop(self, region: Region) -> None:
        """The region is closed, or no memory after all: its name is free, and placements that were checked with it are void."""
        super().drop(region)
        self._forget()


class SharedRegions:
    """Every user's shared regions, `most` for each. `forget` is called when checked placements may name one that is gone."""

    def __init__(self, most: int, forget: Callable[[], None]) -> None:
        self._most = most
        self._forget = forget
        #: uid -> its names, once it has had any
        self._by_uid: dict[int, SharedNames] = {}

    def __repr__(self) -> str:
        return f"<SharedRegions {self._by_uid}>"

    def __iter__(self) -> Iterator[tuple[int, Region]]:
        return ((uid, region) for uid, names in self._by_uid.items() for region in names)

    def of(self, uid: int) -> SharedNames:
        """A user's names."""
        names = self._by_uid.get(uid)
        if names is None:
            names = self._by_uid[uid] = SharedNames(self._most, self._forget)
        return names

    def describe(self, uid: int) -> list[dict[str, object]]:
        """A user's regions, as Triton's status has them."""
        return [
            {
                "name": region.name, "kind": region.kind, "key": region.key, "offset": region.offset,
                "byte_size": region.byte_size, "device_id": region.cuda.device_id,
            }
            for region in self._by_uid.get(uid, ())
        ]  # fmt: skip

    def visible(self, session: Session, on_behalf: int) -> Visible:
        """The regions that a request may name. Raises CallerError for a session that may not speak for that user."""
        uid = user_of(session, on_behalf)
        return Visible(session.regions, self._by_uid.get(uid, _NONE))


class Visible(NamedTuple):
    """The regions that a request may name: its session's own, and those that are shared for the user whose request it is."""

    own: RegionNames
    shared: RegionNames

    def find(self, name: str, shared: bool, asker: str) -> Region:
        """The region, or CallerError (NOT_FOUND). `asker` says what wanted one of its own; of others Triton says no more."""
        return self.shared.find(name, "") if shared else self.own.find(name, asker)


_NONE = RegionNames()
"""Those of a user who has never had any, and of who has no uid. Nothing is ever added."""


def user_of(session: Session, on_behalf: int) -> int:
    """The user that a message is sent for; -1: not known. Raises CallerError where that is not for the sender to say."""
    own = -1 if session.peer is None else session.peer.uid
    if on_behalf in (-1, own):
        return own
    if own != os.geteuid():
        who = "of an unknown user" if own < 0 else f"uid {own}"
        raise CallerError(f"only uid {os.geteuid()} may speak for others, this client is {who}", Code.UNSUPPORTED)
    return on_behalf
