# SPDX-License-Identifier: Apache-2.0
"""Where an MPS daemon's pipes and logs are, and how programs are told: NVIDIA's two environment variables."""

from __future__ import annotations

import os
from pathlib import Path

from ...ipc.addresses import runtime_dir

PIPE_VARIABLE, LOG_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"


def own_directory() -> Path:
    """Of this broker's daemon; it exists as long as that runs."""
    return runtime_dir() / f"mps-{os.getpid()}"


def environment_of(directory: Path) -> dict[str, str]:
    """By which programs find the daemon of a directory, which has room for both."""
    return {PIPE_VARIABLE: str(directory / "pipe"), LOG_VARIABLE: str(directory / "log")}


def has_users_own() -> bool:
    """Whether the user has named a daemon, which programs that are started here will find by themselves."""
    return bool(os.environ.get(PIPE_VARIABLE))
