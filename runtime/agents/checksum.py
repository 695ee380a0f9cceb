# SPDX-License-Identifier: Apache-2.0
"""The agent `checksum`: files must be what the configuration says they are.

Parameters and texts are those of Triton's checksum agent (its src/checksum.cc): the key is `MD5:PATH`, PATH relative to the
model's directory, the value the digest in hexadecimal. SHA256 is ours: MD5 tells damage, not malice.

    model_repository_agents { agents [ { name: "checksum" parameters { key: "MD5:1/model.onnx" value: "9f86d08..." } } ] }
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...ipc.errors import CallerError, Code, invalid
from ..repository.agents import Agent, AgentModel

ALGORITHMS = {"MD5": "md5", "SHA256": "sha256"}
"""As parameters spell them (in any case), and hashlib."""
CHUNK_BYTES = 1024 * 1024


class Checksum(Agent):
    """Compares every file that a parameter names."""

    def load(self, model: AgentModel) -> None:
        """Raises CallerError for the first file that is not what it should be, in the order of the parameters' keys."""
        for key, expected in sorted(model.parameters.items()):
            algorithm, name = _parsed(key)
            found = _digest(ALGORITHMS[algorithm], _file(model.location, name), name)
            if found != expected.strip().lower():
                raise invalid(f"Mismatched {algorithm} hash for file {name}, expect: {expected}, got: {found}")


def _parsed(key: str) -> tuple[str, str]:
    """Algorithm and path of a parameter's key."""
    algorithm, separator, name = key.partition(":")
    if not separator:
        raise invalid(f"failed to parse key: {key}; it must be ALGORITHM:PATH, such as MD5:1/model.onnx")
    if algorithm.upper() not in ALGORITHMS:
        raise CallerError(
            f"Unsupported checksum algorithm: {algorithm}; supported are {', '.join(ALGORITHMS)}", Code.UNSUPPORTED
        )
    return algorithm.upper(), name


def _file(directory: Path, name: str) -> Path:
    """The file, which must be within the model's directory when all links have been followed."""
    path = (directory / name).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise invalid(f"file {name} is outside of the model's directory")
    return path


def _digest(algorithm: str, path: Path, name: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise invalid(f"failed to open text file for read {name}: {error.strerror}") from error
    return digest.hexdigest()
