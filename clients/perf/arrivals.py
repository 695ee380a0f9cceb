# SPDX-License-Identifier: Apache-2.0
"""When the requests of an open loop are due, whatever becomes of those before them. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Distribution = Literal["poisson", "constant"]


class Share(NamedTuple):
    """The part of a load that one of several processes makes: number 0 to of - 1."""

    number: int = 0
    of: int = 1

    def part(self, count: int) -> int:
        """Of so many: as even as can be, the first ones more."""
        return count // self.of + (self.number < count % self.of)


class Arrivals(NamedTuple):
    """Requests at `rate` per second, of which this is a share.

    Poisson: gaps are exponential and know nothing of one another, as among many users who know nothing of one another. Several
    such streams together are one. Constant: one every 1/rate; the shares take turns.
    """

    rate: float
    distribution: Distribution
    seed: int
    share: Share = Share()

    def within(self, duration_ns: int, window: int) -> npt.NDArray[np.int64]:
        """Those of one window, in ns from its beginning, in order."""
        if self.distribution == "constant":
            count = int(np.ceil(duration_ns * self.rate / 1e9))
            times = self._turns(count)
            return times[times < duration_ns]
        generator = self._generator(window)
        count = generator.poisson(duration_ns / 1e9 * self.rate / self.share.of)  # and where they lie is uniform
        return np.sort(generator.integers(0, duration_ns, count))

    def first(self, requests: int, window: int) -> npt.NDArray[np.int64]:
        """So many of all shares together."""
        if self.distribution == "constant":
            return self._turns(requests)
        gaps = self._generator(window).exponential(self.share.of / self.rate * 1e9, self.share.part(requests))
        times: npt.NDArray[np.int64] = np.cumsum(gaps).astype(np.int64)
        return times

    def length_ns(self, times: npt.NDArray[np.int64], requests: int) -> int:
        """The length of a window of so many requests, with these times.

        Of constant times to the end of the last interval. Of a Poisson process to the last request: n of them have n gaps, and
        the mean length would look like a rate not reached where they happen to come slowly.
        """
        if self.distribution == "constant" or not len(times):
            return int(requests / self.rate * 1e9)
        return max(int(times[-1]), 1)

    def _turns(self, count: int) -> npt.NDArray[np.int64]:
        times: npt.NDArray[np.int64] = (np.arange(self.share.number, count, self.share.of) * (1e9 / self.rate)).astype(np.int64)
        return times

    def _generator(self, window: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, window, self.share.number))
