# SPDX-License-Identifier: Apache-2.0
"""Triton's model repository extension: what there is, loading and unloading. Who may is decided here.

To the broker all that a gateway asks comes from the broker's own user, whose gateway it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ...clients.control import carried, load_question, unload_question
from ...ipc.descriptors import MAX_FDS_PER_FRAME
from ...ipc.errors import CallerError, Code, invalid
from .callers import Caller
from .link import BrokerLink
from .settings import GatewaySettings
from .unknown_models import LONGEST_NAME

CONFIG = "config"
FILE_PREFIX = "file:"
"""Triton's parameters of a load: `config`, and a file as `file:VERSION/NAME`."""
UNLOAD_DEPENDENTS = "unload_dependents"
LONGEST_CONFIG = 1 << 20
LONGEST_FILE_NAME = 1024
"""What a Load to the broker can carry (ipc/messages): bytes of a configuration, characters of a name."""


class Repository:
    """Nothing but the caller ends the wait for a load; who goes away meanwhile does not end the load."""

    def __init__(self, link: BrokerLink, settings: GatewaySettings) -> None:
        self._link = link
        self._settings = settings

    def __repr__(self) -> str:
        return f"<Repository of {self._link!r}, {self._settings.model_control} may load>"

    async def index(self, repository: str, ready_only: bool) -> list[dict[str, str]]:
        """Rows of name, version, state and reason; one that does not apply is empty. Raises CallerError."""
        _refuse_repository(repository)
        rows = await self._link.query("index")
        return [row for row in rows if not ready_only or row["state"] == "READY"]

    async def load(self, caller: Caller, repository: str, model: str, parameters: Mapping[str, str | bytes]) -> None:
        """Loads a model, or loads it again; `parameters` are those that `is_file` knows. Raises what the broker answers."""
        _refuse_repository(repository)
        self._check_may(caller)
        config = parameters.get(CONFIG)
        files = {name: content for name, content in parameters.items() if isinstance(content, bytes)}
        assert config is None or isinstance(config, str)
        _check_sizes(model, config, files)
        with carried(files, by_descriptor=True) as (fds, _):
            question = load_question(model, config or "", files, fds, ())
            await self._link.ask(lambda number: question(number)[0], fds, timeout_s=None)

    async def unload(self, caller: Caller, repository: str, model: str, unload_dependents: bool) -> None:
        """Unloads a model; one that is not there is unloaded already. Raises what the broker answers."""
        _refuse_repository(repository)
        self._check_may(caller)
        if len(model) > LONGEST_NAME:
            return
        question = unload_question(model, unload_dependents)
        await self._link.ask(lambda number: question(number)[0], timeout_s=None)

    def _check_may(self, caller: Caller) -> None:
        if self._settings.model_control == "anyone":
            return
        uid, owner = caller.uid(), os.geteuid()  # the broker's: nobody else's process may be its gateway
        if uid != owner:
            whose = f"uid {uid} asks" if uid >= 0 else "it is not known which user of this machine asks"
            raise CallerError(
                f"only uid {owner} may load and unload models, and {whose} ({caller.principal}); a server that is started with "
                "--gateway-model-control anyone lets everybody",
                Code.UNSUPPORTED,
            )


def is_file(parameter: str) -> bool:
    """Whether a parameter of a load is a file, and not the configuration. Raises CallerError for any other."""
    if parameter != CONFIG and not parameter.startswith(FILE_PREFIX):
        raise invalid(f"unrecognized load parameter '{parameter}'.")
    return parameter != CONFIG


def _refuse_repository(name: str) -> None:
    if name:
        raise CallerError("'repository_name' specification is not supported", Code.UNSUPPORTED)


def _check_sizes(model: str, config: str | None, files: Mapping[str, bytes]) -> None:
    """Refuses what no message can carry: it would cost the gateway its connection, and all others their requests."""
    if len(model) > LONGEST_NAME:
        raise CallerError(f"failed to load '{model[:LONGEST_NAME]}...', failed to poll from model repository", Code.INTERNAL)
    if config is not None and not config.strip():
        raise invalid("Invalid config override: it is empty")
    if config is not None and len(config.encode()) > LONGEST_CONFIG:
        raise invalid(f"Invalid config override: it has {len(config.encode())} bytes, at most {LONGEST_CONFIG} are taken")
    if len(files) > MAX_FDS_PER_FRAME:
        raise invalid(f"{len(files)} files are given for model '{model}', at most {MAX_FDS_PER_FRAME} are taken")
    for name in files:
        if len(name) > LONGEST_FILE_NAME:
            raise invalid(f"Invalid file parameter '{name[:LONGEST_FILE_NAME]}...': it has {len(name)} characters, "
                          f"at most {LONGEST_FILE_NAME} are taken")  # fmt: skip
