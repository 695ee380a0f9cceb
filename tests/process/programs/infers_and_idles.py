# SPDX-License-Identifier: Apache-2.0
"""A client that has had one answer and keeps its slot. Arguments: ADDRESS MODEL. Says {"y": the answer}; ends with its stdin."""

from __future__ import annotations

import json
import sys

from penstock.clients import Client


def main(address: str, model: str) -> None:
    client = Client(address)
    slot = client.buffers(model, 1)
    slot.inputs["x"][:] = [[5, -5]]
    print(json.dumps({"y": client.infer(slot).outputs["y"].tolist()}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
