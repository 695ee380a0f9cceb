# SPDX-License-Identifier: Apache-2.0
"""How a broker that was told to stop comes to its end: who leaves when, and how long each is waited for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .core import Core

log = logging.getLogger("penstock.broker")

NS = 1_000_000_000


def drain(
    core: Core, turn: Callable[[int | None], None], flush: Callable[[int], None], stop_accepting: Callable[[], None]
) -> None:
    """Gateways and accepted requests may finish within drain_s; then workers, and gateways that are still there, have kill_s.

    `turn` serves once, and waits at most until the time that it is given. A gateway leaves as soon as it has answered all that
    it has; what runs for longer than drain_s is answered when its worker has gone.
    """
    log.info("stopping")

    def wait(is_over: Callable[[], bool], within_s: float) -> None:
        limit_ns = time.monotonic_ns() + int(within_s * NS)
        while not is_over() and time.monotonic_ns() < limit_ns:
            turn(limit_ns)

    stop_accepting()
    core.gateways.stop()
    wait(lambda: core.gateways.are_gone and core.is_idle(), core.settings.drain_s)
    core.abandon("the broker is stopping")
    core.fleet.stop()
    flush(time.monotonic_ns())  # before the loop waits: nothing else may happen until the workers hear of it
    wait(lambda: core.gateways.are_gone and not core.fleet.instances, core.settings.kill_s)
    core.fleet.kill("did not exit in time")
    wait(lambda: core.gateways.are_gone and not core.fleet.instances, 1.0)
