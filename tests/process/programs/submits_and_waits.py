# SPDX-License-Identifier: Apache-2.0
"""A client that submits requests and reads none of their answers until it is told to.

Arguments: ADDRESS MODEL COUNT [fork]. Says {"submitted": COUNT, "child": PID or 0}; with `fork` a child of it then lives on with
everything that it inherited, the connection included. Told "read", it waits for all answers and says how many were "right",
"wrong" and, by their code, "errors"; told "again", it submits the same once more and does the same. It ends with its standard
input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from typing import Any

import numpy as np

from penstock.clients import Client, InferFuture, PenstockError


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


def linger() -> None:
    """The forked child's whole life."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        signal.pause()


def outcomes(futures: list[InferFuture]) -> dict[str, Any]:
    right = wrong = 0
    errors: Counter[str] = Counter()
    for number, future in enumerate(futures):
        try:
            result = future.result()
        except PenstockError as error:
            errors[error.code.value] += 1
            continue
        matches = np.array_equal(result.outputs["y"], [[number, -number]])
        right, wrong = right + matches, wrong + (not matches)
    return {"right": right, "wrong": wrong, "errors": errors}


def main(address: str, model: str, count: int, fork: bool) -> None:
    client = Client(address)
    slots = [client.buffers(model, 1) for _ in range(count)]
    for number, slot in enumerate(slots):
        slot.inputs["x"][:] = [[number, -number]]
    futures = client.submit_many(slots)
    child = os.fork() if fork else 0
    if fork and child == 0:
        linger()
    say(submitted=len(futures), child=child)
    for word in sys.stdin:
        if word == "again\n":
            futures = client.submit_many(slots)
        say(**outcomes(futures))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), "fork" in sys.argv[4:])
