# SPDX-License-Identifier: Apache-2.0
"""What a check says: what was looked at, what was found, what follows from it, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import NamedTuple


class Verdict(str, Enum):
    """OK: as it should be. NOTE: worth knowing. WARNING: something will fail or be slow. PROBLEM: Penstock cannot serve."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """One line of `penstock doctor`. `consequence` and `fix` are empty where nothing needs to be done."""

    what: str
    verdict: Verdict
    found: str
    consequence: str = ""
    fix: str = ""


Check = Callable[[], Iterable[Finding]]


def examine(check: Check) -> list[Finding]:
    """The check's findings. One that fails is a finding too: a machine that cannot even be asked is what a doctor is for."""
    try:
        return list(check())
    except Exception as error:  # noqa: BLE001 - see above
        what = (check.__doc__ or check.__name__).partition(":")[0].partition(".")[0].lower()
        consequence = "whether this machine can serve is not known"
        return [Finding(what, Verdict.WARNING, f"could not be looked at: {type(error).__name__}: {error}", consequence)]
