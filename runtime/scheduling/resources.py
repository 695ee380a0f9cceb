# SPDX-License-Identifier: Apache-2.0
"""The rate limiter: instances hold resources while they execute, and those that compete for one take turns.

Source: Triton's `rate_limiter.cc` (OnStage, OnRelease, ScaledPriority). An instance is given all that it needs when a batch is
sent to it, and gives it back when the batch has ended or the instance is gone. The next of those that wait is the one with the
smallest executions x priority; among equals, the one that waits longest.

Who waits is not overtaken: what it needs, and is there, is kept for it, or an instance that needs much would never run beside
many that need little. In Triton that holds up everybody behind the first in line; here only those that need some of the same.
Ours too: an instance that comes later starts where those that it competes with are, and not at 0, or a worker that is started
again would shut the others out until it has caught up with them.

Instances with resources are sent one batch at a time (credits 1): a batch that is staged behind a running one would hold what
it does not use yet.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct, field

from .instances import Instance, Instances, Room
from .limits import GLOBAL, Needs, Pool, ResourceLimit, explicit_limit


class Claim(Struct, eq=False):
    """One instance's part in it. It holds all that it needs or nothing, and does not wait while it holds."""

    instance: int
    model: int
    needs: Needs
    executions: int = 0
    holds: bool = False
    waits: bool = False
    order: int = 0  # its place among equals: when it began to wait; 0: it does not wait

    @property
    def level(self) -> int:
        """The smaller, the sooner its turn comes."""
        return self.executions * self.needs.priority

    @property
    def rank(self) -> tuple[int, int, int]:
        """The order of those that wait; constant while it waits."""
        return (self.level, self.order, self.instance)


class Stock(Struct, eq=False):
    """What there is of one pool."""

    limit: int = 0
    used: int = 0
    level: int = 0  # of the claim that was served last
    #: The ranks of those that wait and need some of it, ascending.
    waiting: list[tuple[int, int, int]] = field(default_factory=list)


