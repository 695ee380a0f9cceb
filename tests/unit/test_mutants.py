# SPDX-License-Identifier: Apache-2.0
"""The faults of tests/mutants still fit the sources and the tests that they name, so that `make mutants` judges all of them."""

from __future__ import annotations

import ast
import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "mutants"))  # programs beside each other, and no package
Fault: Any = importlib.import_module("fault").Fault
MisfitError: type[Exception] = importlib.import_module("fault").MisfitError
FAULTS: tuple[Any, ...] = importlib.import_module("faults").FAULTS


@cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_fits_once_compiles_and_changes_what_is_executed(fault: Any) -> None:
    original = (ROOT / fault.file).read_text(encoding="utf-8")
    faulty = fault.applied(original)
    # Without asserts and docstrings: a fault is in neither.
    assert compile(faulty, fault.file, "exec", optimize=2) != compile(original, fault.file, "exec", optimize=2)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_names_tests_that_there_are(fault: Any) -> None:
    assert fault.tests
    for test in fault.tests:
        path, _, name = test.partition("::")
        assert name.partition("[")[0] in functions(ROOT / path), test


def test_no_two_faults_have_the_same_name_or_do_the_same() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert len({(fault.file, fault.line, fault.instead) for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a = 2\n", "a fault: x.py has 0 times, and not once: 'a = 1'"),
        ("a = 1\nb = 0\na = 1\n", "a fault: x.py has 2 times, and not once: 'a = 1'"),
    ],
)
def test_a_fault_that_does_not_fit_once_is_named(source: str, reason: str) -> None:
    with pytest.raises(MisfitError) as misfit:
        Fault("a fault", "x.py", "a = 1", "a = 3", ()).applied(source)
    assert str(misfit.value) == reason


@pytest.mark.parametrize("instead", ["a = 1\nb = 0", "a = 3\nb = 3", "a = 3", "a = 1\nb = 0\nc = 1"])
def test_a_fault_is_one_line(instead: str) -> None:
    assert Fault("a fault", "x.py", "a = 1\nb = 0", "a = 1\nb = 3", ()).applied("a = 1\nb = 0\n") == "a = 1\nb = 3\n"
    with pytest.raises(MisfitError, match=r"a fault: must change one line of x\.py"):
        Fault("a fault", "x.py", "a = 1\nb = 0", instead, ()).applied("a = 1\nb = 0\n")
