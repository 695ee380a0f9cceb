# SPDX-License-Identifier: Apache-2.0
"""What `penstock demo` does before it prints: a broker, four clients, the answers and what the broker says of them.

    demo (this process) --+-- broker ----- workers: digits_0_0, digits_0_1, ...
                          +-- client 0 and 2: local link      each sends a quarter of the held-out digits
                          +-- client 1 and 3: ZeroMQ

Sockets and answers lie in a directory of its own, which is removed at the end, come what may.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .children import Child, Children, hear, interrupts_held, say
from .connecting import connected
from .direct_answers import direct_scores
from .failures import CommandFailed
from .own_broker import STARTS_WITHIN_S, hear_ready, own_addresses, start_broker

CLIENTS = 4
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - it is looked at, nothing is made there
ENDS_WITHIN_S = 60.0


class Answers(NamedTuple):
    """What one client wrote down."""

    scores: npt.NDArray[np.float32]  # [rounds, images, 10]
    latencies_ns: npt.NDArray[np.int64]  # [rounds, images]
    started_ns: int  # CLOCK_MONOTONIC, which all processes share
    ended_ns: int


class Outcome(NamedTuple):
    """All that there is to report. Client k has the images k, k + CLIENTS, ..."""

    images: npt.NDArray[np.uint8]  # [n, 8, 8]
    labels: npt.NDArray[np.uint8]
    direct: npt.NDArray[np.float32]  # [n, 10], by onnxruntime in this process
    answers: list[Answers]
    statistics: dict[str, Any]  # of digits, as Triton counts
    stages: dict[str, Any]
    workers: list[int]  # pids, of all models


def run(rounds: int) -> Outcome:
    """Runs the demo; afterwards no process and no file of it is left."""
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder, Children() as children:
        repository = sample_repository()
        addresses = own_addresses(folder)
        broker = start_broker(children, repository, addresses)
        with np.load(repository / "digits" / "held_out.npz") as held_out:
            images, labels = held_out["images"], held_out["labels"]
        with interrupts_held():
            direct = direct_scores(repository / "digits" / "1" / "model.onnx", images[:, np.newaxis].astype(np.float32))
        _check_ready(broker)
        answers = _send_all(children, repository / "digits" / "held_out.npz", addresses, rounds, Path(folder))
        with connected(addresses[0]) as client:
            statistics = client.statistics("digits")["model_stats"][0]
            stages = client.stages("digits")[0]
            workers = [row["pid"] for row in client.status()["instances"]]
        return Outcome(images, labels, direct, answers, statistics, stages, workers)


def sample_repository() -> Path:
    """Where the sample models were installed."""
    package = importlib.import_module("...model_repository", __package__)
    return next(Path(path) for path in package.__path__ if (Path(path) / "digits").is_dir())


def left_behind(outcome: Outcome, shared_memory_before: set[str]) -> list[str]:
    """What is still there of a demo that has ended: workers, and names in /dev/shm that our clients gave."""
    found = [f"process {pid}" for pid in outcome.workers if Path(f"/proc/{pid}").exists()]
    return found + [f"{SHARED_MEMORY}/{name}" for name in shared_memory() - shared_memory_before]


def shared_memory() -> set[str]:
    """The segments of Penstock in /dev/shm. Private directories are those of other brokers: no sample model needs one."""
    return {entry.name for entry in os.scandir(SHARED_MEMORY) if "penstock" in entry.name and not entry.is_dir()}


def _check_ready(broker: Child) -> None:
    for model in hear_ready(broker)["models"]:
        if model["name"] == "digits" and model["state"] != "READY":
            raise CommandFailed(f"the model digits was not loaded: {model['reason']}")


def _send_all(children: Children, images: Path, addresses: tuple[str, ...], rounds: int, folder: Path) -> list[Answers]:
    files = [folder / f"answers_{number}.npz" for number in range(CLIENTS)]
    clients = [
        children.start(
            "penstock.clients.cli.demo_client", "--address", addresses[number % len(addresses)], "--images", str(images),
            "--share", f"{number}/{CLIENTS}", "--rounds", str(rounds), "--answers", str(file),
        )
        for number, file in enumerate(files)
    ]  # fmt: skip
    for client in clients:
        hear(client, STARTS_WITHIN_S)
    for client in clients:
        say(client, "go")
    for client in clients:
        hear(client, ENDS_WITHIN_S)
    return [_read(file) for file in files]


def _read(file: Path) -> Answers:
    with np.load(file) as written:
        return Answers(written["scores"], written["latencies_ns"], int(written["started_ns"]), int(written["ended_ns"]))