class Resources:
    """`freed`: since it was last set to False something became free, or somebody who waited does no more."""

    __slots__ = ("_claims", "_limits", "_order", "_stocks", "freed")

    def __init__(self, limits: Sequence[ResourceLimit] = ()) -> None:
        self._limits = limits
        #: instance -> its claim, from `add` until `remove`.
        self._claims: dict[int, Claim] = {}
        #: Every pool that a claim needs some of.
        self._stocks: dict[Pool, Stock] = {}
        #: The last order given.
        self._order = 0
        self.freed = False

    def add(self, instance: Instance, needs: Needs) -> None:
        """An instance is there; limits that are not given grow with what it needs."""
        claim = self._claims[instance.number] = Claim(instance.number, instance.model, needs)
        levels = [self._stocks.setdefault(pool, Stock()).level for pool, _ in needs.amounts]
        claim.executions = min(levels, default=0) // needs.priority
        self._set_limits()

    def remove(self, instance: Instance) -> None:
        """The instance is gone, with what it held and waited for."""
        claim = self._claims.pop(instance.number, None)
        if claim is None:
            return
        if claim.waits:
            self._leave(claim)
        if claim.holds:
            self._give_back(claim)
        self._set_limits()

    def grant(self, room: Room) -> Instance | None:
        """The one of these idle instances that may execute now, and holds what it needs from now on; None: all wait."""
        claims = [self._claims[instance.number] for instance in room.idle()]
        for claim in claims:
            if not claim.order:
                self._order = claim.order = self._order + 1
        claims.sort(key=lambda claim: claim.rank)
        for claim in claims:
            if self.may_start(claim):
                self._start(claim)
                return room.find(claim.instance)
        for claim in claims:
            room.set_aside(room.find(claim.instance))
            claim.waits = True
            for pool, _ in claim.needs.amounts:
                insort(self._stocks[pool].waiting, claim.rank)
        return None

    def recall(self, instances: Instances) -> list[Claim]:
        """Takes a model's waiting instances out of the line, to be asked again; then comes `settle`."""
        claims = [self._claims[number] for number in instances.aside]
        for claim in claims:
            self._leave(claim)
        instances.take_up()
        return claims

    def withdraw(self, instance: Instance, instances: Instances) -> None:
        """One of a model's instances is to leave, and waits for nothing any more; the others are to be asked again."""
        self.recall(instances)
        self._claims[instance.number].order = 0
        self.freed = True

    def settle(self, instances: Instances, recalled: Iterable[Claim]) -> None:
        """A model's instances have been asked: those that are idle and do not wait have nothing to do."""
        for instance in instances.idle():
            self._claims[instance.number].order = 0
        if not all(claim.waits for claim in recalled):
            self.freed = True

    def ended(self, instance: Instance) -> None:
        """The instance's batch ended."""
        claim = self._claims[instance.number]
        claim.executions += 1
        self._give_back(claim)

    def in_turn(self) -> list[Claim]:
        """Those that wait, in their order."""
        return sorted((claim for claim in self._claims.values() if claim.waits), key=lambda claim: claim.rank)

    def may_start(self, claim: Claim) -> bool:
        """Whether all that it needs is there, and nobody whose turn comes sooner waits for some of it."""
        rank = claim.rank
        for pool, amount in claim.needs.amounts:
            stock = self._stocks[pool]
            if stock.used + amount > stock.limit or (stock.waiting and stock.waiting[0] < rank):
                return False
        return True

    def describe(self) -> list[dict[str, Any]]:
        """What is in use, as `penstock status` shows it; `device` None: global."""
        return [
            {
                "resource": pool.name,
                "device": None if pool.device == GLOBAL else pool.device,
                "count": stock.limit,
                "used": stock.used,
                "waiting": len(stock.waiting),
            }
            for pool, stock in sorted(self._stocks.items())
        ]

    def _start(self, claim: Claim) -> None:
        claim.holds = True
        claim.order = 0
        for pool, amount in claim.needs.amounts:
            stock = self._stocks[pool]
            stock.used += amount
            stock.level = claim.level

    def _give_back(self, claim: Claim) -> None:
        claim.holds = False
        self.freed = True
        for pool, amount in claim.needs.amounts:
            self._stocks[pool].used -= amount

    def _leave(self, claim: Claim) -> None:
        claim.waits = False
        for pool, _ in claim.needs.amounts:
            waiting = self._stocks[pool].waiting
            del waiting[bisect_left(waiting, claim.rank)]

    def _set_limits(self) -> None:
        """Where no limit is given, it is the most that any one instance needs."""
        most: dict[Pool, int] = {}
        for claim in self._claims.values():
            for pool, amount in claim.needs.amounts:
                most[pool] = max(amount, most.get(pool, 0))
        self._stocks = {pool: stock for pool, stock in self._stocks.items() if pool in most}
        for pool, amount in most.items():
            given = explicit_limit(pool, self._limits)
            self._stocks[pool].limit = amount if given is None else given
        self.freed = True

    def check_invariants(self, instances: dict[int, Instance], aside: set[int]) -> None:
        """Raises AssertionError where the comments above do not hold. `instances`: those of the models that are limited."""
        claims = self._claims
        assert claims.keys() == instances.keys(), self
        assert {number for number, claim in claims.items() if claim.waits} == aside, self
        assert {number for number, claim in claims.items() if claim.holds} == {n for n, i in instances.items() if i.batches}, (
            self
        )
        amounts = [(pool, amount, claim) for claim in claims.values() for pool, amount in claim.needs.amounts]
        assert self._stocks.keys() == {pool for pool, _, _ in amounts}, self
        for pool, stock in self._stocks.items():
            mine = [(amount, claim) for other, amount, claim in amounts if other == pool]
            assert stock.used == sum(amount for amount, claim in mine if claim.holds), (pool, self)
            assert stock.waiting == sorted(claim.rank for _, claim in mine if claim.waits), (pool, self)
            assert all(amount <= stock.limit for amount, _ in mine), (pool, self)
        for claim in claims.values():
            assert not (claim.waits and claim.holds) and claim.waits == (claim.order > 0), (claim, self)
            assert self.freed or not (claim.waits and self.may_start(claim)), (claim, self)

    def __repr__(self) -> str:
        used = {f"{pool.name} at {pool.device}": f"{stock.used} of {stock.limit}" for pool, stock in self._stocks.items()}
        return f"<{len(self._claims)} instances, used {used}, waiting {[claim.instance for claim in self.in_turn()]}>"
