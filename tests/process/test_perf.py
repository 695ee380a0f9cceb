# SPDX-License-Identifier: Apache-2.0
"""`penstock perf` against a real broker: what its table says, over both links and every kind of memory, and what it refuses.

How long anything takes is nobody's business here: windows are a few requests, and figures are held against each other.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import LINKS, START_S, RunningBroker, add_model, eventually

from penstock.clients import Client

SAMPLES = Path(__file__).resolve().parents[2] / "model_repository"
FEW = ("--measurement-request-count", "12", "--max-trials", "3", "--warmup", "3")
STAGES = ("client_send", "network", "queue", "compute_input", "compute_infer", "compute_output", "client_recv", "unaccounted")
STRINGS = """
name: "strings" backend: "identity" max_batch_size: 4
input [ { name: "text" data_type: TYPE_STRING dims: [ 2 ] } ]
output [ { name: "same" data_type: TYPE_STRING dims: [ 2 ] } ]
"""
NO_BATCH = """
name: "no_batch" backend: "identity" max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3, 2 ] } ]
"""
CACHED = """
name: "cached" backend: "identity" max_batch_size: 4 response_cache { enable: true }
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""


def penstock(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock.clients.cli", "perf", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_ADDRESS")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=2 * START_S)


def measured(*words: str) -> dict[str, Any]:
    done = penstock(*words, *FEW, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    folder = tmp_path_factory.mktemp("run")
    models = folder / "models"
    add_model(models, "failing", mode="failing")
    for name, config in (("strings", STRINGS), ("no_batch", NO_BATCH), ("cached", CACHED)):
        (models / name / "1").mkdir(parents=True)
        (models / name / "config.pbtxt").write_text(config)
    for name in ("digits", "identity_fp32"):
        (models / name).symlink_to(SAMPLES / name)
    with RunningBroker(folder, models, with_tcp=True) as running:
        yield running


def test_offline_prints_a_table_and_writes_the_file(broker: RunningBroker, tmp_path: Path) -> None:
    # When a model is measured at two batch sizes and two concurrencies
    words = ("digits", "--evaluation-mode", "offline", "--batch-sizes", "1", "4", "--concurrency", "1", "3")
    done = penstock(*words, *FEW, "--result-path", str(tmp_path / "t.csv"), "--address", broker.addresses["local"])
    assert done.returncode == 0, done.stderr
    # Then the file has a line for each
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [(row["Batch"], row["Concurrency"]) for row in rows] == [("1", "1"), ("4", "1"), ("1", "3"), ("4", "3")]
    # And so has the table
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][0] == "digits/1"
    for row in rows:
        assert [row["Batch"], row["Concurrency"], row["Inferences/Second"]] in [line[:3] for line in lines]
    assert all(len(line) == 16 for line in lines if line[:1] in (["1"], ["4"]))
    # And each window was reported while it was measured
    assert "batch 4, concurrency 3, window 1: " in done.stderr


@pytest.mark.parametrize(
    ("link", "memory"), [("local", "memfd"), ("local", "system"), ("zmq", "system"), ("zmq", "none"), ("tcp", "none")]
)
def test_every_link_and_memory(broker: RunningBroker, link: str, memory: str) -> None:
    # When the identity model is measured that way, each answer checked
    words = ("identity_fp32", "--shape", "INPUT0:100", "--batch-sizes", "2", "--concurrency", "4", "--verify")
    found = measured(*words, "--shared-memory", memory, "--address", broker.addresses[link])
    # Then it says so
    assert (found["measured"]["shared_memory"], found["measured"]["address"]) == (memory, broker.addresses[link])
    (row,) = found["rows"]
    # And the stages add up to the mean latency, to the ns
    assert sum(round(row[f"{stage}_ms"] * 1e6) for stage in STAGES) == round(row["avg_latency_ms"] * 1e6)
    assert all(row[f"{stage}_ms"] >= 0 for stage in STAGES[2:6])
    assert row["client_send_ms"] > 0 and row["client_recv_ms"] > 0 and row["network_ms"] > 0
    # And the figures are those of all requests of three windows
    assert (row["requests"], row["windows"]) == (36, 3)
    assert row["p50_latency_ms"] <= row["p90_latency_ms"] <= row["p95_latency_ms"] <= row["p99_latency_ms"]
    assert row["inferences_per_s"] * row["avg_latency_ms"] <= 2 * 4 * 1000, "no more than 4 requests of 2 rows were in flight"


