# SPDX-License-Identifier: Apache-2.0
"""A client that asks for outputs without a place, which the broker must bring it, and reads none until it is told to.

Arguments: ADDRESS MODEL COUNT. The model's rows are of any width W: its input is [1, W] in a region of this program. Says
{"submitted": COUNT}; told "read", it says how many answers were "right", "wrong" and, by their code, "errors".
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import Any

from penstock.clients import Client, InferFuture, MemfdRegion, PenstockError, SystemRegion


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


def outcomes(futures: list[InferFuture]) -> dict[str, Any]:
    right = wrong = 0
    errors: Counter[str] = Counter()
    for future in futures:
        try:
            is_right = bool((future.result().outputs["y"] == 7).all())
        except PenstockError as error:
            errors[error.code.value] += 1
            continue
        right, wrong = right + is_right, wrong + (not is_right)
    return {"right": right, "wrong": wrong, "errors": errors}


def main(address: str, model: str, count: int) -> None:
    client = Client(address)
    (width,) = client.model(model).inputs[0].dims
    if address.startswith("unix"):
        region: Any = MemfdRegion("mine", 4 * width)
    else:
        region = SystemRegion.create("mine", f"penstock-test-{os.getpid()}", 4 * width)
    client.register(region)
    if not address.startswith("unix"):
        region.unlink()
    region.view("FP32", [1, width])[:] = 7
    placed = {"x": region.tensor("FP32", [1, width])}
    futures = [client.submit(model, placed, ["y"]) for _ in range(count)]
    say(submitted=len(futures))
    for word in sys.stdin:
        if word == "read\n":
            say(**outcomes(futures))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
