# SPDX-License-Identifier: Apache-2.0
"""Triton's model repository extension over gRPC."""

from __future__ import annotations

from typing import Any

from ....ipc.errors import invalid
from ..callers import Caller
from ..repository import UNLOAD_DEPENDENTS, Repository, is_file
from .schema import pb


async def index(repository: Repository, request: Any) -> Any:
    """The answer to RepositoryIndex."""
    rows = await repository.index(request.repository_name, request.ready)
    return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**row) for row in rows])


async def load(repository: Repository, request: Any, caller: Caller) -> Any:
    """The answer to RepositoryModelLoad."""
    parameters = {name: _load_parameter(name, value) for name, value in request.parameters.items()}
    await repository.load(caller, request.repository_name, request.model_name, parameters)
    return pb.RepositoryModelLoadResponse()


async def unload(repository: Repository, request: Any, caller: Caller) -> Any:
    """The answer to RepositoryModelUnload. Parameters of other names are passed over, as Triton does."""
    with_dependents = False
    if UNLOAD_DEPENDENTS in request.parameters:
        parameter = request.parameters[UNLOAD_DEPENDENTS]
        if parameter.WhichOneof("parameter_choice") != "bool_param":
            raise invalid(f"invalid value type for '{UNLOAD_DEPENDENTS}' parameter, expected bool_param.")
        with_dependents = parameter.bool_param
    await repository.unload(caller, request.repository_name, request.model_name, with_dependents)
    return pb.RepositoryModelUnloadResponse()


def _load_parameter(name: str, parameter: Any) -> str | bytes:
    expected = "bytes_param" if is_file(name) else "string_param"
    if parameter.WhichOneof("parameter_choice") != expected:
        raise invalid(f"invalid value type for load parameter '{name}', expected {expected}.")
    content: str | bytes = getattr(parameter, expected)
    return content
