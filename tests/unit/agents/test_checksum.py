# SPDX-License-Identifier: Apache-2.0
"""The agent `checksum`, with the parameters and texts of Triton's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from penstock.ipc.errors import CallerError, Code
from penstock.runtime.repository.agents import AgentModel, make_agent

CONTENT = b"weights" * 500_000  # more than is read at once
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "m"
    (made / "1").mkdir(parents=True)
    (made / "1" / "model.onnx").write_bytes(CONTENT)
    (tmp_path / "secret").write_bytes(CONTENT)
    return made


def check(directory: Path, **parameters: str) -> None:
    make_agent("checksum").load(AgentModel("m", directory, parameters))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"MD5:1/model.onnx": MD5},
        {"md5:1/../1/model.onnx": MD5.upper()},
        {"SHA256:1/model.onnx": SHA256},
        {"MD5:1/model.onnx": MD5, "sha256:1/model.onnx": SHA256},
    ],
)
def test_files_that_are_what_they_should_be_pass(directory: Path, parameters: dict[str, str]) -> None:
    check(directory, **parameters)


@pytest.mark.parametrize(
    ("key", "value", "code", "said"),
    [
        ("MD5:1/model.onnx", "0" * 32, Code.INVALID_ARG, f"Mismatched MD5 hash for file 1/model.onnx, expect: {'0' * 32}, got: {MD5}"),
        ("sha256:1/model.onnx", MD5, Code.INVALID_ARG, f"Mismatched SHA256 hash for file 1/model.onnx, expect: {MD5}, got: {SHA256}"),
        ("MD5:1/none", MD5, Code.INVALID_ARG, "failed to open text file for read 1/none: No such file or directory"),
        ("MD5:1", MD5, Code.INVALID_ARG, "failed to open text file for read 1: Is a directory"),
        ("1/model.onnx", MD5, Code.INVALID_ARG, "failed to parse key: 1/model.onnx; it must be ALGORITHM:PATH, such as MD5:1/model.onnx"),
        ("CRC:1/model.onnx", MD5, Code.UNSUPPORTED, "Unsupported checksum algorithm: CRC; supported are MD5, SHA256"),
        ("MD5:../secret", MD5, Code.INVALID_ARG, "file ../secret is outside of the model's directory"),
        ("MD5:/etc/passwd", MD5, Code.INVALID_ARG, "file /etc/passwd is outside of the model's directory"),
    ],
)  # fmt: skip
def test_others_are_refused(directory: Path, key: str, value: str, code: Code, said: str) -> None:
    with pytest.raises(CallerError) as refused:
        check(directory, **{key: value})
    assert (refused.value.code, refused.value.message) == (code, said)


def test_a_link_out_of_the_directory_is_not_followed(directory: Path) -> None:
    (directory / "linked").symlink_to(directory.parent / "secret")
    with pytest.raises(CallerError, match="outside"):
        check(directory, **{"MD5:linked": MD5})
