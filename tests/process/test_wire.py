# SPDX-License-Identifier: Apache-2.0
"""The second implementation of the protocol, clients/wire.py in plain zmq and msgpack, against a real broker over ipc:// and tcp://."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from running import Barrier, RunningBroker, add_model, eventually, named_memory

from penstock.clients.wire import WireClient, WireError

WIDE = 1_000_000  # FP32: an inline tensor of 4 MB, as much as a frame may be at most, without its frame
UNKNOWN_SIZE = """
name: "growing"
backend: "identity"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_INT64 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_INT64 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


class Broker(NamedTuple):
    running: RunningBroker
    gate: Barrier
    addresses: dict[str, str]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("run")
    repository = folder / "models"
    (repository / "growing" / "1").mkdir(parents=True)
    (repository / "growing" / "config.pbtxt").write_text(UNKNOWN_SIZE)
    add_model(repository, "echo")
    add_model(repository, "wide", width=WIDE)
    add_model(repository, "failing", mode="failing", message="no luck")
    with Barrier(folder / "gate") as gate:
        add_model(repository, "gate", mode="barrier", barrier_path=gate.path)
        with RunningBroker(folder, repository, "--address", "tcp://127.0.0.1:0") as running:
            found = {address.split(":")[0]: address for address in running.said["addresses"]}
            yield Broker(running, gate, found)


