# SPDX-License-Identifier: Apache-2.0
"""The response cache of a real broker: equal answers without an execution, and memory that goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import Barrier, RunningBroker, add_model, eventually, ready_pid

from penstock.clients import Client, PenstockError, SystemRegion

CACHED = "response_cache { enable: true }"
TEXTS = """
name: "texts"
backend: "identity"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_STRING dims: [ -1 ] } ]
response_cache { enable: true }
"""


@pytest.fixture
def broker(tmp_path: Path, repository: Path) -> Iterator[RunningBroker]:
    """`cached` and `texts` use the cache, `plain` does not."""
    add_model(repository, "cached", batching=CACHED)
    add_model(repository, "plain")
    (repository / "texts" / "1").mkdir(parents=True)
    (repository / "texts" / "config.pbtxt").write_text(TEXTS)
    with RunningBroker(tmp_path, repository, "--cache-max-request-bytes", "4096") as running:
        yield running


def counts(client: Client, model: str) -> dict[str, int]:
    """Of the model's statistics, what the cache is about."""
    (found,) = client.statistics(model)["model_stats"]
    stats = found["inference_stats"]
    return {
        "executed": found["execution_count"],
        **{what: stats[what]["count"] for what in ("success", "queue", "compute_infer", "cache_hit", "cache_miss")},
    }


def test_the_second_equal_request_is_not_executed(broker: RunningBroker, link: str) -> None:
    """Given a request, when it comes again then it is answered without the model; after one changed byte it is another."""
    with broker.client(link) as client, client.buffers("cached", batch=2) as io:
        inputs = np.array([[1, 2], [3, 4]], np.float32)
        for _ in range(2):
            io.inputs["x"][:] = inputs
            io.outputs["y"][:] = np.nan
            assert (client.infer(io).outputs["y"] == inputs).all()
        once = {"executed": 1, "success": 2, "queue": 2, "compute_infer": 1, "cache_hit": 1, "cache_miss": 1}
        assert counts(client, "cached") == once
        io.inputs["x"].view(np.uint8)[1, 0] ^= 1
        expected = io.inputs["x"].copy()
        result = client.infer(io, explain=True)
        assert (result.outputs["y"] == expected).all()
        assert result.explain is not None and result.explain.instance == "cached_0_0"
        assert counts(client, "cached")["executed"] == 2
        result = client.infer(io, explain=True)
        assert result.explain is not None and result.explain.closed == "cached"
        with broker.client(link) as other:
            assert (other.infer("cached", {"x": inputs}).outputs["y"] == inputs).all()
        assert counts(client, "cached") == {
            **once,
            "executed": 2,
            "success": 5,
            "queue": 5,
            "compute_infer": 2,
            "cache_hit": 3,
            "cache_miss": 2,
        }
        kept = client.status()["cache"]
        assert (kept["entries"], kept["evictions"]) == (2, 0) and 0 < kept["byte_size"] < kept["capacity_bytes"] == 64 * 2**20


def test_inline_tensors_too(tmp_path: Path, repository: Path) -> None:
    """Given tensors that come with the message, then their memory, the broker's own, goes with a hit as it does with a miss."""
    add_model(repository, "cached", batching=CACHED)
    with RunningBroker(tmp_path, repository, with_tcp=True) as broker, broker.client("tcp") as client:
        for _ in range(3):
            assert (client.infer("cached", {"x": np.ones((1, 2), np.float32)}).outputs["y"] == 1).all()
        assert counts(client, "cached")["cache_hit"] == 2
        assert client.status()["regions"] == 0


def test_a_model_that_does_not_ask_for_it(broker: RunningBroker, link: str) -> None:
    """Given a model without response_cache, then every request is executed."""
    with broker.client(link) as client:
        for _ in range(3):
            client.infer("plain", {"x": np.ones((1, 2), np.float32)})
        assert counts(client, "plain") == {
            "executed": 3, "success": 3, "queue": 3, "compute_infer": 3, "cache_hit": 0, "cache_miss": 0,
        }  # fmt: skip
        assert client.status()["cache"]["entries"] == 0


