# SPDX-License-Identifier: Apache-2.0
"""The agent `decrypt`: the right key, every other one, and files that somebody has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.ipc.errors import CallerError
from penstock.runtime.agents.encryption import OVERHEAD_BYTES, encrypt_model, new_key
from penstock.runtime.repository.agent_runs import AgentRun
from penstock.runtime.repository.agents import AgentSettings

SECRET = bytes(range(256)) * 5000  # more than is coded at once
PLAIN = {"config.pbtxt": b"# plain", "labels.txt": b"a\nb\n"}


class Encrypted:
    """An encrypted model, and the loads of it."""

    def __init__(self, folder: Path) -> None:
        self.key = new_key()
        self.directory = folder / "encrypted"
        self.runs: list[AgentRun] = []
        source = folder / "plain"
        (source / "1").mkdir(parents=True)
        (source / "2").mkdir()
        (source / "1" / "model.onnx").write_bytes(SECRET)
        (source / "1" / "empty").write_bytes(b"")
        for name, content in PLAIN.items():
            (source / name).write_bytes(content)
        self.encrypted = encrypt_model(source, self.directory, self.key, PLAIN)

    @property
    def file(self) -> Path:
        return self.directory / "1" / "model.onnx.enc"

    def load(self, **parameters: str) -> Path:
        self.runs.append(AgentRun("m", self.directory, [AgentSettings("decrypt", parameters)]))
        return self.runs[-1].load()

    def refusal(self, **parameters: str) -> str:
        with pytest.raises(CallerError) as refused:
            self.load(**parameters)
        assert self.key not in refused.value.message
        return refused.value.message.removeprefix("repository agent 'decrypt': ")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Encrypted]:
    made = Encrypted(tmp_path)
    monkeypatch.setenv("KEY", made.key)
    yield made
    for run in made.runs:
        run.end()
        run.check_invariants()


def test_what_was_encrypted_can_be_read_by_nobody(model: Encrypted) -> None:
    assert model.encrypted == ["1/empty", "1/model.onnx"]
    content = model.file.read_bytes()
    assert len(content) == len(SECRET) + OVERHEAD_BYTES and SECRET[:64] not in content
    again = model.directory.parent / "again"
    encrypt_model(model.directory.parent / "plain", again, model.key, PLAIN)
    assert (again / "1" / "model.onnx.enc").read_bytes() != content, "a nonce is used once"


def test_the_copy_holds_what_was_encrypted_and_the_rest(model: Encrypted) -> None:
    location = model.load(key_variable="KEY")

    found = {path.relative_to(location).as_posix(): path.read_bytes() for path in location.rglob("*") if path.is_file()}
    assert found == {"1/model.onnx": SECRET, "1/empty": b"", **PLAIN}
    assert (location / "2").is_dir(), "a version without files is one too"
    assert location.stat().st_mode & 0o777 == 0o700
    model.runs[-1].end()
    assert not location.exists()


def test_links_are_followed(model: Encrypted) -> None:
    source = model.directory.parent / "plain"
    (source / "3").symlink_to("1")
    assert encrypt_model(source, model.directory, model.key, PLAIN) == ["1/empty", "1/model.onnx", "3/empty", "3/model.onnx"]
    (model.directory / "notes").symlink_to(source, target_is_directory=True)

    location = model.load(key_variable="KEY")

    assert (location / "3" / "model.onnx").read_bytes() == SECRET
    assert (location / "notes" / "labels.txt").read_bytes() == PLAIN["labels.txt"]
    assert not [path for path in location.rglob("*") if path.is_symlink()]


def test_the_key_may_be_in_a_file(model: Encrypted, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(model.key + "\n")
    assert (model.load(key_file=str(tmp_path / "key")) / "1" / "model.onnx").read_bytes() == SECRET


def test_another_key_is_refused_and_leaves_nothing(model: Encrypted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", new_key())
    said = model.refusal(key_variable="KEY")
    assert said == "file 1/empty.enc cannot be decrypted: the key is another one, or the file was changed"


@pytest.mark.parametrize("at", [8, 20, 21, -1])
def test_a_changed_byte_is_noticed_wherever_it_is(model: Encrypted, at: int) -> None:
    content = bytearray(model.file.read_bytes())
    content[at] ^= 1
    model.file.write_bytes(content)
    assert "1/model.onnx.enc cannot be decrypted: the key is another one, or the file was changed" in model.refusal(
        key_variable="KEY"
    )


def test_a_shortened_file_is_noticed(model: Encrypted) -> None:
    model.file.write_bytes(model.file.read_bytes()[:-1])
    assert "cannot be decrypted" in model.refusal(key_variable="KEY")


@pytest.mark.parametrize("content", [b"", b"PENSTK\x00\x01 short", b"x" * 100])
def test_a_file_of_something_else_is_refused(model: Encrypted, content: bytes) -> None:
    model.file.write_bytes(content)
    assert model.refusal(key_variable="KEY") == "file 1/model.onnx.enc was not made by Penstock's encrypt_model"


def test_files_cannot_be_exchanged(model: Encrypted) -> None:
    other = model.directory / "2" / "model.onnx.enc"
    other.write_bytes(model.file.read_bytes())
    assert model.refusal(key_variable="KEY").startswith("file 2/model.onnx.enc cannot be decrypted")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "it takes one of the parameters key_variable and key_file, got 0"),
        ({"key_variable": "A", "key_file": "b"}, "it takes one of the parameters key_variable and key_file, got 2"),
        ({"key": "abc"}, "unknown parameter 'key'; known are key_variable, key_file"),
        ({"key_variable": "NO_SUCH"}, "the environment variable NO_SUCH, which should hold the key, is not set"),
        ({"key_variable": "SHORT"}, "the key in the environment variable SHORT has 3 bytes, 32 are needed"),
        ({"key_variable": "TEXT"}, "the key in the environment variable TEXT is not base64"),
        ({"key_file": "/no/key"}, "the key cannot be read from file /no/key: [Errno 2] No such file or directory: '/no/key'"),
    ],
)
def test_a_key_that_is_none(model: Encrypted, monkeypatch: pytest.MonkeyPatch, parameters: dict[str, str], said: str) -> None:
    monkeypatch.setenv("SHORT", "YWJj")
    monkeypatch.setenv("TEXT", "not base64!")
    assert model.refusal(**parameters) == said


def test_without_cryptography_it_says_what_to_install(model: Encrypted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "penstock.runtime.agents.encryption", None)
    assert model.refusal(key_variable="KEY").endswith("pip install 'penstock[decrypt]'")
