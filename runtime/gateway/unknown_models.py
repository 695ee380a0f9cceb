# SPDX-License-Identifier: Apache-2.0
"""What Triton says of a model version that cannot be had, where the broker says more, or with another code. Pure.

Source: asked of release 2.51, whose clients compare whole sentences; core/src/model_repository_manager.cc.
"""

from __future__ import annotations

from ...ipc.errors import CallerError, Code, ModelError, PenstockError, invalid, not_found

LONGEST_NAME = 256
"""Characters of a name in a message to the broker. Nothing there has a longer one."""


def as_triton(error: PenstockError, model: str, version: int) -> PenstockError:
    """What Triton answers where this model version was asked for; any error of something else is what it is.

    A version that is there and not ready is not at ready state, where it was asked for; else there is none available.
    """
    unknown = f"Request for unknown model: '{model}'"
    if not error.message.startswith(unknown):
        return error
    if error.code is Code.NOT_FOUND:
        which = f" version {version}" if error.message.startswith(f"{unknown} version") else ""
        return not_found(f"{unknown}{which} is not found")
    if version < 0:
        return ModelError(f"{unknown} has no available versions", Code.NOT_FOUND)
    return ModelError(f"{unknown} version {version} is not at ready state", Code.UNAVAILABLE)


def check_model_name(model: str) -> None:
    """Raises CallerError for a name that no message can carry, and so no model has."""
    if len(model) > LONGEST_NAME:
        raise not_found(f"Request for unknown model: '{model[:LONGEST_NAME]}...' is not found")


def no_statistics(model: str, is_version: bool = False) -> CallerError:
    """What Triton answers where a model, or the version of it that was asked for, has no statistics: it is not ready."""
    if is_version:
        return invalid(f"requested model version is not available for model '{model}'")
    return invalid(f"requested model '{model}' is not available")
