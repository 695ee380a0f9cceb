# SPDX-License-Identifier: Apache-2.0
"""A broker, over the local link or ZeroMQ: the Target on Client, whose slots are the prepared requests."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from ....ipc.errors import PenstockError
from ...client import Client
from ...futures import InferFuture, Release
from ...models import ModelInfo
from ...pending import State
from ...results import InferResult
from ...slots import Slot
from ..plan import Plan, Point
from ..requests import PreparedRequests
from ..stages import ServerCounts
from ..target import Answer, ServerInfo, TargetSpec
from ..verifying import Check, IdentityCheck


class OwnRequests:
    """The slots of one point, each of which is one request."""

    one_message = True

    def __init__(self, client: Client, slots: Sequence[Slot], check: Check | None = None) -> None:
        self._client = client
        self._slots = slots
        self._check = check
        #: future of each request in flight -> its number
        self._flying: dict[InferFuture, int] = {}
        #: of each request that has failed, and whose memory a worker still has: its future, and what is told once it is free
        self._withheld: dict[Release, tuple[InferFuture, Answer]] = {}

    def __repr__(self) -> str:
        return f"<OwnRequests {len(self._flying)} of {len(self._slots)} in flight, {len(self._withheld)} not released>"

    def check_invariants(self) -> None:
        """Each request is in flight once at most."""
        numbers = [*self._flying.values(), *(answer.number for _, answer in self._withheld.values())]
        assert len(set(numbers)) == len(numbers) <= len(self._slots), self

    def __len__(self) -> int:
        return len(self._slots)

    def send(self, numbers: Sequence[int]) -> None:
        """Several go as one frame. Raises PenstockError."""
        if len(numbers) == 1:
            self._flying[self._client.submit(self._slots[numbers[0]])] = numbers[0]
        else:
            futures = self._client.submit_many([self._slots[number] for number in numbers])
            self._flying.update(zip(futures, numbers, strict=True))

    def take(self, timeout_ns: int | None = None) -> list[Answer]:
        """What was read together comes together; what has failed, when it can be sent again: its memory is free.

        Raises BrokerError when the connection is lost.
        """
        timeout_s = None if timeout_ns is None else timeout_ns / 1e9
        while not (answers := self._take(timeout_s)) and timeout_s is None:
            pass
        return answers

    def _take(self, timeout_s: float | None) -> list[Answer]:
        """The same, or nothing where what was read is withheld."""
        flying, clock = self._flying, time.monotonic_ns
        answers: list[Answer] = []
        if self._withheld:
            any_future = next(iter(flying), None) or next(iter(self._withheld.values()))[0]
            read_ns = any_future.wait_for_any([*flying, *self._withheld], timeout_s)
            answers += [self._withheld.pop(release)[1] for release in list(self._withheld) if release.answered]
        else:
            read_ns = next(iter(flying)).wait_for_any(flying, timeout_s)
        results: list[tuple[Slot, InferResult]] = []
        for future in [future for future in flying if future.answered]:
            number = flying.pop(future)
            error = future.error
            if error is None:
                result = future.result()
                answers.append(Answer(number, read_ns, clock(), None))
                if self._check is not None:
                    results.append((self._slots[number], result))
            elif isinstance(error, PenstockError) and future.state is not State.LOST:
                answer = Answer(number, read_ns, clock(), error)
                if future.state is State.QUARANTINED:
                    self._withheld[Release(future)] = future, answer
                else:
                    answers.append(answer)
            else:
                raise error
        for slot, result in results:  # when all are timed: none waits for another's check
            self._check(slot, result)  # type: ignore[misc]  # without a check there are no results
        return answers

    def close(self) -> None:
        """The slots are given back: whoever still holds this holds no memory by it. Idempotent."""
        self._slots = ()
        self._flying.clear()
        self._withheld.clear()


class OwnTarget:
    """A client of one broker, which is closed with it."""

    def __init__(self, client: Client, spec: TargetSpec, model: ModelInfo) -> None:
        self.spec = spec
        self.model = model
        self.server = ServerInfo("penstock", metadata.version("penstock"))  # the broker speaks this client's protocol
        self.max_in_flight = client.max_in_flight
        self._client = client

    @classmethod
    def open(cls, spec: TargetSpec) -> OwnTarget:
        """Connects. Raises PenstockError."""
        client = Client(spec.address, name="penstock perf")
        try:
            return cls(client, spec, client.model(spec.model, spec.version))
        except BaseException:
            client.close()
            raise

    def __repr__(self) -> str:
        return f"<OwnTarget '{self.model.name}' of {self._client!r}>"

    def check_invariants(self) -> None:
        """Those of the client."""
        self._client.check_invariants()

    @contextmanager
    def prepare(self, plan: Plan, point: Point) -> Iterator[OwnRequests]:
        """In slots of the client's pool, or in a region of their own."""
        with PreparedRequests(self._client, self.model, plan, point) as prepared:
            check = IdentityCheck(self.model, prepared.inputs) if plan.verify else None
            requests = OwnRequests(self._client, list(prepared.inputs), check)
            try:
                yield requests
            finally:
                requests.close()

    def counts(self, answered: int) -> ServerCounts:  # noqa: ARG002 - a broker has counted what it has answered
        """From the documents `statistics` and `stages`."""
        name, version = self.model.name, self.model.version
        (statistics,) = self._client.statistics(name, version)["model_stats"]
        (stages,) = self._client.stages(name, version)
        return ServerCounts.from_documents(statistics, stages)

    def configuration(self) -> Mapping[str, Any]:
        """As the broker has completed it."""
        return self._client.config(self.model.name, self.model.version)

    def close(self) -> None:
        """Says goodbye."""
        self._client.close()
