# SPDX-License-Identifier: Apache-2.0
"""Loading and unloading under way: what is served goes on being served, failures change nothing, nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from running import START_S, Barrier, RunningBroker, add_model, answer, eventually, rows

from penstock.clients import BrokerError, CallerError, Client, Code, ModelError
from penstock.runtime.repository.private_directories import MEMORY, PREFIX

CYCLES = 20
IN_FLIGHT = 16


def rewrite(repository: Path, name: str, old: str, new: str) -> None:
    """Changes the model's configuration on disk."""
    path = repository / name / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def touch(repository: Path, name: str) -> None:
    """Changes a file of version 1, so that it is to be loaded again."""
    path = repository / name / "1" / "weights"
    path.write_text(path.read_text() + "x" if path.exists() else "x")


def row(client: Client, name: str) -> dict[str, Any]:
    """The only row of the index with this name."""
    (found,) = (each for each in client.index() if each["name"] == name)
    return found


def pids(client: Client, model: str) -> dict[str, int]:
    """Instance -> pid of those of a model that are ready."""
    found = client.status()["instances"]
    return {each["instance"]: each["pid"] for each in found if each["model"] == model and each["state"] == "ready"}


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def background(call: Any, *arguments: Any) -> Iterator[Any]:
    """A call in a thread of its own; its future."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call, *arguments)


@contextmanager
def load_on(client: Client, model: str) -> Iterator[list[float]]:
    """IN_FLIGHT requests at any moment within the block, each checked; the list gets what was answered."""
    over, answered = Event(), []
    waiting: deque[tuple[float, Any]] = deque()

    def run() -> None:
        number = 0.0
        while not over.is_set():
            while len(waiting) < IN_FLIGHT:
                number += 1
                waiting.append((number, client.submit(model, rows(number))))
            value, future = waiting.popleft()
            assert answer(future.result(START_S)) == [value]
            answered.append(value)
        for value, future in waiting:
            assert answer(future.result(START_S)) == [value]

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        try:
            eventually(lambda: bool(answered) or running.done(), START_S, "requests are answered")
            yield answered
        finally:
            over.set()
        running.result()


@pytest.fixture
def barrier(tmp_path: Path) -> Iterator[Barrier]:
    with Barrier(tmp_path / "barrier") as opened:
        yield opened


# --- loading again ---------------------------------------------------------------------------------------------------------------


def test_a_reload_fails_no_request(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a model under load, when it is loaded again, then every request is answered and other workers serve."""
    add_model(repository, "echo", count=2)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client, load_on(client, "echo") as answered:
        for _ in range(3):
            before = pids(client, "echo")
            touch(repository, "echo")
            client.load("echo")
            assert row(client, "echo")["state"] == "READY"
            eventually(lambda before=before: not set(before.values()) & set(broker.workers()), 10, "the old have left")  # type: ignore[misc]
            assert len(pids(client, "echo")) == 2
            count = len(answered)
            eventually(lambda count=count: len(answered) > count + IN_FLIGHT, 10, "the new ones answer")  # type: ignore[misc]
        assert client.statistics("echo")["model_stats"][0]["inference_stats"]["fail"]["count"] == 0


def test_the_old_serves_until_the_new_is_ready(tmp_path: Path, repository: Path, barrier: Barrier, link: str) -> None:
    """Given a reload whose worker does not come up yet, requests go to the old worker; when it is up, to the new one."""
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client, broker.client(link) as other:
        (old,) = pids(client, "echo").values()
        gate = f'parameters {{ key: "at" value {{ string_value: "load" }} }} parameters {{ key: "barrier_path" value {{ string_value: "{barrier.path}" }} }}'
        rewrite(repository, "echo", 'string_value: "echo"', 'string_value: "barrier"')
        with (repository / "echo" / "config.pbtxt").open("a") as config:
            config.write(gate)
        with background(other.load, "echo") as loading:
            held = barrier.entered()
            result = client.infer("echo", rows(1))
            assert answer(result) == [1] and row(client, "echo")["state"] == "READY"
            assert list(pids(client, "echo").values()) == [old] and not loading.done()
            held.let_go()
            loading.result(START_S)
        assert answer(client.infer("echo", rows(2))) == [2]
        eventually(lambda: old not in broker.workers(), 10, "the old one has left")


