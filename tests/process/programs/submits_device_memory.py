# SPDX-License-Identifier: Apache-2.0
"""A client with a CUDA region, and with requests in it that it never waits for.

Arguments: ADDRESS MODEL COUNT. Says {"registered": NAME}; told anything, it submits, and says {"submitted": COUNT} when the broker
has read that. Lives until it is killed.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from penstock.clients import Client, CudaRegion


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


def main(address: str, model: str, count: int) -> None:
    client = Client(address, name="victim")
    region = CudaRegion.allocate("mine", 512 * count)
    client.register(region)
    say(registered=region.name)
    sys.stdin.readline()
    places = [[region.tensor("FP32", [1, 2], 512 * at + begin) for begin in (0, 256)] for at in range(count)]
    futures = [client.submit(model, {"x": source}, {"y": target}) for source, target in places]
    client.status()  # what was sent before it has been read by then
    say(submitted=len(futures))
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
