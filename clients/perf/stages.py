# SPDX-License-Identifier: Apache-2.0
"""Where the time of a request goes, from what the client measured and what the broker counted. Pure.

    client   |send|.................... away ....................|recv|
    broker          |............ in the broker ...........|
    worker             queue |input|infer|output|..| returning

All are sums over the requests of one window. The stages are means per request; no stage is what others leave over. A broker
that has a request before the call that sent it returns is counted within that call; where this is more than all ways take, the
call counts as ended earlier, since no way takes less than no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...ipc.errors import CallerError, Code
from .percentiles import mean


class ClientTimes(NamedTuple):
    """Of the requests of a window together, in ns."""

    requests: int
    sending_ns: int  # from beginning to build the message until the call that sends it returns
    away_ns: int  # from there until the answer is read
    receiving_ns: int  # from there until the result is built


class ServerCounts(NamedTuple):
    """What the broker has counted of a model version. Durations in ns, of all successful requests together."""

    succeeded: int
    in_broker_ns: int  # from the request being taken in until its outcome is known
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    returning_ns: int  # from the worker making its report until the broker has it
    from_cache: int = 0  # so many of them were answered by the response cache

    @classmethod
    def from_documents(cls, statistics: Mapping[str, Any], stages: Mapping[str, Any]) -> ServerCounts:
        """From an element of the broker's `statistics` document, and of its `stages` document."""
        counted = statistics["inference_stats"]
        return cls(
            counted["success"]["count"], counted["success"]["ns"], counted["queue"]["ns"], counted["compute_input"]["ns"],
            counted["compute_infer"]["ns"], counted["compute_output"]["ns"], stages["returning"]["ns"],
            counted["cache_hit"]["count"],
        )  # fmt: skip

    def since(self, earlier: ServerCounts) -> ServerCounts:
        """What was added since then."""
        return ServerCounts(*(now - before for now, before in zip(self, earlier, strict=True)))


class Stages(NamedTuple):
    """Of a request in the mean, in whole ns. They and `unaccounted_ns` add up to the mean latency exactly."""

    client_send_ns: int
    network_ns: int
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int
    client_recv_ns: int
    unaccounted_ns: int

    @property
    def latency_ns(self) -> int:
        """All of them together."""
        return sum(self)


def stages_of(client: ClientTimes, server: ServerCounts) -> Stages:
    """The stages of a window's requests. Raises CallerError when the server counted requests that are not the client's."""
    count = client.requests
    if server.succeeded != count:
        raise CallerError(
            f"the server counted {server.succeeded} requests while {count} were measured: others use the model, or it was "
            "loaded again; measure a model that nobody else uses",
            Code.UNAVAILABLE,
        )
    ways_ns = client.away_ns - server.in_broker_ns + server.returning_ns
    twice_ns = max(-ways_ns, 0)  # so much of the calls that sent passed while the broker had the requests already, at least
    sums = (
        client.sending_ns - twice_ns, ways_ns + twice_ns, server.queue_ns,
        server.compute_input_ns, server.compute_infer_ns, server.compute_output_ns, client.receiving_ns,
    )  # fmt: skip
    means = [mean(total, count) for total in sums]
    latency_ns = mean(client.sending_ns + client.away_ns + client.receiving_ns, count)
    return Stages(*(*means, latency_ns - sum(means)))


def together(rows: Iterable[ClientTimes]) -> ClientTimes:
    """Of several windows."""
    return ClientTimes(*map(sum, zip(*rows, strict=True)))


def counted_together(rows: Iterable[ServerCounts]) -> ServerCounts:
    """Of several windows."""
    return ServerCounts(*map(sum, zip(*rows, strict=True)))
