# SPDX-License-Identifier: Apache-2.0
"""A model's instances and the batches at them: which one takes the next batch, and when a busy one is nearly free."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from msgspec import Struct, field

from .executions import Executions
from .requests import NO_GPU, Batch
from .timers import Timers


class Instance(Struct, eq=False):
    """An execution context: a worker's only one, or one of its lanes. Batches execute there in the order they were sent in.

    The lanes of a worker are instances like any others, each with its own batches; what they share is their end.
    """

    number: int
    model: int
    lanes: range  # the numbers of all instances of its worker
    gpu: int = NO_GPU
    #: Batches sent and not ended, in order: the first is running, the others are staged behind it. At most `credits`.
    batches: deque[Batch] = field(default_factory=deque)
    since_ns: int = 0  # when the first became first; while there is one
    killed: bool = False  # the watchdog gave it up: it gets no more batches
    leaving: bool = False  # it is no longer wanted: it gets no more batches, and finishes those it has

    def begun(self) -> int:
        """How many of its batches its worker may have begun.

        A worker on the CPU answers each batch before it starts the next. One on a GPU puts what it gets into its stream at
        once, so that copies overlap with computing: whatever was sent may have been begun.
        """
        return min(1, len(self.batches)) if self.gpu == NO_GPU else len(self.batches)

    def __repr__(self) -> str:
        state = "killed" if self.killed else "running" if self.batches else "idle"
        state = f"{state}, leaving" if self.leaving else state
        return f"<instance {self.number} of model {self.model}: {state}, batches {[b.number for b in self.batches]}>"


class Room(Protocol):
    """Instances as one queue of a model sees them: all of them, or those that its requests may go to (spread.py)."""

    @property
    def open(self) -> int:
        """How many may take a batch."""
        ...

    def choose(self) -> Instance | None: ...
    def nearest_end(self) -> tuple[int, Instance] | None: ...
    def idle(self) -> Iterable[Instance]: ...
    def find(self, number: int) -> Instance: ...
    def set_aside(self, instance: Instance) -> None: ...


class Instances:
    """The instances of one model. `open` is how many may take a batch.

    `executions` None: nothing is learnt, for a model whose batches never wait for anything but room.
    """

    __slots__ = ("_all", "_by_load", "_credits", "_executions", "_near_ends", "_open", "aside", "leaving", "open")

    def __init__(self, batches_each: int, executions: Executions | None) -> None:
        self._credits = batches_each
        self._executions = executions
        #: every instance by number.
        self._all: dict[int, Instance] = {}
        #: Idle instances that wait for resources (resources.py), by number.
        self.aside: dict[int, Instance] = {}
        #: [n]: the others with n batches, neither killed nor leaving; the longest so first, so that equals take turns.
        self._by_load: tuple[OrderedDict[int, Instance], ...] = tuple(OrderedDict() for _ in range(batches_each + 1))
        #: The part of _by_load that may take another batch.
        self._open = self._by_load[:batches_each]
        #: instance -> when its only batch nears its end; for those with exactly one batch and a known expectation.
        self._near_ends = Timers()
        #: those that are to leave and are still here.
        self.leaving: list[Instance] = []
        #: sum of len(_by_load[n]) for n < credits.
        self.open = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._all.values())

    def all_idle(self) -> bool:
        """Whether no batch is at any of them."""
        return not any(instance.batches for instance in self._all.values())

    def find(self, number: int) -> Instance:
        """The instance of that number."""
        return self._all[number]

    def idle(self) -> Iterable[Instance]:
        """Those that have no batch and may take one."""
        return self._by_load[0].values()

    def set_aside(self, instance: Instance) -> None:
        """The idle instance may not take a batch until it is taken up."""
        self._leave(instance)
        self.aside[instance.number] = instance

    def take_up(self) -> None:
        """Those that were set aside may take a batch again."""
        self._by_load[0].update(self.aside)
        self.open += len(self.aside)
        self.aside.clear()

    def add(self, instance: Instance) -> None:
        """A new, idle instance."""
        self._all[instance.number] = instance
        self._by_load[0][instance.number] = instance
        self.open += 1

    def remove(self, instance: Instance) -> None:
        """The instance is gone."""
        del self._all[instance.number]
        if instance.leaving:
            self.leaving.remove(instance)
        elif not (self.aside.pop(instance.number, None) or instance.killed):
            self._leave(instance)

    def give_up(self, instance: Instance) -> None:
        """The instance is to be killed: nothing more is sent to it."""
        if not instance.leaving:
            self._leave(instance)
        instance.killed = True

    def send_away(self, instance: Instance) -> None:
        """The instance is to leave: nothing more is sent to it, what is there is finished."""
        if not (instance.leaving or instance.killed):
            self._leave(instance)
            instance.leaving = True
            self.leaving.append(instance)

    def call_back(self) -> None:
        """Those that were to leave take batches again: the whole model is leaving, and everybody helps."""
        for instance in self.leaving:
            instance.leaving = False
            if not instance.killed:
                load = len(instance.batches)
                self._by_load[load][instance.number] = instance
                self.open += load < self._credits
        self.leaving.clear()

    def choose(self) -> Instance | None:
        """An idle instance, else the least loaded that may take a batch."""
        for instances in self._open:
            if instances:
                return next(iter(instances.values()))
        return None

    def nearest_end(self) -> tuple[int, Instance] | None:
        """Of the instances with one batch and room for another, the one that nears its end first, and when."""
        entry = self._near_ends.first()
        return None if entry is None else (entry[0], self._all[entry[1]])

    def sent(self, instance: Instance, batch: Batch, now_ns: int) -> bool:
        """The batch is at the instance now; True: it is the first there."""
        load = len(instance.batches)
        instance.batches.append(batch)
        self._move(instance, load, load + 1)
        if load:
            if self._executions is not None:
                self._near_ends.cancel(instance.number)
            return False
        self._becomes_first(instance, now_ns)
        return True

    def ended(self, instance: Instance, now_ns: int) -> Batch:
        """The first batch ended; the next, if there is one, becomes first."""
        load = len(instance.batches)
        batch = instance.batches.popleft()
        if self._executions is not None:
            self._executions.learn(batch.rows, now_ns - instance.since_ns)
            self._near_ends.cancel(instance.number)
        if not (instance.killed or instance.leaving):
            self._move(instance, load, load - 1)
        if load > 1:
            self._becomes_first(instance, now_ns)
        return batch

    def _becomes_first(self, instance: Instance, now_ns: int) -> None:
        instance.since_ns = now_ns
        is_out = instance.killed or instance.leaving
        if self._executions is not None and len(instance.batches) == 1 < self._credits and not is_out:
            near_end_ns = self._executions.near_end_ns(instance.batches[0].rows, now_ns)
            if near_end_ns is not None:
                self._near_ends.set(instance.number, near_end_ns)

    def _move(self, instance: Instance, load: int, new_load: int) -> None:
        number = instance.number
        del self._by_load[load][number]
        self._by_load[new_load][number] = instance
        self.open += (new_load < self._credits) - (load < self._credits)

    def _leave(self, instance: Instance) -> None:
        load = len(instance.batches)
        del self._by_load[load][instance.number]
        self.open -= load < self._credits
        self._near_ends.cancel(instance.number)

    def check_invariants(self) -> None:
        """Raises AssertionError where the comments above do not hold."""
        for number, instance in self._all.items():
            assert instance.number == number, self
            assert len(instance.batches) <= self._credits, self
            loads = [load for load, instances in enumerate(self._by_load) if number in instances]
            is_out = instance.killed or instance.leaving
            assert loads == ([] if is_out or number in self.aside else [len(instance.batches)]), (instance, loads)
            assert instance.leaving == (instance in self.leaving), instance
            if number in self._near_ends:
                assert len(instance.batches) == 1 < self._credits and not is_out, instance
            numbers = [batch.number for batch in instance.batches]
            assert numbers == sorted(numbers), instance
        in_line = sum(not (i.killed or i.leaving) for i in self._all.values()) - len(self.aside)
        assert sum(map(len, self._by_load)) == in_line, self
        assert all(self._all[n] is i and not (i.batches or i.killed or i.leaving) for n, i in self.aside.items()), self
        assert self.open == sum(map(len, self._open)), self
        self._near_ends.check_invariants()
        if self._executions is not None:
            self._executions.check_invariants()

    def __repr__(self) -> str:
        return f"<{self.open} of {len(self._all)} instances open: {list(self._all.values())}>"