@pytest.fixture(params=["ipc", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(broker: Broker, transport: str) -> Iterator[WireClient]:
    made = WireClient(broker.addresses[transport])
    yield made
    made.close()


def outputs_of(result: dict[str, Any]) -> dict[str, Any]:
    (output,) = result["outputs"]
    return dict(output)


def test_the_welcome(client: WireClient, broker: Broker, transport: str) -> None:
    welcome = client.welcome
    assert (welcome["type"], welcome.get("protocol", 1)) == ("welcome", 1)
    assert welcome["pid"] == broker.running.pid and len(welcome["broker"]) == 16
    assert (welcome.get("inline_only", False), welcome.get("lease_s", 0)) == (
        (True, 10.0) if transport == "tcp" else (False, 0)
    )


def test_documents(client: WireClient) -> None:
    metadata = client.query("metadata", "echo")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert client.query("ready") == {"ready": True, "reason": "", "up": True}
    assert {row["name"] for row in client.query("index")} == {"echo", "wide", "failing", "gate", "growing"}
    with pytest.raises(WireError, match="unknown query 'weather'") as refused:
        client.query("weather")
    assert (refused.value.code, refused.value.fault, refused.value.released) == ("INVALID_ARG", "caller", True)


def test_tensors_in_a_region(broker: Broker) -> None:
    """Over ipc://: input and output lie in memory that has no name any more when the request is made."""
    client, before = WireClient(broker.addresses["ipc"]), named_memory()
    memory = client.region("r", 4096)
    assert named_memory() == before
    given = np.array([[1, 2], [3, 4]], np.float32)
    memory[64:80] = given.tobytes()
    place = {"region": "r", "offset": 128, "byte_size": 16}
    result, parts = client.infer(
        "echo",
        [{"name": "x", "datatype": "FP32", "shape": [2, 2], "region": "r", "offset": 64, "byte_size": 16}],
        [{"name": "y", **place}],
    )
    assert parts == []
    assert outputs_of(result) == {"name": "y", "datatype": "FP32", "shape": [2, 2], **place}
    assert memory[128:144] == given.tobytes()
    client.unregister("r")
    with pytest.raises(WireError, match="Unable to find shared memory region: 'r'") as missing:
        client.infer("echo", [{"name": "x", "datatype": "FP32", "shape": [1, 2], "region": "r", "byte_size": 8}])
    assert missing.value.code == "NOT_FOUND"
    memory.close()
    client.close()


def test_tensors_inline(client: WireClient) -> None:
    """Both ways as parts; what the broker stored meanwhile is gone with the request."""
    given = np.array([[5, -5]], np.float32)
    result, (part,) = client.infer("echo", [{"name": "x", "datatype": "FP32", "shape": [1, 2]}], parts=[given.tobytes()])
    assert part == given.tobytes()
    assert {key: outputs_of(result)[key] for key in ("name", "datatype", "shape", "byte_size")} == {
        "name": "y", "datatype": "FP32", "shape": [1, 2], "byte_size": 8,
    }  # fmt: skip
    assert client.query("status")["regions"] == 0


def test_large_tensors_inline(client: WireClient) -> None:
    given = np.arange(WIDE, dtype=np.float32)
    _, (part,) = client.infer("wide", [{"name": "x", "datatype": "FP32", "shape": [1, WIDE]}], parts=[given.tobytes()])
    assert part == given.tobytes()


def test_outputs_whose_size_only_execution_tells(client: WireClient) -> None:
    for width in (1, 3, 1000):
        given = np.arange(2 * width, dtype=np.int64)
        result, (part,) = client.infer(
            "growing", [{"name": "x", "datatype": "INT64", "shape": [2, width]}], [{"name": "y"}], [given.tobytes()]
        )
        assert outputs_of(result)["shape"] == [2, width] and part == given.tobytes()


def test_many_at_once_in_any_order(client: WireClient) -> None:
    """Given requests that are sent before any answer is read, then each answer has its own parts."""
    values = [np.array([[number, -number]], np.float32).tobytes() for number in range(50)]
    numbers = [client.start("echo", [{"name": "x", "datatype": "FP32", "shape": [1, 2]}], parts=[value]) for value in values]
    for number, value in reversed(list(zip(numbers, values, strict=True))):
        assert client.answer(number)[1] == [value]


def test_an_answer_that_explains(client: WireClient) -> None:
    result, _ = client.infer("echo", [{"name": "x", "datatype": "FP32", "shape": [3, 2]}], parts=[bytes(24)], explain=True)
    explain = result["explain"]
    assert (explain["instance"], explain["batch_size"], explain["batch_requests"], explain["closed"]) == (
        "echo_0_0",
        3,
        1,
        "single",
    )
    assert min(explain[stage] for stage in ("queue_ns", "compute_input_ns", "compute_infer_ns", "compute_output_ns")) >= 0


def test_a_cancel_while_running(client: WireClient, broker: Broker) -> None:
    """Then the outcome comes at once and says that the memory is in use; the release follows when the batch is over."""
    number = client.start("gate", [{"name": "x", "datatype": "FP32", "shape": [1, 2]}], parts=[bytes(8)])
    held = broker.gate.entered()
    client.cancel(number)
    with pytest.raises(WireError, match="model 'gate': cancelled by the caller") as cancelled:
        client.answer(number)
    assert (cancelled.value.code, cancelled.value.released) == ("CANCELLED", False)
    assert client.query("status")["regions"] == 1, "its inline tensors"
    held.let_go()
    held.sock.close()
    assert client.answer(number)[0]["type"] == "released"
    assert client.query("status")["regions"] == 0


def test_a_deadline(client: WireClient, broker: Broker) -> None:
    number = client.start("gate", [{"name": "x", "datatype": "FP32", "shape": [1, 2]}], parts=[bytes(8)], deadline_us=20_000)
    held = broker.gate.entered()
    with pytest.raises(WireError, match="model 'gate': the deadline passed at the model") as late:
        client.answer(number)
    assert late.value.code == "DEADLINE_EXCEEDED"
    held.let_go()
    held.sock.close()
    assert client.answer(number)[0]["type"] == "released"


@pytest.mark.parametrize(
    ("model", "shape", "code", "fault", "text"),
    [
        ("failing", [1, 2], "INTERNAL", "model", "model 'failing': .*no luck"),
        ("nothing", [1, 2], "NOT_FOUND", "caller", "'nothing' is not found"),
        ("echo", [1, 3], "INVALID_ARG", "caller", r"Expected \[-1,2\], got \[1,3\]"),
        ("echo", [2, 2], "INVALID_ARG", "caller", "Expected 16, got 8"),
    ],
)
def test_errors(client: WireClient, model: str, shape: list[int], code: str, fault: str, text: str) -> None:
    with pytest.raises(WireError, match=text) as refused:
        client.infer(model, [{"name": "x", "datatype": "FP32", "shape": shape}], parts=[bytes(8)])
    assert (refused.value.code, refused.value.fault, refused.value.released) == (code, fault, True)


def test_over_tcp_nothing_can_be_registered_or_stopped(broker: Broker) -> None:
    """Given a client whose uid nobody knows, then it may send tensors inline, and not more."""
    client, before = WireClient(broker.addresses["tcp"]), named_memory()
    with pytest.raises(WireError, match="region 'r': a client whose uid is not known may send tensors inline only") as refused:
        client.region("r", 4096)
    assert refused.value.code == "UNSUPPORTED" and named_memory() == before
    with pytest.raises(WireError, match="may stop this broker"):
        client.query("stop")
    with WatchedIpc(broker) as other:
        other.region("secret", 64).close()
        assert client.query("regions") == []
    _, parts = client.infer("echo", [{"name": "x", "datatype": "FP32", "shape": [1, 2]}], parts=[bytes(8)])
    assert parts == [bytes(8)]
    client.close()


class WatchedIpc:
    """Another client over ipc://, for the time of a block."""

    def __init__(self, broker: Broker) -> None:
        self._address = broker.addresses["ipc"]

    def __enter__(self) -> WireClient:
        self._client = WireClient(self._address)
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()


def test_goodbye_gives_everything_back(broker: Broker, transport: str) -> None:
    with WatchedIpc(broker) as watcher:
        client = WireClient(broker.addresses[transport])
        if transport == "ipc":
            client.region("r", 4096).close()
        assert len(watcher.query("status")["sessions"]) == 2
        client.close()
        eventually(lambda: len(watcher.query("status")["sessions"]) == 1, 5, "the session is over")
        assert watcher.query("status")["regions"] == 0


def test_as_a_program(broker: Broker, transport: str) -> None:
    """Given an address, when it is run, then it prints the broker's status; it needs nothing of the rest of the package."""
    program = Path(sys.modules[WireClient.__module__].__file__ or "")
    command = [sys.executable, str(program), broker.addresses[transport]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, cwd=os.sep)
    assert json.loads(done.stdout)["pid"] == broker.running.pid
