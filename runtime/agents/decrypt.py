# SPDX-License-Identifier: Apache-2.0
"""The agent `decrypt`: the model is read from a private copy of its directory, in which encrypted files are plain.

    model_repository_agents { agents [ { name: "decrypt" parameters { key: "key_variable" value: "MODEL_KEY" } } ] }

Files whose names end in .enc are decrypted, the others copied. The key (base64 of 32 bytes) is in an environment variable of
the broker (`key_variable`) or in a file (`key_file`); a configuration never holds one. The copy is entered by nobody but the
broker's user, lies in memory where there is room, and goes when the model is unloaded.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...ipc.errors import CallerError, invalid
from ..repository.agents import Agent, AgentModel

PARAMETERS = ("key_variable", "key_file")


class Decrypt(Agent):
    """Decrypts a model."""

    def load(self, model: AgentModel) -> None:
        """Raises CallerError when the key is missing or wrong, or a file was tampered with; MachineError for want of room."""
        try:
            from .encryption import SUFFIX, contents_of, decrypt_file, parse_key
        except ImportError as error:
            raise CallerError(f"it needs the package cryptography ({error}): pip install 'penstock[decrypt]'") from error
        key = parse_key(*_key_text(model.parameters))
        files = list(contents_of(model.location))
        target = model.acquire_directory(sum(path.stat().st_size for path in files))
        for path in files:
            name = path.relative_to(model.location)
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                copy.mkdir(exist_ok=True)
            elif path.suffix == SUFFIX:
                decrypt_file(path, copy.with_suffix(""), key, name.with_suffix("").as_posix())
            else:
                shutil.copyfile(path, copy)
        model.replace_location(target)


def _key_text(parameters: dict[str, str]) -> tuple[str, str]:
    """The key as text, and where it came from."""
    unknown = sorted(parameters.keys() - set(PARAMETERS))
    if unknown:
        raise invalid(f"unknown parameter '{unknown[0]}'; known are {', '.join(PARAMETERS)}")
    if len(parameters) != 1:
        raise invalid(f"it takes one of the parameters {' and '.join(PARAMETERS)}, got {len(parameters)}")
    ((kind, source),) = parameters.items()
    if kind == "key_variable":
        if source not in os.environ:
            raise invalid(f"the environment variable {source}, which should hold the key, is not set")
        return os.environ[source], f"the environment variable {source}"
    try:
        return Path(source).read_text(), f"file {source}"
    except (OSError, UnicodeDecodeError) as error:
        raise invalid(f"the key cannot be read from file {source}: {error}") from error
