# SPDX-License-Identifier: Apache-2.0
"""Faults of the gateways that a broker starts: their restarts, their ports, and how they leave."""

from __future__ import annotations

from fault import Fault

GATEWAYS = "runtime/gateways.py"
PORTS = "runtime/gateway_ports.py"

RULES = "tests/unit/runtime/test_gateways.py::"
SOCKETS = "tests/contract/test_gateway_ports.py::"
IN_FLIGHT = "tests/contract/test_requests_in_flight.py::"

FAULTS = (
    Fault(
        "a gateway that is told to leave is started again",
        GATEWAYS,
        "if gateway.state is GatewayState.LEAVING:",
        "if gateway.state is GatewayState.LEAVING and gateway.restarts:",
        (f"{RULES}test_told_to_leave_each_leaves_once_and_none_is_started_again",),
    ),
    Fault(
        "a gateway that hangs at its start is waited for for ever",
        GATEWAYS,
        "gateway.due_ns = self._clock() + STARTS_WITHIN_NS",
        "gateway.due_ns = None",
        (f"{RULES}test_one_that_hangs_at_its_start_is_killed_and_started_again",),
    ),
    Fault(
        "one that has served is given up too",
        GATEWAYS,
        "if delay_ns is None and gateway.has_served:",
        "if delay_ns is None and not gateway.has_served:",
        (f"{RULES}test_one_that_has_served_is_started_again_however_often_it_dies",),
    ),
    Fault(
        "a gateway that does not leave outlives the workers' time",
        "runtime/draining.py",
        "core.gateways.kill()",
        "repr(core.gateways)",
        (f"{RULES}test_one_that_does_not_leave_is_killed_when_the_workers_time_is_over",),
    ),
    Fault(
        "clients wait for a gateway that was given up",
        GATEWAYS,
        "self._lose(gateway.number)",
        "pass",
        (f"{RULES}test_after_five_crashes_it_is_given_up_and_nobody_is_to_wait_for_it",),
    ),
    Fault(
        "a broker that is stopping serves any gateway",
        GATEWAYS,
        "return session.is_gateway and self._of(session) is not None",
        "return session.is_gateway",
        (f"{RULES}test_while_the_broker_stops_only_its_own_gateways_are_served",),
    ),
    Fault(
        "the broker is settled before its gateways serve",
        "runtime/core.py",
        "and self.loads.is_idle and self.gateways.are_settled",
        "and self.loads.is_idle",
        (f"{RULES}test_the_broker_is_settled_when_each_has_said_that_it_serves",),
    ),
    Fault(
        "a port that somebody shares is taken for a free one",
        PORTS,
        "        check_free(place)\n",
        "        pass\n",
        (f"{SOCKETS}test_a_port_that_somebody_listens_on_is_refused_even_if_it_could_be_shared",),
    ),
    Fault(
        "a reserved port is free for whoever checks",
        PORTS,
        "return _bound(place, socket.SO_REUSEPORT)\n",
        "return _bound(place, socket.SO_REUSEPORT, socket.SO_REUSEADDR)\n",
        (f"{SOCKETS}test_a_reserved_port_is_nobody_elses_and_can_be_served_by_who_shares_it",),
    ),
    Fault(
        "a gateway leaves before the last request has its outcome",
        "runtime/gateway/in_flight.py",
        "if self._leaving and not self._count:",
        "if self._leaving:",
        (f"{IN_FLIGHT}test_the_last_outcome_is_waited_for_a_failure_too",),
    ),
)
