# SPDX-License-Identifier: Apache-2.0
"""Triton's flags that restrict groups of an interface to callers who know a key: GROUP,GROUP:KEY=VALUE. Pure."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

from ...ipc.errors import invalid


class Restricted(NamedTuple):
    """Groups, and the key and value that their callers have to bring."""

    groups: Sequence[str]
    key: str
    value: str


def restricted_groups(flags: Sequence[str], flag: str, kind: str, known: Container[str]) -> list[Restricted]:
    """What the flags say. `kind`: Triton's word for a group, such as api. Raises CallerError, in its words."""
    seen: set[str] = set()
    found: list[Restricted] = []
    for told in flags:
        names, colon, pair = told.partition(":")
        key, equals, value = pair.partition("=")
        if not (names and colon and key and equals):
            many = f"<{kind.upper()}1>,<{kind.upper()}2>,.." if kind == "api" else f"<{kind}1>,<{kind}2>,.."
            raise invalid(f"{flag} option format is '{many}:<restricted-key>=<restricted-value>'. Got {told}")
        groups = names.split(",")
        for group in groups:
            if group not in known:
                raise invalid(f"unknown restricted {kind} '{group}'")
            if group in seen:
                raise invalid(f"{kind} '{group}' can not be specified in multiple config groups")
            seen.add(group)
        found.append(Restricted(groups, key, value))
    return found
