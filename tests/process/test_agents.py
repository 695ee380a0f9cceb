# SPDX-License-Identifier: Apache-2.0
"""Repository agents of a real broker: what is served, what is refused, and that nothing plain is left behind."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import RunningBroker, add_model, answer, eventually, rows

from penstock.clients import Client
from penstock.runtime.agents.encryption import encrypt_model, new_key
from penstock.runtime.broker import Broker
from penstock.runtime.repository import directory, jobs
from penstock.runtime.repository.private_directories import MEMORY, PREFIX
from penstock.runtime.settings import Settings

SIMPLE = Path(__file__).resolve().parents[2] / "model_repository" / "simple"
DECRYPT = (
    'model_repository_agents { agents [ { name: "decrypt" parameters { key: "key_variable" value: "TEST_MODEL_KEY" } } ] }'
)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key, and the broker's environment with it."""
    made = new_key()
    monkeypatch.setenv("TEST_MODEL_KEY", made)
    return made


def private() -> set[str]:
    """The private directories there are on this machine."""
    return {name for name in os.listdir(MEMORY) if name.startswith(PREFIX)}


def add_encrypted(repository: Path, key: str, model: bytes | None = None) -> None:
    """The sample model `simple`, encrypted; `model`: another model file."""
    directory = repository / "simple"
    encrypt_model(SIMPLE, directory, key, ("config.pbtxt", "build.py"))
    config = directory / "config.pbtxt"
    config.write_text(f"{config.read_text()}\n{DECRYPT}\n")
    if model is not None:
        plain = repository.parent / "plain" / "1"
        plain.mkdir(parents=True)
        (plain / "model.onnx").write_bytes(model)
        encrypt_model(plain.parent, directory, key)


def is_served(client: Client) -> bool:
    a, b = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    result = client.infer("simple", {"INPUT0": a, "INPUT1": b})
    return bool((result.outputs["OUTPUT0"] == a + b).all())


def test_an_encrypted_model_is_served_and_leaves_nothing(tmp_path: Path, repository: Path, key: str, link: str) -> None:
    """Given an encrypted model, when it is served, then its plain files are this user's alone, and gone with the broker."""
    add_encrypted(repository, key)
    assert not list(repository.rglob("model.onnx"))
    before = private()
    with RunningBroker(tmp_path, repository) as broker:
        with broker.client(link) as client:
            assert is_served(client)
        (made,) = private() - before
        assert (MEMORY / made).stat().st_mode & 0o777 == 0o700
        assert broker.stop() == 0
    assert private() <= before


def test_a_broker_that_is_killed_is_cleaned_up_after_by_the_next(tmp_path: Path, repository: Path, key: str) -> None:
    """Given a broker that died by SIGKILL, when the model is served again, then what the first one had decrypted is gone."""
    add_encrypted(repository, key)
    before = private()
    with RunningBroker(tmp_path, repository) as broker:
        os.kill(broker.pid, signal.SIGKILL)
        broker.close()
        left = private() - before
        broker.start()
        assert len(left) == 1 and not left & private()
        with broker.client("local") as client:
            assert is_served(client)
    assert private() <= before


def test_a_model_that_cannot_be_loaded_leaves_nothing_while_others_are_served(
    tmp_path: Path, repository: Path, key: str
) -> None:
    """Given an encrypted file that is no model, when its worker gives up, then LOAD_FAIL removes what was decrypted."""
    add_encrypted(repository, key, b"no model")
    add_model(repository, "echo")
    before = private()
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        states = {row["name"]: row["state"] for row in client.index()}
        assert states == {"echo": "READY", "simple": "UNAVAILABLE"}
        eventually(lambda: private() <= before, 5, "its agents were told that the load failed")
        assert answer(client.infer("echo", rows(1))) == [1]


def test_agents_that_refuse(tmp_path: Path, repository: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a wrong key, a wrong checksum and an unknown agent, then each model says why, and the one that is right is served."""
    add_encrypted(repository, key)
    monkeypatch.setenv("TEST_MODEL_KEY", new_key())
    digest = hashlib.md5(b"weights").hexdigest()
    for name, agent in {
        "right": f'name: "checksum" parameters {{ key: "MD5:1/weights" value: "{digest}" }}',
        "wrong": f'name: "checksum" parameters {{ key: "MD5:1/weights" value: "{digest[::-1]}" }}',
        "unknown": 'name: "nobody"',
    }.items():
        add_model(repository, name)
        (repository / name / "1" / "weights").write_bytes(b"weights")
        config = repository / name / "config.pbtxt"
        config.write_text(f"{config.read_text()}\nmodel_repository_agents {{ agents [ {{ {agent} }} ] }}\n")
    before = private()
    with RunningBroker(tmp_path, repository) as broker, broker.client("local") as client:
        reasons = {row["name"]: row["reason"] for row in client.index()}
        assert answer(client.infer("right", rows(1))) == [1]
        assert private() <= before
    assert reasons["right"] == ""
    assert reasons["simple"].startswith("repository agent 'decrypt': file 1/model.onnx.enc cannot be decrypted")
    assert f"Mismatched MD5 hash for file 1/weights, expect: {digest[::-1]}, got: {digest}" in reasons["wrong"]
    assert reasons["unknown"].endswith("the entry points of the group penstock.repository_agents are checksum, decrypt")


def test_a_broker_that_is_stopped_before_it_serves_leaves_nothing(
    tmp_path: Path, repository: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a broker that is told to stop while it reads its repository, then what agents made meanwhile is gone too."""
    add_encrypted(repository, key)
    before = private()
    broker = Broker(Settings(repositories=(str(repository),), addresses=(f"unix://{tmp_path}/broker.sock",)))
    read = directory.read_model

    def stop_and_read(*words: Any) -> directory.ModelSource:
        broker.stop()
        return read(*words)

    monkeypatch.setattr(jobs, "read_model", stop_and_read)
    broker.run()
    assert private() <= before