def test_the_brokers_share_is_what_the_broker_counted(broker: RunningBroker) -> None:
    # Given what the broker has counted of a model
    with broker.client("local") as client:
        before = client.statistics("no_batch")["model_stats"][0]["inference_stats"]
        # When it is measured without a warm-up
        words = ("no_batch", "--measurement-request-count", "10", "--max-trials", "3", "--warmup", "0", "--json")
        done = penstock(*words, "--address", broker.addresses["local"])
        (row,) = json.loads(done.stdout)["rows"]
        after = client.statistics("no_batch")["model_stats"][0]["inference_stats"]
    # Then queue and compute are the means of exactly these requests
    assert after["success"]["count"] - before["success"]["count"] == 30
    for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert abs(row[f"{stage}_ms"] * 1e6 - (after[stage]["ns"] - before[stage]["ns"]) / 30) <= 0.5 + 1e-6
    # And a model without a batch dimension is measured at 1, which is all it takes
    assert row["batch"] == 1


@pytest.mark.parametrize("link", LINKS)
def test_the_link_is_chosen_among_the_brokers_addresses(broker: RunningBroker, link: str) -> None:
    other = "zmq" if link == "local" else "local"
    found = measured("no_batch", "--link", link, "--address", broker.addresses[other])
    assert found["measured"]["address"] == broker.addresses[link]


@pytest.mark.parametrize("link", LINKS)
def test_strings(broker: RunningBroker, link: str) -> None:
    words = ("strings", "--batch-sizes", "1", "3", "--string-length", "9", "--verify", "--address", broker.addresses[link])
    assert [row["batch"] for row in measured(*words)["rows"]] == [1, 3]


