# SPDX-License-Identifier: Apache-2.0
"""A closed loop over plain HTTP, for a server that speaks nothing else: so many connections, a row of 600 KB in each request.

Every answer is compared with what it must be. Prints one JSON object: requests per second and latencies in us.

usage: http_load.py HOST:PORT --concurrency N --seconds S
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measurement import percentiles_us

from peers.repositories import FLOATS, row

PATH = "/inference"
WARM_UP_S = 0.3


class Connection(threading.Thread):
    """One connection with one request in flight. What went wrong is kept for whoever waits for it."""

    def __init__(self, address: str, start_ns: int, end_ns: int) -> None:
        super().__init__()
        self._address, self._start_ns, self._end_ns = address, start_ns, end_ns
        self.latencies_ns: list[int] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._ask()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.error = error

    def _ask(self) -> None:
        host, _, port = self._address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port))
        body = row()
        expected = body[: 4 * FLOATS]
        sent_ns = time.monotonic_ns()
        while sent_ns < self._end_ns:
            connection.request("POST", PATH, body)
            answer = connection.getresponse()
            content = answer.read()
            ended_ns = time.monotonic_ns()
            if answer.status != http.client.OK or content != expected:
                raise ValueError(f"answered {answer.status} with {len(content)} bytes: {content[:200]!r}")
            if sent_ns >= self._start_ns and ended_ns <= self._end_ns:
                self.latencies_ns.append(ended_ns - sent_ns)
            sent_ns = ended_ns
        connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="A closed loop over plain HTTP.")
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    start_ns = time.monotonic_ns() + int(WARM_UP_S * 1e9)
    end_ns = start_ns + int(options.seconds * 1e9)
    connections = [Connection(options.address, start_ns, end_ns) for _ in range(options.concurrency)]
    for connection in connections:
        connection.start()
    for connection in connections:
        connection.join()
    errors = [connection.error for connection in connections if connection.error]
    if errors:
        print(f"{len(errors)} of {len(connections)} connections failed: {errors[0]!r}", file=sys.stderr)
        return 1
    latencies = np.array([each for connection in connections for each in connection.latencies_ns], np.int64)
    if not len(latencies):
        print(f"no request began and ended within {options.seconds:g} s", file=sys.stderr)
        return 1
    print(json.dumps({"requests_per_s": round(len(latencies) / options.seconds, 1), **percentiles_us(latencies)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
