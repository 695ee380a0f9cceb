# SPDX-License-Identifier: Apache-2.0
"""One of Triton's clients under way: requests one after the other until it is told to stop, each with an outcome.

    triton_load.py PROTOCOL HOST:PORT MODEL

Says {"answered": N} after the first answer, and again whenever it is told "count"; at the end, told "stop", also how many
failed, how, and how many were answered wrongly.
"""

from __future__ import annotations

import json
import select
import sys
from collections import Counter
from importlib import import_module
from typing import Any

import numpy as np

PATIENCE_S = 20.0
"""Longer than anything should take: a request that has no outcome by then is counted as late."""


PAUSE_S = 0.02
"""After a failure: gRPC refuses at once while nobody listens."""


class Load:
    def __init__(self, protocol: str, address: str, model: str) -> None:
        self._library: Any = import_module(f"tritonclient.{protocol}")
        self._is_grpc = protocol == "grpc"
        self._address = address
        self._model = model
        self._client = self._connected()
        self._sent = 0
        self.answered = 0
        self.wrong = 0
        self.failed: Counter[str] = Counter()

    def _connected(self) -> Any:
        limits = {} if self._is_grpc else {"connection_timeout": PATIENCE_S, "network_timeout": PATIENCE_S}
        return self._library.InferenceServerClient(self._address, **limits)

    def send(self) -> None:
        self._sent += 1
        values = np.array([[self._sent, -self._sent]], np.float32)
        given = self._library.InferInput("x", [1, 2], "FP32")
        given.set_data_from_numpy(values)
        limits = {"client_timeout": PATIENCE_S} if self._is_grpc else {}
        try:
            answer = self._client.infer(self._model, [given], **limits)
        except Exception as error:  # noqa: BLE001 - whatever a client makes of it: it is an outcome
            late = "timed out" in str(error) or "Deadline" in str(error)
            self.failed["late" if late else f"{type(error).__name__}: {error}"] += 1
            self._client.close()
            self._client = self._connected()
            select.select([sys.stdin], [], [], PAUSE_S)
            return
        self.answered += 1
        self.wrong += not np.array_equal(answer.as_numpy("y"), values)

    def close(self) -> None:
        self._client.close()


def main(protocol: str, address: str, model: str) -> None:
    def say(**words: object) -> None:
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()

    load = Load(protocol, address, model)
    while not load.answered:
        load.send()
    say(answered=load.answered)
    while True:
        load.send()
        if select.select([sys.stdin], [], [], 0)[0]:
            if sys.stdin.readline() != "count\n":
                break
            say(answered=load.answered)
    load.close()
    say(answered=load.answered, wrong=load.wrong, failed=load.failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