def test_a_broker_started_for_the_measurement_is_ended_with_it(tmp_path: Path) -> None:
    add_model(tmp_path / "models", "echo")
    found = measured("echo", "--serve", str(tmp_path / "models"), "--link", "zmq")
    assert [row["batch"] for row in found["rows"]] == [1, 2, 4]
    assert not os.path.lexists(found["measured"]["address"].removeprefix("ipc://"))


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["digits", "--batch-sizes", "64", "65"], 1, "'digits' cannot be measured at batch sizes [65]: max_batch_size is 64"),
        (["no_batch", "--batch-sizes", "1", "2"], 1, "'no_batch' cannot be measured at batch sizes [2]: it has no batch dimension"),
        (["digits", "--concurrency", "99999"], 1, "concurrency [99999] cannot be"),
        (["digits", "--link", "zmq", "--shared-memory", "memfd"], 2, "--shared-memory memfd over zmq: ZeroMQ hands no descriptors"),
        (["digits", "--shared-memory", "none"], 2, "--shared-memory none over local: the local link carries no tensors"),
        (["digits", "--verify"], 1, "output 'scores' is not what input 'image' of the same request begins with"),
        (["identity_fp32"], 1, "input 'INPUT0' has variable dims [-1]: say --shape INPUT0:1"),
        (["identity_fp32", "--shape", "INPUT1:1"], 1, "has no input ['INPUT1']; it has ['INPUT0']"),
        (["digits", "--shape", "image"], 2, "'image' is not NAME:1,2,3"),
        (["nosuch"], 1, "NOT_FOUND: Request for unknown model: 'nosuch'"),
        (["failing", "--batch-sizes", "1"], 1, "model 'failing': "),
        (["digits", "--serve", str(SAMPLES)], 2, "--serve measures a broker of its own: leave --address out"),
        (["digits", "--result-path", "/nosuch/t.csv"], 1, "cannot write /nosuch/t.csv: No such file or directory"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(broker: RunningBroker, words: list[str], status: int, text: str) -> None:
    done = penstock(*words, "--address", broker.addresses["local"])
    assert done.returncode == status, done.stderr
    assert text in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_tcp_takes_no_shared_memory(broker: RunningBroker) -> None:
    done = penstock("digits", "--shared-memory", "system", "--address", broker.addresses["tcp"])
    assert (done.returncode, done.stdout) == (1, "")
    assert "--shared-memory system over tcp" in done.stderr


def succeeded(client: Client, model: str) -> int:
    return int(client.statistics(model)["model_stats"][0]["inference_stats"]["success"]["count"])


def test_a_broker_that_dies_meanwhile_is_what_is_said(tmp_path: Path) -> None:
    # Given a measurement under way, in a region made for it
    add_model(tmp_path / "models", "echo")
    with RunningBroker(tmp_path, tmp_path / "models") as running:
        words = [
            "echo",
            "--shared-memory",
            "system",
            "--batch-sizes",
            "1",
            "--measurement-interval-ms",
            "100",
            "--max-trials",
            "500",
        ]
        command = [sys.executable, "-m", "penstock.clients.cli", "perf", *words, "--stability-percentage", "0"]
        with subprocess.Popen(
            [*command, "--address", running.addresses["local"]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            process.stderr.readline()
            with running.client("local") as client:
                seen = succeeded(client, "echo")
                eventually(lambda: succeeded(client, "echo") > seen + 5, START_S, "the second window is under way")
            # When the broker is killed
            running.kill()
            # Then that is the error, and not what follows from it
            assert "connection to the broker at " in process.stderr.readlines()[-1]
            assert process.wait(START_S) == 1


def test_without_a_broker_it_says_how_to_get_one(tmp_path: Path) -> None:
    done = penstock("digits", "--address", f"unix://{tmp_path}/nobody.sock")
    assert done.returncode == 2
    assert "nobody.sock" in done.stderr and "penstock serve REPOSITORY" in done.stderr and done.stderr.count("\n") == 1


def test_what_is_not_stable_is_said_and_is_3_if_asked(broker: RunningBroker) -> None:
    # Given that three windows are needed and two are allowed
    words = ("no_batch", "--measurement-request-count", "2", "--max-trials", "2", "--address", broker.addresses["local"])
    # Then the row is printed all the same
    for strict, status in (((), 0), (("--strict",), 3)):
        done = penstock(*words, *strict)
        assert done.returncode == status
        assert done.stdout.splitlines()[0].startswith("no_batch/1 over ")
        assert "not stable, the last windows are shown: batch 1, concurrency 1" in done.stderr


def test_others_that_use_the_model_meanwhile_make_it_fail(broker: RunningBroker) -> None:
    # Given a second client that uses the model as long as it is measured
    command = [sys.executable, "-m", "penstock.clients.cli", "perf", "no_batch", "--address", broker.addresses["local"]]
    with subprocess.Popen(
        [*command, "--max-trials", "100", "--stability-percentage", "0"], stdout=-3, stderr=subprocess.PIPE
    ) as other:
        assert other.stderr is not None
        other.stderr.readline()  # it has measured its first window
        done = penstock(
            "no_batch", "--measurement-interval-ms", "300", "--max-trials", "1", "--address", broker.addresses["zmq"]
        )
        other.kill()
    # Then the stages cannot be told apart, and that is said
    assert done.returncode == 1
    assert "others use the model" in done.stderr


def test_answers_of_the_response_cache_are_said_to_be_such(broker: RunningBroker) -> None:
    done = penstock("cached", "--batch-sizes", "1", *FEW, "--address", broker.addresses["local"])
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "cache" in line]
    assert re.fullmatch(
        r"penstock: batch 1, concurrency 1: [0-9]+ of 36 answers came from the response cache, not from the model", line
    )
    assert "cache" not in penstock("no_batch", *FEW, "--address", broker.addresses["local"]).stderr