def test_a_load_that_fails_changes_nothing(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a model that is served, when what is to replace it cannot be read or loaded, the error says why and it serves on."""
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        before = pids(client, "echo")
        rewrite(repository, "echo", 'string_value: "echo"', 'string_value: "nonsense"')
        with pytest.raises(ModelError) as failed:
            client.load("echo")
        start = "load failed for model 'echo': version 1 is at UNAVAILABLE state: Invalid argument: model 'echo': unknown mode"
        assert failed.value.code is Code.INVALID_ARG and failed.value.message.startswith(start)
        assert failed.value.message.endswith(";")
        rewrite(repository, "echo", "max_batch_size: 4", "max_batch_size: four")
        with pytest.raises(
            CallerError, match="failed to load 'echo', failed to poll from model repository: .*takes an integer"
        ):
            client.load("echo")
        with pytest.raises(CallerError, match="failed to load 'nobody', failed to poll from model repository") as unknown:
            client.load("nobody")
        assert unknown.value.code is Code.INTERNAL
        assert answer(client.infer("echo", rows(1))) == [1]
        assert pids(client, "echo") == before and row(client, "echo")["state"] == "READY"


def test_what_has_not_changed_is_not_loaded_again(tmp_path: Path, repository: Path) -> None:
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        before = pids(client, "echo")
        client.load("echo")
        with (repository / "echo" / "config.pbtxt").open("a") as config:
            config.write("# a remark\n")
        client.load("echo")
        assert pids(client, "echo") == before
        assert "model echo has not changed" in broker.log()


def test_a_change_of_instances_leaves_the_others_alone(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a model under load, when its instances become more, then fewer, then those that stay are the same processes."""
    add_model(repository, "echo", count=1)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client, load_on(client, "echo"):
        first = pids(client, "echo")
        rewrite(repository, "echo", "count: 1", "count: 3")
        client.load("echo")
        assert set(pids(client, "echo")) == {"echo_0_0", "echo_0_1", "echo_0_2"}
        assert first.items() <= pids(client, "echo").items()
        assert client.config("echo")["instance_group"][0]["count"] == 3
        rewrite(repository, "echo", "count: 3", "count: 1")
        client.load("echo")
        eventually(lambda: len(broker.workers()) == 1, 10, "the others have left")
        assert pids(client, "echo") == first
        success = client.statistics("echo")["model_stats"][0]["inference_stats"]
        assert success["fail"]["count"] == 0 and success["success"]["count"] > 0


def test_versions_come_and_go_by_the_policy(tmp_path: Path, repository: Path) -> None:
    """Given a policy of the latest two, when a third version comes, then it is loaded, the first goes, the second stays."""
    add_model(repository, "echo")
    rewrite(repository, "echo", "max_batch_size: 4", "max_batch_size: 4 version_policy { latest { num_versions: 2 } }")
    (repository / "echo" / "2").mkdir()
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        assert client.infer("echo", rows(1)).version == 2
        second = next(each["pid"] for each in client.status()["instances"] if each["version"] == 2)
        (repository / "echo" / "3").mkdir()
        client.load("echo")
        assert client.infer("echo", rows(1)).version == 3
        eventually(lambda: [each["version"] for each in client.index()] == ["2", "3"], 10, "the first is gone")
        assert second in broker.workers()


def test_other_dims_are_seen_by_a_client_that_knew_the_old_ones(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a client that has used a model, when it is loaded with other dims, then the old shape is refused with both shapes
    named, the new one is served, and a slot of the old shape is refused, too."""
    add_model(repository, "echo", width=2)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client, broker.client(link) as other:
        slot = client.buffers("echo", 1)
        slot.inputs["x"][:] = 1
        client.infer(slot)
        assert answer(client.infer("echo", rows(1))) == [1]
        rewrite(repository, "echo", "dims: [ 2 ]", "dims: [ 3 ]")
        other.load("echo")
        with pytest.raises(
            CallerError, match=r"unexpected shape for input 'x' for model 'echo'. Expected \[-1,3\], got \[1,2\]"
        ):
            client.infer(slot)
        with pytest.raises(CallerError, match=r"input 'x' has shape \[-1, 3\], given is \[1, 2\]"):
            client.infer("echo", rows(2))
        wide = np.array([[1, 2, 3]], np.float32)
        assert (client.infer("echo", {"x": wide}).outputs["y"] == wide).all()
        slot.close()
        with client.buffers("echo", 1) as cut:
            assert cut.inputs["x"].shape == (1, 3)


# --- unloading -------------------------------------------------------------------------------------------------------------------


def test_an_unload_waits_for_what_is_in_flight(tmp_path: Path, repository: Path, barrier: Barrier, link: str) -> None:
    """Given a running batch and one behind it, when the model is unloaded, both are served, new ones are refused, and when
    they have ended the worker has left."""
    add_model(repository, "gate", mode="barrier", barrier_path=barrier.path)
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client, broker.client(link) as other:
        futures = [client.submit("gate", rows(value)) for value in (1, 2)]
        held = barrier.entered()
        with background(other.unload, "gate") as unloading:
            eventually(lambda: row(client, "gate")["state"] == "UNLOADING", 10, "it is being unloaded")
            with pytest.raises(ModelError, match="Request for unknown model: 'gate' has no available versions") as refused:
                client.infer("gate", rows(3))
            assert refused.value.code is Code.UNAVAILABLE and not unloading.done()
            held.let_go()
            barrier.entered().let_go()
            unloading.result(10)
        assert [answer(future.result(10)) for future in futures] == [[1], [2]]
        assert row(client, "gate") == {"name": "gate", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        assert not broker.workers() and client.is_ready() and not client.is_ready("gate")
        with pytest.raises(ModelError, match="'gate' has no available versions"):
            client.infer("gate", rows(3))
        client.load("gate")
        barrier.open()
        assert answer(client.infer("gate", rows(4))) == [4]


def test_a_worker_that_is_loading_is_ended_by_an_unload(tmp_path: Path, repository: Path, barrier: Barrier) -> None:
    """Given a load that hangs, when the model is unloaded, the load fails and its worker is gone; who went away does not matter."""
    add_model(repository, "late", mode="barrier", at="load", barrier_path=barrier.path)
    options = ("--control-mode", "explicit")
    with RunningBroker(tmp_path, repository, *options) as broker, broker.client("local") as client:
        with broker.client("local") as impatient, pytest.raises(BrokerError, match="no answer within the timeout"):
            impatient.load("late", timeout_s=0.01)
        barrier.entered()
        (worker,) = broker.workers()
        with broker.client("local") as other, background(other.load, "late") as second:
            eventually(lambda: row(client, "late")["state"] == "LOADING", 10, "it is loading")
            eventually(lambda: len(client.status()["loads"]) == 2, 10, "the second load waits for the first")
            client.unload("late")
            with pytest.raises((ModelError, CallerError), match="late"):
                second.result(10)
        assert worker not in broker.workers()
        assert row(client, "late")["state"] == "UNAVAILABLE"


def test_a_worker_that_does_not_leave_is_killed(tmp_path: Path, repository: Path) -> None:
    """Given a worker that is stopped (SIGSTOP), when its model is unloaded, it is killed after kill_s, and the unload is over."""
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository, "--kill-s", "0.2") as broker, broker.client("local") as client:
        (pid,) = pids(client, "echo").values()
        os.kill(pid, signal.SIGSTOP)
        client.unload("echo")
        assert not broker.workers()
        assert "did not exit in time" in broker.log()


# --- who may, and when -----------------------------------------------------------------------------------------------------------


def test_explicit_loads_what_it_is_told(tmp_path: Path, repository: Path) -> None:
    """Given --control-mode explicit, only --load-model is loaded, the others are names, and may be loaded."""
    for name in ("first", "second", "third"):
        add_model(repository, name)
    options = ("--control-mode", "explicit", "--load-model", "second", "--load-model", "nobody")
    with RunningBroker(tmp_path, repository, *options) as broker, broker.client("local") as client:
        assert [(each["name"], each["state"], each["reason"]) for each in client.index()] == [
            ("first", "", ""),
            ("nobody", "UNAVAILABLE", "model not found in any model repository"),
            ("second", "READY", ""),
            ("third", "", ""),
        ]
        with pytest.raises(CallerError, match="Request for unknown model: 'first' is not found"):
            client.infer("first", rows(1))
        client.load("first")
        assert answer(client.infer("first", rows(1))) == [1]
        client.unload("nobody")
        client.unload("never heard of")
        assert client.is_ready()


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_where_clients_may_not_load_they_are_told_so(tmp_path: Path, repository: Path, mode: str) -> None:
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository, "--control-mode", mode) as broker, broker.client("local") as client:
        for call in (client.load, client.unload):
            with pytest.raises(BrokerError) as refused:
                call("echo")  # type: ignore[operator]
            assert refused.value.message == "explicit model load / unload is not allowed if polling is enabled"
            assert refused.value.code is Code.UNAVAILABLE
        assert answer(client.infer("echo", rows(1))) == [1]


def test_polling_follows_the_repository(tmp_path: Path, repository: Path) -> None:
    """Given --control-mode poll, what is changed, added and removed on disk is loaded again, loaded and unloaded."""
    add_model(repository, "echo")
    add_model(repository, "going")
    options = ("--control-mode", "poll", "--poll-interval-s", "0.02")
    with RunningBroker(tmp_path, repository, *options) as broker, broker.client("local") as client:
        before = pids(client, "echo")
        add_model(tmp_path / "aside", "coming")
        os.rename(tmp_path / "aside" / "coming", repository / "coming")
        os.rename(repository / "going", tmp_path / "going")
        eventually(lambda: client.is_ready("coming"), START_S, "the new one is served")
        eventually(lambda: row(client, "going")["reason"] == "unloaded", START_S, "the other is unloaded")
        touch(repository, "echo")
        eventually(lambda: pids(client, "echo").keys() == before.keys() and pids(client, "echo") != before, START_S, "reloaded")
        eventually(lambda: len(broker.workers()) == 2, 10, "nobody else is left")
        assert answer(client.infer("echo", rows(1))) == [1]


# --- configuration and files that come with the load -----------------------------------------------------------------------------


OVERRIDE = {
    "backend": "fake",
    "max_batch_size": 2,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
}


def test_a_configuration_may_come_with_the_load(tmp_path: Path, repository: Path, link: str) -> None:
    """Given a load with a configuration, it is used; a later load without one returns to what is on disk."""
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        client.load("echo", json.dumps(OVERRIDE))
        assert client.model("echo").max_batch_size == 2
        client.load("echo")
        assert client.model("echo").max_batch_size == 4
        with pytest.raises(CallerError, match=r"Invalid config override: .* has no field named \"color\""):
            client.load("echo", json.dumps({**OVERRIDE, "color": "red"}))
        assert client.model("echo").max_batch_size == 4


def private() -> set[Path]:
    """The private directories there are on this machine."""
    return set(MEMORY.glob(f"{PREFIX}*"))


def test_files_may_come_with_the_load(tmp_path: Path, repository: Path, link: str) -> None:
    """Given files, the repository is ignored, they lie in a private directory, and that goes with the model."""
    before = private()
    onnx = (Path(__file__).parents[2] / "model_repository" / "simple" / "1" / "model.onnx").read_bytes()
    config = json.dumps({"platform": "onnxruntime_onnx"})
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        client.load("adder", config, {"file:1/model.onnx": onnx})
        a = np.ones((1, 16), np.int32)
        assert (client.infer("adder", {"INPUT0": a, "INPUT1": a}).outputs["OUTPUT0"] == 2).all()
        (made,) = private() - before
        assert made.stat().st_mode & 0o777 == 0o700
        with pytest.raises(ModelError, match="load failed for model 'adder': version 2 is at UNAVAILABLE state"):
            client.load("adder", config, {"file:2/model.onnx": b"no model"})
        eventually(lambda: private() - before == {made}, 10, "what failed is removed")
        with pytest.raises(CallerError, match="Load parameter 'config' must be specified for model file override"):
            client.load("adder", files={"file:1/model.onnx": onnx})
        with pytest.raises(
            CallerError, match=r"Invalid file parameter 'file:../x' with normalized path '../x' must stay within"
        ):
            client.load("adder", config, {"file:../x": b""})
        client.unload("adder")
        eventually(lambda: private() <= before, 10, "the files are removed")
        client.load("adder", config, {"file:1/model.onnx": onnx})
    assert private() <= before


@pytest.mark.parametrize("name", ["", "../etc", "a/b", ".."])
def test_a_name_that_is_none_is_refused(tmp_path: Path, repository: Path, name: str) -> None:
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        with pytest.raises(CallerError) as refused:
            client.load(name)
        assert refused.value.message == (
            f"invalid model name '{name}', model name must not contain path traversal characters"
            if name
            else "Model name cannot be empty. Please enter a valid name to deploy."
        )


# --- nothing is left behind ------------------------------------------------------------------------------------------------------


def test_cycles_leave_nothing_behind(tmp_path: Path, repository: Path) -> None:
    """Given a model under load, when another is loaded, fails to be, and is unloaded again and again, the broker is as before."""
    add_model(repository, "echo")
    add_model(repository, "cycled")
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client, load_on(client, "echo"):
        failing = json.dumps({**OVERRIDE, "parameters": {"mode": {"string_value": "nonsense"}}})

        def cycle() -> None:
            touch(repository, "cycled")
            client.load("cycled")
            with pytest.raises(ModelError):
                client.load("cycled", failing)
            client.unload("cycled")

        cycle()
        eventually(lambda: len(broker.workers()) == 1, 10, "only the other model's worker is left")
        before = descriptors(broker.pid)
        for _ in range(CYCLES):
            cycle()
        eventually(lambda: len(broker.workers()) == 1, 10, "only the other model's worker is left")
        eventually(lambda: descriptors(broker.pid) == before, 10, "no descriptor more than before")


def test_the_commands(tmp_path: Path, repository: Path) -> None:
    """`penstock load`, `unload`, `models` and `config`, as a person and as a script use them."""
    add_model(repository, "echo")

    def penstock(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "penstock.clients.cli", *arguments, "--address", broker.addresses["local"]]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with RunningBroker(tmp_path, repository) as broker:
        (found,) = json.loads(penstock("models", "--json").stdout)
        assert (found["name"], found["state"], found["instances"]) == ("echo", "READY", ["echo_0_0 ready"])
        text = penstock("config", "echo", "--pbtxt").stdout
        assert "max_batch_size: 4" in text and json.loads(penstock("config", "echo").stdout)["max_batch_size"] == 4
        assert penstock("unload", "echo").stdout == "unloaded: echo\n"
        assert "unloaded" in penstock("models").stdout
        (tmp_path / "other.pbtxt").write_text(text.replace("max_batch_size: 4", "max_batch_size: 3"))
        assert penstock("load", "echo", "--config", str(tmp_path / "other.pbtxt")).stdout == "loaded: echo/1 READY\n"
        assert json.loads(penstock("config", "echo").stdout)["max_batch_size"] == 3
        failed = penstock("load", "nobody")
        assert failed.returncode == 1 and "failed to load 'nobody'" in failed.stderr
