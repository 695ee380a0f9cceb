# SPDX-License-Identifier: Apache-2.0
"""Prepared requests of paper, on a paper clock: what load generators do with them is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from penstock.clients.perf.target import Answer
from penstock.ipc.errors import PenstockError

SEND_NS, WAKE_NS, BUILD_NS = 10, 5, 1
"""Sending takes so long, however many are sent; an answer is read so long before it is given; so long takes each result."""


class PaperClock:
    """Stands for the module `time`: only what is slept and what paper requests do takes time."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def process_time_ns(self) -> int:
        return self.now_ns // 2

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class PaperRequests:
    """`service_ns` says of the n-th request that is sent how long it takes; None: it is answered with all the others.

    `order`: which of those in flight are answered together, by their place among them, one entry for each `take`.
    """

    one_message = True

    def __init__(
        self, clock: PaperClock, count: int, *, service_ns: Callable[[int], int] | None = None,
        order: Iterable[Sequence[int]] = (), errors: Mapping[int, PenstockError] | None = None, check_ns: int = 0,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._count = count
        self._service_ns = service_ns
        self._order = iter(order)
        self._errors = errors or {}
        self._check_ns = check_ns
        #: the numbers of each call of `send`, and when it was called
        self.sent: list[list[int]] = []
        self.times: list[int] = []
        self.most = 0
        #: number in flight -> when it is answered, and which of all requests it is
        self.flying: dict[int, tuple[int, int]] = {}
        self._total = 0

    def __len__(self) -> int:
        return self._count

    def send(self, numbers: Sequence[int]) -> None:
        assert numbers and not set(numbers) & set(self.flying), "sent twice"
        assert all(0 <= number < self._count for number in numbers)
        self.sent.append(list(numbers))
        self.times.append(self._clock.now_ns)
        self._clock.now_ns += SEND_NS
        for number in numbers:
            takes_ns = 0 if self._service_ns is None else self._service_ns(self._total)
            self.flying[number] = self._clock.now_ns + takes_ns, self._total
            self._total += 1
        self.most = max(self.most, len(self.flying))

    def take(self, timeout_ns: int | None = None) -> list[Answer]:
        assert self.flying, "nothing is in flight"
        if self._service_ns is None:
            self._clock.now_ns += 100
            waiting = list(self.flying)
            numbers = [waiting[place] for place in next(self._order, range(len(waiting)))]
        else:
            first_ns = max(min(ready_ns for ready_ns, _ in self.flying.values()), self._clock.now_ns)
            if timeout_ns is not None and first_ns > self._clock.now_ns + timeout_ns:
                self._clock.now_ns += timeout_ns
                return []
            self._clock.now_ns = first_ns
            numbers = [number for number, (ready_ns, _) in self.flying.items() if ready_ns <= first_ns]
        read_ns = self._clock.now_ns
        self._clock.now_ns += WAKE_NS
        answers = []
        for number in numbers:
            _, which = self.flying.pop(number)
            self._clock.now_ns += BUILD_NS
            answers.append(Answer(number, read_ns, self._clock.now_ns, self._errors.get(which)))
        self._clock.now_ns += self._check_ns * len(numbers)
        return answers
