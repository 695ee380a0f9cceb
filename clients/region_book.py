# SPDX-License-Identifier: Apache-2.0
"""The regions that a session has registered, or is about to, and what is asked of the broker when it gives them back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..ipc.addresses import Address
from ..ipc.errors import CallerError, Code, invalid
from ..ipc.messages import Message, Unregister
from .pending import Entry
from .regions import Region


class RegionBook:
    """By name: those of the user, and those of the slot pools, which are closed with the session."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._users: dict[str, Region] = {}
        self._pooled: dict[str, Region] = {}

    def __repr__(self) -> str:
        return f"<RegionBook {len(self._users)} regions, {len(self._pooled)} pooled>"

    def check_invariants(self) -> None:
        """Regions are known by their own names."""
        assert all(region.name == name for name, region in (self._users | self._pooled).items()), self

    @property
    def all(self) -> list[Region]:
        """What each broker is to know."""
        return [*self._users.values(), *self._pooled.values()]

    def add(self, region: Region, pooled: bool) -> None:
        """A region that is about to be registered, now and with every broker to come. Raises CallerError for what cannot be."""
        if region.kind == "memfd" and self._address.kind != "local":
            raise CallerError(
                f"region '{region.name}': {self._address} cannot carry a memfd; use SystemRegion", Code.UNSUPPORTED
            )
        regions = self._pooled if pooled else self._users
        if region.name in regions or regions.setdefault(region.name, region) is not region:
            raise CallerError(f"region '{region.name}' is registered already", Code.ALREADY_EXISTS)

    def strike(self, name: str) -> None:
        """The region is not registered after all."""
        self._users.pop(name, None)
        self._pooled.pop(name, None)

    def take(self, region: Region | str) -> list[str]:
        """Forgets one region of the user's, or all (""); their names. Raises CallerError for what is neither."""
        name = region.name if isinstance(region, Region) else region
        if not isinstance(name, str):
            raise invalid(f"a region is unregistered by itself or by its name: {name!r} is a {type(name).__name__}")
        names = [name] if name else list(self._users)
        for each in names:
            self._users.pop(each, None)
        return names

    def refused(self, name: str) -> None:
        """A new broker does not want a region of the user's."""
        self._users.pop(name, None)

    def drop_pooled(self) -> None:
        """Those of the pools mean nothing to the next broker: they are replaced."""
        self._pooled.clear()

    def on_gpus(self) -> list[str]:
        """The names of CUDA memory in the pools."""
        return [name for name, region in self._pooled.items() if region.kind == "cuda"]

    def close(self) -> None:
        """The session has ended. Idempotent."""
        for region in self._pooled.values():
            region.close()
        self._pooled.clear()


class Parting:
    """The lease of an Unregister that nobody waits for: closes the region when the broker says that no worker has it open."""

    def __init__(self, region: Region) -> None:
        self._region = region

    def build_result(self, _entry: Entry) -> None:
        """There is none."""

    def release(self) -> None:
        """No worker has it any more."""
        self._region.close()

    def lose(self) -> None:
        """The broker is gone, and its workers go with it."""
        self._region.close()


def unregistration(name: str, uid: int = -1) -> partial[tuple[Message, Sequence[int]]]:
    """What makes an Unregister of its number: of a region of the client's own, or of one that is shared for a user."""
    return partial(_unregister, name, uid)


def _unregister(name: str, uid: int, number: int) -> tuple[Message, Sequence[int]]:
    return Unregister(number, name, uid), ()