def test_texts_whose_size_nobody_knows(broker: RunningBroker, link: str) -> None:
    """Given outputs without a place, of a size that only execution tells, then hits bring them along as they were."""
    words = np.array(["eins", "", "zwölf"], dtype=object)
    with broker.client(link) as client:
        answers = [client.infer("texts", {"x": words}).outputs["y"].tolist() for _ in range(3)]
        assert answers == [[b"eins", b"", "zwölf".encode()]] * 3
        found = counts(client, "texts")
        assert (found["executed"], found["cache_hit"]) == (1, 2)
        long = np.array(["x" * 5000], dtype=object)
        for _ in range(2):
            assert client.infer("texts", {"x": long}).outputs["y"].tolist() == [b"x" * 5000]
        assert counts(client, "texts")["executed"] == 3, "more than --cache-max-request-bytes"


def test_a_truncated_segment_harms_nobody(tmp_path: Path, repository: Path, link: str) -> None:
    """Given an equal request whose segment was truncated, then its client gets an error and the broker lives on."""
    add_model(repository, "cached", width=1024, batching=CACHED)
    key = f"penstock-test-{os.getpid()}"
    with (
        RunningBroker(tmp_path, repository, "--isolate-system-regions") as broker,
        broker.client(link) as victim,
        broker.client(link) as bystander,
        SystemRegion.create("mine", key, 8192) as region,
    ):
        victim.register(region)
        region.view("FP32", [1, 1024])[:] = 7

        def infer() -> Any:
            places = {"y": region.tensor("FP32", [1, 1024], 4096)}
            return victim.infer("cached", {"x": region.tensor("FP32", [1, 1024])}, places, timeout_s=5)

        infer()
        infer()
        for left in (4096, 0):  # the place of the output is gone, then the input too
            os.truncate(f"/dev/shm/{key}", left)
            with pytest.raises(PenstockError, match="region shrank"):
                infer()
            assert os.stat(f"/dev/shm/{key}").st_size == left
        seven = np.full((1, 1024), 7, np.float32)
        assert (bystander.infer("cached", {"x": seven}).outputs["y"] == 7).all()
        found = counts(bystander, "cached")
        assert found["cache_hit"] == 2, "the victim's, before, and the bystander's"


def test_a_hit_does_not_wait_for_an_instance(tmp_path: Path, repository: Path, link: str) -> None:
    """Given an instance that is busy for ever, when an equal request comes, then it overtakes what waits."""
    with Barrier(tmp_path / "gate") as gate:
        add_model(repository, "cached", mode="barrier", barrier_path=gate.path, batching=CACHED)
        with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
            first = client.submit("cached", {"x": np.ones((1, 2), np.float32)})
            gate.entered().let_go()
            first.result(5)
            waiting = client.submit("cached", {"x": np.zeros((1, 2), np.float32)})
            held = gate.entered()
            assert (client.infer("cached", {"x": np.ones((1, 2), np.float32)}, timeout_s=5).outputs["y"] == 1).all()
            assert not waiting.done()
            held.let_go()
            waiting.result(5)


def test_a_broker_without_a_cache(tmp_path: Path, repository: Path) -> None:
    """Given --cache-size-bytes 0, then a model that asks for the cache is served without."""
    add_model(repository, "cached", batching=CACHED)
    with RunningBroker(tmp_path, repository, "--cache-size-bytes", "0") as broker, broker.client("local") as client:
        for _ in range(2):
            client.infer("cached", {"x": np.ones((1, 2), np.float32)})
        assert counts(client, "cached")["executed"] == 2


def test_the_command_line_shows_it(broker: RunningBroker, tmp_path: Path) -> None:
    """Given hits, then `infer` says so, `stats` shows their rate and `status` how full the cache is."""
    np.save(tmp_path / "x.npy", np.ones((1, 2), np.float32))
    with broker.client("local") as client:
        for _ in range(3):
            client.infer("cached", {"x": np.ones((1, 2), np.float32)})
        eventually(lambda: ready_pid(client, "cached") > 0, 5, "it is there")
    said = {}
    for command, *words in (["infer", "cached", "--input", f"x={tmp_path}/x.npy"], ["stats"], ["status"]):
        run = [sys.executable, "-m", "penstock.clients.cli", command, *words, "--address", broker.addresses["local"]]
        said[command] = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    (row,) = (line for line in said["stats"].splitlines() if line.split()[:1] == ["cached/1"])
    assert row.split()[1:6] == ["4", "0", "1", "1", "75%"]
    assert said["infer"].endswith("by cached/1 from the response cache\n")
    assert "response cache: 1 entries, 1.0 KiB of 64.0 MiB, 0 evicted" in said["status"]
