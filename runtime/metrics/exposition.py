# SPDX-License-Identifier: Apache-2.0
"""Prometheus' text format, version 0.0.4. Pure: families in, text out.

Written here and not by prometheus-client because that appends `_total` to the name of every counter, which Triton does not;
docs/decisions/0006. Source: prometheus.io, "Exposition formats".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Sample(NamedTuple):
    """A value under its family's name with `suffix` (_bucket, _sum, _count of histograms)."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


class Family(NamedTuple):
    """Everything of one name. `kind`: counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]


def exposition(families: Iterable[Family]) -> str:
    """The text; families without samples are left out."""
    return "".join(line for family in families if family.samples for line in _lines(family))


def _lines(family: Family) -> Iterable[str]:
    yield f"# HELP {family.name} {_escaped(family.help)}\n"
    yield f"# TYPE {family.name} {family.kind}\n"
    for labels, value, suffix in family.samples:
        yield f"{family.name}{suffix}{_labels(labels)} {_number(value)}\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = (f'{name}="{_quoted(value)}"' for name, value in sorted(labels.items()))  # Triton too sorts them
    return f"{{{','.join(pairs)}}}"


def _quoted(value: str) -> str:
    return _escaped(value).replace('"', r"\"")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
