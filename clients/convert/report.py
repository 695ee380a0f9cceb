# SPDX-License-Identifier: Apache-2.0
"""What came of it, as a document for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ..models import TensorInfo
from ..perf.figures import Row, document
from .conversion import Attempt, Conversion
from .correctness import Comparison


class Verdict(Struct, kw_only=True):
    """What became of one attempt."""

    attempt: Attempt
    conversion: Conversion | None = None
    served: tuple[Comparison, ...] = ()  # () where it was not served
    speed: Row | None = None  # with --search
    error: str = ""  # why there is no conversion, or none that is served

    @property
    def comparisons(self) -> tuple[tuple[str, Comparison], ...]:
        """All there are, each with where it was made."""
        made = () if self.conversion is None else self.conversion.converted
        return (*(("converted", each) for each in made), *(("served", each) for each in self.served))

    @property
    def is_right(self) -> bool:
        """Whether it was compared, and nothing was wrong."""
        return not self.error and bool(self.comparisons) and all(each.is_right for _, each in self.comparisons)


def best(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The fastest of those that are right."""
    return max(
        (each for each in verdicts if each.is_right and each.speed is not None),
        key=lambda each: 0.0 if each.speed is None else each.speed.inferences_per_s,
        default=None,
    )


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """One attempt."""
    found: dict[str, Any] = {
        "format": verdict.attempt.form,
        "precision": verdict.attempt.precision,
        "right": verdict.is_right,
        "error": verdict.error or None,
        "checks": [{"where": where, **comparison_document(each)} for where, each in verdict.comparisons],
    }
    if verdict.conversion is not None:
        signature = verdict.conversion.signature
        found |= {
            "max_batch_size": signature.max_batch_size,
            "inputs": [_tensor(tensor) for tensor in signature.inputs],
            "outputs": [_tensor(tensor) for tensor in signature.outputs],
            "config": verdict.conversion.config,
        }
    if verdict.speed is not None:
        found["speed"] = document(verdict.speed)
    return found


def comparison_document(each: Comparison) -> dict[str, Any]:
    """One output; an infinite error becomes null."""
    found = {
        "output": each.output, "right": each.is_right, "max_abs_error": each.max_abs_error, "max_rel_error": each.max_rel_error,
        "atol": each.tolerance.atol, "rtol": each.tolerance.rtol, "wrong": each.wrong, "elements": each.elements,
        "mismatch": each.mismatch or None,
    }  # fmt: skip
    worst = None if each.worst is None else {**each.worst._asdict(), "place": list(each.worst.place)}
    return found | {"worst": worst}


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "dims": list(tensor.dims)}
