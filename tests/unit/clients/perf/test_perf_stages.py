# SPDX-License-Identifier: Apache-2.0
"""Where the time of a request goes, worked out by hand from a client's clock and a broker's counters."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.clients.perf.stages import ClientTimes, ServerCounts, Stages, counted_together, stages_of, together
from penstock.ipc.errors import CallerError

# Two requests. The first: message begun at 0, sent at 10, taken in by the broker at 30, execution begun at 100, stages of 5, 40 and
# 15, report made at 163 (3 beside the stages), had by the broker at 180, answer read at 220, result built at 228.
# The second: the same, but 50 later at the broker (queued at 30 as well) and read 60 later.
FIRST = (10, 210, 8)
CLIENT = ClientTimes(2, 10 + 10, 210 + 270, 8 + 8)
SERVER = ServerCounts(
    succeeded=2, in_broker_ns=150 + 200, queue_ns=70 + 120, compute_input_ns=5 + 5, compute_infer_ns=40 + 40,
    compute_output_ns=15 + 15, returning_ns=17 + 17,
)  # fmt: skip


def test_stages_by_hand() -> None:
    assert stages_of(CLIENT, SERVER) == Stages(
        client_send_ns=10,
        network_ns=82,  # (20 + 40 + 17 and 20 + 50 + 17) / 2: to the broker, back from it, and from the worker to it
        queue_ns=95,
        compute_input_ns=5,
        compute_infer_ns=40,
        compute_output_ns=15,
        client_recv_ns=8,
        unaccounted_ns=3,  # what the worker did beside the stages
    )


def test_they_add_up_to_the_mean_latency() -> None:
    assert stages_of(CLIENT, SERVER).latency_ns == (228 + 288) // 2


def test_they_do_so_where_every_mean_is_rounded() -> None:
    # Given three requests of which nothing divides by three
    client = ClientTimes(3, 4, 1000, 5)
    server = ServerCounts(3, 500, 100, 100, 100, 100, 50)
    # Then the sum is the rounded mean of 1009 all the same, and the remainder has what rounding left
    stages = stages_of(client, server)
    assert stages.latency_ns == 336
    assert stages[:7] == (1, 183, 33, 33, 33, 33, 2)
    assert stages.unaccounted_ns == 18


def test_a_request_that_the_broker_had_before_its_send_returned_is_not_counted_twice() -> None:
    # Given a call that returns 30 after the message was begun, while the broker took it in after 25
    stages = stages_of(ClientTimes(1, 30, 70, 0), ServerCounts(1, 65, 65, 0, 0, 0, 0))
    # Then the way there and back, 10, less the 5 that both saw, is what is left between them
    assert stages.client_send_ns == 30
    assert stages.network_ns == 5
    assert stages.latency_ns == 100


def test_no_way_takes_less_than_no_time() -> None:
    # Given a call that returns so late that the broker was nearly done
    stages = stages_of(ClientTimes(1, 90, 10, 4), ServerCounts(1, 75, 60, 5, 5, 5, 0))
    # Then what the call has too much, it does not have, and all adds up as before
    assert stages.client_send_ns == 25
    assert stages.network_ns == 0
    assert stages.unaccounted_ns == 0
    assert stages.latency_ns == 104


@pytest.mark.parametrize("counted", [1, 3, 0])
def test_requests_of_others_make_the_stages_unknowable(counted: int) -> None:
    with pytest.raises(CallerError, match=f"the server counted {counted} requests while 2 were measured"):
        stages_of(CLIENT, SERVER._replace(succeeded=counted))


def test_what_was_added_since() -> None:
    assert ServerCounts(5, 10, 9, 8, 7, 6, 5).since(ServerCounts(2, 1, 2, 3, 4, 5, 5)) == ServerCounts(3, 9, 7, 5, 3, 1, 0)


def test_windows_add_up() -> None:
    assert together([CLIENT, ClientTimes(1, 2, 3, 4)]) == ClientTimes(3, 22, 483, 20)
    assert counted_together([SERVER, SERVER]).in_broker_ns == 700


def test_counts_are_found_in_the_brokers_documents() -> None:
    leaves = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit")
    statistics: dict[str, Any] = {"inference_stats": {name: {"count": 4, "ns": at} for at, name in enumerate(leaves, 1)}}
    found = ServerCounts.from_documents(statistics, {"returning": {"count": 4, "ns": 7}})
    assert found == ServerCounts(4, 1, 3, 4, 5, 6, 7, from_cache=4)
