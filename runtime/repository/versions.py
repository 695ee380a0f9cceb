# SPDX-License-Identifier: Apache-2.0
"""Which versions of a model there are, and which of them its configuration wants. Triton's rules for version directories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...ipc.errors import not_found
from .schema import Proto

LARGEST = 2**63 - 1


def numbered(directories: Iterable[str]) -> tuple[list[int], list[str]]:
    """The versions among directory names, lowest first, and Triton's warnings about those that look like one and are none."""
    versions, warnings = [], []
    for name in sorted(directories):
        if not (name.isascii() and name[:1].isdigit()):
            continue
        if not name.isdigit() or int(name) > LARGEST:
            warnings.append(f"ignore version directory '{name}' which fails to convert to integral number")
        elif name.startswith("0"):
            why = "contains leading zeros in its directory name" if len(name) > 1 else "is not > 0"
            warnings.append(f"ignore version directory '{name}' which {why}")
        else:
            versions.append(int(name))
    return sorted(versions), warnings


def choose(model: str, config: Proto, present: Sequence[int]) -> tuple[tuple[int, ...], list[str]]:
    """The versions that the version policy wants of those present (lowest first), and warnings about those it misses.

    Raises CallerError (NOT_FOUND) when there is none to serve.
    """
    policy = config.version_policy
    choice = policy.WhichOneof("policy_choice")
    wanted, warnings = list(present), []
    if choice == "specific":
        asked = sorted(set(policy.specific.versions))
        wanted = [version for version in asked if version in present]
        warnings = [
            f"version {version} is specified for model '{model}', but the version directory is not present"
            for version in asked
            if version not in present
        ]
    elif choice == "latest":
        wanted = wanted[-policy.latest.num_versions :]
    if not wanted:
        found = f"versions present are {', '.join(map(str, present))}" if present else "there is no directory 1, 2, ... in it"
        raise not_found(f"at least one version must be available under the version policy of model '{model}'; {found}")
    return tuple(wanted), warnings
