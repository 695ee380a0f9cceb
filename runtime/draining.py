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

    def wait(is_over: Callable[[], bool], within_s: float, report: Callable[[], str]) -> None:
        """In the log, at once and then each second, what is waited for, in Triton's words: scripts look for them."""
        limit_ns = time.monotonic_ns() + int(within_s * NS)
        report_ns = 0
        while True:
            now_ns = time.monotonic_ns()
            if now_ns >= report_ns:
                log.info("Timeout %.0f: Found %s", max(0, limit_ns - now_ns) / NS, report())
                report_ns = now_ns + NS
            if is_over() or now_ns >= limit_ns:
                return
            turn(min(limit_ns, report_ns))

    log.info("Waiting for in-flight requests to complete.")
    stop_accepting()
    core.gateways.stop()
    wait(lambda: core.gateways.are_gone and core.is_idle(), core.settings.drain_s, lambda: _in_flight(core))
    core.abandon("the broker is stopping")
    log.info("All models are stopped, unloading models")
    core.fleet.stop()
    flush(time.monotonic_ns())  # before the loop waits: nothing else may happen until the workers hear of it
    wait(lambda: _are_gone(core), core.settings.kill_s, lambda: _live(core))
    if not _are_gone(core):
        core.gateways.kill()
        core.fleet.kill("did not exit in time")
        wait(lambda: _are_gone(core), 1.0, lambda: _live(core))


def _are_gone(core: Core) -> bool:
    return core.gateways.are_gone and not core.fleet.instances


def _in_flight(core: Core) -> str:
    models = {request.model for session in core.reception.sessions.values() for request in session.in_flight.values()}
    return f"{len(models)} model versions that have in-flight inferences"


def _live(core: Core) -> str:
    models = {instance.model.number for instance in core.fleet.instances.values()}
    return f"{len(models)} live models and {len(core.loads.describe())} in-flight non-inference requests"
