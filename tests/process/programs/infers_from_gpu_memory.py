# SPDX-License-Identifier: Apache-2.0
"""Registers CUDA memory of its own and infers from it, again and again, until it is killed.

usage: infers_from_gpu_memory.py ADDRESS MODEL WIDTH      prints {"inferred": n} after the first request
"""

from __future__ import annotations

import json
import sys

import numpy as np

from penstock.clients import Client, CudaRegion
from penstock.clients.slots import PlacedRequest

address, model, width = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Client(address) as client:
    region = CudaRegion.allocate("theirs", 8 * width)
    client.register(region)
    region.write(np.ones((1, width), np.float32))
    tensors = [region.tensor("FP32", (1, width), offset) for offset in (0, 4 * width)]
    request = PlacedRequest(model, -1, {"INPUT__0": tensors[0]}, {"OUTPUT__0": tensors[1]})
    client.infer(request)
    print(json.dumps({"inferred": 1}), flush=True)
    while True:
        client.infer(request)
