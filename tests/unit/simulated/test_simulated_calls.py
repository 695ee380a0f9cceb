# SPDX-License-Identifier: Apache-2.0
"""The simulated CUDA has the names, arguments, results and numbers of the real cuda-bindings, where that is installed."""

from __future__ import annotations

import ast
import importlib.util
import re
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from simulated.fixtures import CUDA

SIMULATION = CUDA / "cuda" / "simulation"


class Signature(NamedTuple):
    arguments: tuple[str, ...]
    results: int


def _simulated() -> dict[str, Signature]:
    found = {}
    for path in (*sorted(SIMULATION.glob("*_calls.py")), CUDA / "cuda" / "bindings" / "driver.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("cu"):
                found[node.name] = Signature(tuple(argument.arg for argument in node.args.args), _results(node))
    assert len(found) > 50, "this test would check nothing"
    return found


def _results(node: ast.FunctionDef) -> int:
    """How many results come with the error, as @call says, or _call() in the driver, or the type of the return."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in ("call", "_call"):
            given = {keyword.arg: keyword.value for keyword in part.keywords}
            value = given.get("results") or (part.args[1] if len(part.args) > 1 else None)
            return int(ast.literal_eval(value)) if value is not None else 0
    assert isinstance(node.returns, ast.Subscript)
    return len(node.returns.slice.elts) - 1 if isinstance(node.returns.slice, ast.Tuple) else 0


def _real(function: Any) -> Signature:
    """What the first line of the docstring says of the arguments, and its section "Returns" of the results."""
    first, _, rest = function.__doc__.partition("\n")
    inside = first.partition("(")[2].rpartition(")")[0]
    bare = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", inside))
    arguments = [
        argument.split(":")[0].split("=")[0].split()[-1].lstrip("*") for argument in bare.split(",") if argument.strip()
    ]
    # one or two sections are indented by accident
    returns = re.search(r"^( *)Returns\n *-+\n(.*?)(?:\n\n|\Z)", rest, re.MULTILINE | re.DOTALL)
    assert returns, function
    named = [line for line in returns.group(2).split("\n") if line.strip() and not line.startswith(returns.group(1) + " ")]
    return Signature(tuple(arguments), len(named) - 1)


@pytest.fixture(scope="module")
def bindings() -> tuple[ModuleType, ModuleType]:
    """The real modules."""
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    from cuda.bindings import driver, runtime

    if "simulated" in str(runtime.__file__):
        pytest.skip("the simulation stands before the real package")
    if runtime.cudaRuntimeGetVersion()[1] < 13000:
        pytest.skip("this cuda-python is older than what is simulated, which is 13")
    return runtime, driver


def test_every_call_has_the_arguments_and_results_of_the_real_one(bindings: tuple[ModuleType, ModuleType]) -> None:
    wrong = {}
    for name, simulated in _simulated().items():
        module = bindings[0] if name.startswith("cuda") else bindings[1]
        real = _real(getattr(module, name))
        if real != simulated:
            wrong[name] = (real, simulated)
    assert not wrong


def test_every_number_is_that_of_the_real_one(bindings: tuple[ModuleType, ModuleType]) -> None:
    runtime, driver = bindings
    types, errors = _loaded("types"), _loaded("errors")
    enumerations = [one for module in (types, errors) for one in vars(module).values() if _is_enumeration(one)]
    assert len(enumerations) >= 9, "this test would check nothing"
    for enumeration in enumerations:
        real = getattr(driver if enumeration.__name__.startswith("CU") else runtime, enumeration.__name__)
        assert {one.name: one.value for one in enumeration} == {one.name: int(getattr(real, one.name)) for one in enumeration}
    assert {name: getattr(runtime, name) for name in types.CONSTANTS} == types.CONSTANTS
    for code, meaning in errors.MEANINGS.items():
        assert runtime.cudaGetErrorString(getattr(runtime.cudaError_t, code.name))[1].decode() == meaning


def _is_enumeration(one: object) -> bool:
    return isinstance(one, type) and issubclass(one, IntEnum) and one is not IntEnum


def _loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"simulated_{name}", Path(SIMULATION / f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
