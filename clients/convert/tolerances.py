# SPDX-License-Identifier: Apache-2.0
"""How far an output may be from the source's: |found - expected| <= atol + rtol * |expected|, element by element. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from ...ipc.errors import invalid

Precision = Literal["fp32", "fp16"]


class Tolerance(NamedTuple):
    """Of one output."""

    atol: float
    rtol: float


DEFAULTS: dict[Precision, Tolerance] = {"fp32": Tolerance(1e-4, 1e-3), "fp16": Tolerance(1e-2, 1e-2)}
"""Of floating point outputs, by the precision that is computed in. Whole numbers, BOOL and BYTES must be equal unless named."""

EXACT = Tolerance(0.0, 0.0)


class Tolerances:
    """What was asked for: by output, for all of them (under the name ""), or else by precision."""

    def __init__(self, atol: Mapping[str, float], rtol: Mapping[str, float]) -> None:
        self._atol = atol
        self._rtol = rtol

    def __repr__(self) -> str:
        return f"<Tolerances atol {dict(self._atol)}, rtol {dict(self._rtol)}>"

    def check_invariants(self) -> None:
        """None is negative."""
        assert all(value >= 0 for value in (*self._atol.values(), *self._rtol.values())), self

    def check_names(self, outputs: Sequence[str]) -> None:
        """Raises CallerError for a tolerance of an output that there is not."""
        unknown = sorted({*self._atol, *self._rtol} - {*outputs, ""})
        if unknown:
            raise invalid(f"--atol or --rtol names {unknown}: the outputs are {list(outputs)}")

    def of(self, output: str, is_floating: bool, precision: Precision) -> Tolerance:
        """Of one output. A value for all is meant for floating point outputs; others follow only their own name."""
        default = DEFAULTS[precision] if is_floating else EXACT
        everywhere = "" if is_floating else output
        return Tolerance(
            self._atol.get(output, self._atol.get(everywhere, default.atol)),
            self._rtol.get(output, self._rtol.get(everywhere, default.rtol)),
        )


def parse_tolerances(option: str, texts: Sequence[str]) -> dict[str, float]:
    """Each NAME=V, or V for all outputs (name ""). Raises CallerError."""
    found: dict[str, float] = {}
    for text in texts:
        name, separator, value = text.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if (separator and not name) or not 0 <= number < float("inf"):
            raise invalid(f"{option} {text!r} is not NAME=VALUE or VALUE, with a value of at least 0")
        found[name] = number
    return found
