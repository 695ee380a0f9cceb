# SPDX-License-Identifier: Apache-2.0
"""Run in mosec's own environment: the first ten floats of a row of FP32 that comes as the body of a request.

usage: mosec_server.py [options of mosec]      PEERS_INSTANCES is the number of workers
"""

from __future__ import annotations

import os

import numpy as np
from mosec import Server, Worker

FLOATS = 10


class Identity(Worker):
    """Bodies go in and out as they are; only what is answered is read. One by one: a batch would gain nothing, and wait."""

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.float32)

    def forward(self, data: np.ndarray) -> np.ndarray:
        return data[:FLOATS]

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()


if __name__ == "__main__":
    server = Server()
    server.append_worker(Identity, num=int(os.environ.get("PEERS_INSTANCES", "1")))
    server.run()
