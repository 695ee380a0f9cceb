# SPDX-License-Identifier: Apache-2.0
"""A client process of `penstock demo`: sends its share of the held-out digits, all at once, and writes down what came back.

It says `ready` when its images lie in shared memory, waits for a line on standard input, sends, and says `done`.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...ipc.errors import PenstockError
from ...ipc.processes import die_with_parent
from ..client import Client

ANSWER_WITHIN_S = 30.0


def classify(address: str, images: npt.NDArray[np.uint8], rounds: int, file: Path) -> None:
    """Sends every image [n, 8, 8] as a request of its own, `rounds` times; writes scores, latencies and times to `file`."""
    scores = np.full((rounds, len(images), 10), np.nan, np.float32)
    latencies_ns = np.zeros((rounds, len(images)), np.int64)
    with Client(address) as client, ExitStack() as slots:
        model = client.model("digits")
        leased = [slots.enter_context(client.buffers(model, batch=1)) for _ in images]
        for slot, image in zip(leased, images, strict=True):
            slot.inputs["image"][0, 0] = image
        print("ready", flush=True)
        sys.stdin.readline()
        started_ns = time.monotonic_ns()
        for turn in range(rounds):
            for slot in leased:
                slot.outputs["scores"].fill(np.nan)  # so that an answer that was never written is seen
            sent_ns = time.monotonic_ns()
            futures = client.submit_many(leased, timeout_s=ANSWER_WITHIN_S)
            for position, future in enumerate(futures):
                scores[turn, position] = future.result().outputs["scores"][0]
                latencies_ns[turn, position] = time.monotonic_ns() - sent_ns
        ended_ns = time.monotonic_ns()
    np.savez(file, scores=scores, latencies_ns=latencies_ns, started_ns=started_ns, ended_ns=ended_ns)


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser("penstock.clients.cli.demo_client", description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="die with this process")
    parser.add_argument("--address", required=True)
    parser.add_argument("--images", type=Path, required=True, help="a .npz file with `images`")
    parser.add_argument("--share", required=True, help="K/N: every Nth image, beginning with the Kth, counted from 0")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--answers", type=Path, required=True, help="the .npz file to write")
    options = parser.parse_args()
    die_with_parent(options.parent)
    first, step = map(int, options.share.split("/"))
    with np.load(options.images) as held_out:
        images = held_out["images"][first::step]
    try:
        classify(options.address, images, options.rounds, options.answers)
    except PenstockError as error:
        sys.exit(f"client at {options.address}: {error}")
    print("done", flush=True)


if __name__ == "__main__":
    main()
