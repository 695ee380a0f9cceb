# SPDX-License-Identifier: Apache-2.0
"""Regions and instances on GPUs: told of each other at once, off the path of requests, and with an answer.

Host memory is pinned by every instance on a GPU, which takes a tenth of a second per GB: when it is registered, or when the
instance becomes ready, not with the first batch. CUDA memory goes to the instances on its GPU. Only they can say whether its
handle is good, so its registration waits for the first of them; where none is ready it is taken on trust, and a refusal is the
error of the requests that use it. Its exporter may free it when no instance has it open any more: Unregister waits for that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..ipc.errors import from_wire
from ..ipc.messages import Done, Failed, Message, RegionMapped, RegionUnmapped
from .regions import Region, RegionRegistry

if TYPE_CHECKING:
    from .instances import Instance
    from .sessions import Session

log = logging.getLogger("penstock.broker")

Send = Callable[["Session", Message], None]
"""Queues a message for a client that may have left."""


class _Doubt:
    """A Register of CUDA memory that waits for an instance to open it."""

    __slots__ = ("instance", "message_id", "region", "session")

    def __init__(self, session: Session, message_id: int, region: Region, instance: Instance) -> None:
        self.session = session
        self.message_id = message_id
        self.region = region
        self.instance = instance


class _Parting:
    """An Unregister that waits until its CUDA memory is closed everywhere."""

    __slots__ = ("message_id", "numbers", "session")

    def __init__(self, session: Session, message_id: int, numbers: set[int]) -> None:
        self.session = session
        self.message_id = message_id
        self.numbers = numbers


class DeviceRegions:
    """Answers Register and Unregister. `instances` and `unflushed` are the fleet's."""

    def __init__(
        self, registry: RegionRegistry, instances: Mapping[int, Instance], unflushed: set[Instance], send: Send
    ) -> None:  # fmt: skip
        self._registry = registry
        self._instances = instances
        self._unflushed = unflushed
        self._send = send
        #: number of a region, or of what was one -> the Register that waits for it
        self._doubts: dict[int, _Doubt] = {}
        self._partings: list[_Parting] = []
        registry.tell_closed = self._closed

    def __repr__(self) -> str:
        return f"<DeviceRegions {len(self._doubts)} to be opened, {len(self._partings)} to be closed>"

    def check_invariants(self) -> None:
        """Who is waited for is there; every parting waits for something."""
        for doubt in self._doubts.values():
            assert self._instances.get(doubt.instance.number) is doubt.instance, repr(self)
        assert all(parting.numbers for parting in self._partings), repr(self)

    # --- from clients ----------------------------------------------------------------------------------------------------

    def registered(self, session: Session, message_id: int, region: Region) -> None:
        """A region is there: instances on GPUs are told, and its client is, at once or when one of them has answered."""
        told = self._tell(region)
        if region.gpu and told is not None:
            self._doubts[region.number] = _Doubt(session, message_id, region, told)
        else:
            self._answer(session, Done(message_id))

    def unregistered(self, session: Session, message_id: int, regions: Sequence[Region], waits: bool = True) -> None:
        """These regions are to go. `waits`: for those in use too; else the answer waits for CUDA memory that is idle alone."""
        numbers = {region.number for region in regions if region.gpu and (waits or not region.in_flight)}
        if numbers:  # before they are retired: what nobody has open is closed by that
            self._partings.append(_Parting(session, message_id, numbers))
        else:
            self._answer(session, Done(message_id))
        for region in regions:
            self._unflushed.update(self._registry.retire(region))

    # --- from instances --------------------------------------------------------------------------------------------------

    def greet(self, instance: Instance) -> None:
        """An instance is ready: on a GPU it gets all that there is, before its first batch."""
        if instance.gpu:
            for region in self._registry:
                if not region.closing and _concerns(region, instance):
                    self._map(region, instance)

    def mapped(self, instance: Instance, message: RegionMapped) -> None:
        """An instance says what became of a region."""
        region = self._registry.find(message.region)
        if region is not None and instance in region.mapped_by:
            region.reports[instance] = message
            if message.message:
                log.warning("%s: region '%s' %s: %s", instance.name, region.name, _fate(message), message.message)
        doubt = self._doubts.get(message.region)
        if doubt is None or doubt.instance is not instance:
            return
        del self._doubts[message.region]
        if message.code:
            self._refuse(doubt, message)
        else:
            self._accept(doubt)

    def unmapped(self, instance: Instance, message: RegionUnmapped) -> None:
        """An instance has closed CUDA memory."""
        self._registry.unmapped(instance, message.region)

    def gone(self, instance: Instance) -> None:
        """An instance died. What waited for its word asks another one, or is taken on trust."""
        for doubt in [doubt for doubt in self._doubts.values() if doubt.instance is instance]:
            del self._doubts[doubt.region.number]
            if self._registry.find(doubt.region.number) is None or doubt.region.closing:
                self._answer(doubt.session, Done(doubt.message_id))  # it was unregistered meanwhile
            else:
                self.registered(doubt.session, doubt.message_id, doubt.region)

    # --- in between ------------------------------------------------------------------------------------------------------

    def _tell(self, region: Region) -> Instance | None:
        """Hands a region to ready instances that it concerns: all, or one of them where it is to be tried first."""
        for instance in self._concerned(region):
            if self._map(region, instance) and region.gpu:
                return instance
        return None

    def _concerned(self, region: Region) -> list[Instance]:
        return [
            instance
            for instance in self._instances.values()
            if instance.gpu and instance.is_ready and not instance.is_ending and _concerns(region, instance)
        ]

    def _map(self, region: Region, instance: Instance) -> bool:
        """False where a batch was there first: then nothing is reported."""
        if region.number in instance.mapped:
            return False
        self._registry.map_into(region, instance, report=True)
        self._unflushed.add(instance)
        return True

    def _accept(self, doubt: _Doubt) -> None:
        region = doubt.region
        self._answer(doubt.session, Done(doubt.message_id))
        if self._registry.find(region.number) is None or region.closing:
            return
        for instance in self._concerned(region):
            self._map(region, instance)

    def _refuse(self, doubt: _Doubt, message: RegionMapped) -> None:
        region, session = doubt.region, doubt.session
        error = from_wire(message.code, message.message, message.fault)
        self._answer(
            session, Failed(error.code.value, f"region '{region.name}': {error.message}", error.fault, doubt.message_id)
        )
        if region.names is not None:
            region.names.drop(region)
        session.bindings.clear()
        if not region.closing:
            self._unflushed.update(self._registry.retire(region))

    def _closed(self, number: int) -> None:
        """Nobody has this CUDA memory open any more."""
        for parting in [parting for parting in self._partings if number in parting.numbers]:
            parting.numbers.discard(number)
            if not parting.numbers:
                self._partings.remove(parting)
                self._answer(parting.session, Done(parting.message_id))

    def _answer(self, session: Session, message: Message) -> None:
        if not session.ended:
            self._send(session, message)


def _concerns(region: Region, instance: Instance) -> bool:
    """Whether an instance on a GPU gets this region ahead of any request: what one request has alone is not worth it."""
    return region.kind != "inline" and region.gpu in ("", instance.gpu)


def _fate(message: RegionMapped) -> str:
    return "cannot be used" if message.code else "is not pinned"
