# SPDX-License-Identifier: Apache-2.0
"""What the columns mean, in short; docs/latency.md has it at length."""

from __future__ import annotations

from typing import NamedTuple


class Step(NamedTuple):
    """One of the eight steps of a request, and the columns that its time is in."""

    name: str
    happens: str
    columns: str


STEPS = (
    Step("Send", "the client builds the message and hands it to the system", "Client Send"),
    Step("Travel", "the message goes to the server", "Network+Server Send/Recv"),
    Step("Receive", "the server reads and decodes it", "Network+Server Send/Recv"),
    Step("Queue", "the request waits for its batch, and the batch for a free instance", "Server Queue"),
    Step(
        "Compute",
        "inputs are gathered, the model runs, outputs are brought to their places",
        "Server Compute Input, Server Compute Infer, Server Compute Output",
    ),
    Step("Send", "the server makes its answer and hands it to the system", "Network+Server Send/Recv"),
    Step("Travel", "the answer goes to the client", "Network+Server Send/Recv"),
    Step("Receive", "the client makes its result of what it has read", "Client Recv"),
)

MEANINGS = (
    ("Batch", "inferences in one request"),
    ("Concurrency", "requests in flight at once; of an open loop, the most there were"),
    ("Request Rate", "requests per second that an open loop was asked for; its latencies begin when a request was due"),
    ("Inferences/Second", "throughput: a request of batch 8 is eight inferences"),
    ("Client Send to Client Recv", "the steps above, means per request; together with Unaccounted they are the avg latency"),
    ("p50 to p99 latency", "latencies that were recorded: so many percent of the requests took no longer"),
    ("Unaccounted", "what no stage measured"),
    ("95 % low, 95 % high", "confidence interval of the mean throughput; the error bars of the plots"),
    ("Windows, Stable", "how many windows were measured; whether the last three agreed as closely as was asked for"),
    ("Client CPU", "of one core, of the busiest client process: near 100 % the client was the limit, not the server"),
    ("† ‡ *", "not stable; some requests failed; has notes. In plots: hollow or hatched; crossed out or ‡"),
)
