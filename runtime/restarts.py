# SPDX-License-Identifier: Apache-2.0
"""When a dead worker is started again, and when the broker gives up. Pure: time is an argument."""

from __future__ import annotations

from collections import deque

NS = 1_000_000_000
FIRST_DELAY_NS = NS // 10
LONGEST_DELAY_NS = 10 * NS
CRASHES = 5
WITHIN_NS = 60 * NS


class RestartPolicy:
    """Back-off 0.1 s doubling to 10 s; after 5 crashes in 60 s no more (design section 7). One per instance name."""

    def __init__(self) -> None:
        #: times of the crashes within the last WITHIN_NS, oldest first; at most CRASHES
        self._crashes: deque[int] = deque(maxlen=CRASHES)

    def __repr__(self) -> str:
        return f"<RestartPolicy {len(self._crashes)} recent crashes>"

    def check_invariants(self) -> None:
        """Times are in order."""
        assert list(self._crashes) == sorted(self._crashes), self

    def crashed(self, now_ns: int) -> int | None:
        """Counts a crash. Returns the delay until the restart in ns, or None: give up."""
        while self._crashes and now_ns - self._crashes[0] > WITHIN_NS:
            self._crashes.popleft()
        self._crashes.append(now_ns)
        recent = len(self._crashes)
        if recent >= CRASHES:
            return None
        return int(min(FIRST_DELAY_NS << (recent - 1), LONGEST_DELAY_NS))
