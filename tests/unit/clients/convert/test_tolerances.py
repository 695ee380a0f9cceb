# SPDX-License-Identifier: Apache-2.0
"""Which tolerance an output has."""

from __future__ import annotations

import pytest

from penstock.clients.convert.tolerances import Tolerance, Tolerances, parse_tolerances
from penstock.ipc.errors import CallerError


def test_defaults_are_by_precision_and_whole_numbers_are_exact() -> None:
    default = Tolerances({}, {})
    assert default.of("y", True, "fp32") == Tolerance(1e-4, 1e-3)
    assert default.of("y", True, "fp16") == Tolerance(1e-2, 1e-2)
    assert default.of("y", False, "fp16") == Tolerance(0, 0)


def test_a_name_goes_before_a_value_for_all_which_is_for_fractions() -> None:
    asked = Tolerances({"": 0.5, "y": 0.25, "best": 1.0}, {"": 0.125})
    asked.check_invariants()
    assert asked.of("y", True, "fp32") == Tolerance(0.25, 0.125)
    assert asked.of("z", True, "fp32") == Tolerance(0.5, 0.125)
    assert asked.of("index", False, "fp32") == Tolerance(0, 0)
    assert asked.of("best", False, "fp32") == Tolerance(1.0, 0)


def test_a_tolerance_of_nothing_is_a_mistake() -> None:
    Tolerances({"y": 1.0, "": 1.0}, {}).check_names(["y", "z"])
    with pytest.raises(CallerError, match=r"names \['scores'\]: the outputs are \['y', 'z'\]"):
        Tolerances({"y": 1.0}, {"scores": 1.0}).check_names(["y", "z"])


def test_tolerances_are_typed_with_or_without_a_name() -> None:
    assert parse_tolerances("--atol", ["1e-3", "a=b=0.5", "y=0"]) == {"": 1e-3, "a=b": 0.5, "y": 0.0}
    for text in ("y", "y=", "=1", "-1", "y=nan", "inf"):
        with pytest.raises(CallerError, match=f"--atol '{text}' is not NAME=VALUE or VALUE"):
            parse_tolerances("--atol", [text])
