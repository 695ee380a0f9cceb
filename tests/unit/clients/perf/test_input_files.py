# SPDX-License-Identifier: Apache-2.0
"""Inputs from files: which rows a request takes, every form of a value, and what is said of a file that does not fit."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.clients.models import ModelInfo, TensorInfo
from penstock.clients.perf.input_files import parse_entries, read_input_rows
from penstock.clients.perf.inputs import PER_REQUEST, prepared_inputs
from penstock.clients.perf.plan import Plan, Point
from penstock.ipc.errors import CallerError


def model_of(*inputs: TensorInfo, max_batch_size: int = 8) -> ModelInfo:
    return ModelInfo("m", -1, 1, (1,), "identity", max_batch_size, inputs, ())


NUMBERS = model_of(TensorInfo("x", "FP32", (2,)))
STRINGS = model_of(TensorInfo("s", "BYTES", (2,)))
VARIABLE = model_of(TensorInfo("x", "INT32", (-1,)))


def written(folder: Path, entries: list[Any]) -> str:
    path = folder / "inputs.json"
    path.write_text(json.dumps({"data": entries}))
    return str(path)


def parsed(model: ModelInfo, value: Any, shapes: dict[str, tuple[int, ...]] | None = None) -> Any:
    (spec,) = model.inputs
    document = json.dumps({"data": [{spec.name: value}]}).encode()
    return parse_entries(document, "f.json", model, shapes or {})[spec.name][0]


def test_entries_are_used_by_turns_as_many_at_once_as_a_batch_has_rows(tmp_path: Path) -> None:
    # Given three entries
    rows = read_input_rows(written(tmp_path, [{"x": [1, 1]}, {"x": [2, 2]}, {"x": [3, 3]}]), NUMBERS, {})
    # When requests of two rows are made
    firsts = [rows.of_request(number, 2)["x"][:, 0].tolist() for number in range(4)]
    # Then each goes on where the one before ended
    assert firsts == [[1, 2], [3, 1], [2, 3], [1, 2]]
    rows.check_invariants()


def test_a_model_without_a_batch_dimension_takes_an_entry_as_it_is(tmp_path: Path) -> None:
    rows = read_input_rows(
        written(tmp_path, [{"x": [1, 2]}, {"x": [3, 4]}]), model_of(TensorInfo("x", "FP32", (2,)), max_batch_size=0), {}
    )
    assert [rows.of_request(number, 1)["x"].tolist() for number in range(3)] == [[1, 2], [3, 4], [1, 2]]


def test_the_requests_of_a_plan_come_from_the_file_it_names(tmp_path: Path) -> None:
    plan = Plan(points=(), memory="none", input_data=written(tmp_path, [{"x": [1, 2]}, {"x": [3, 4]}]))
    found = prepared_inputs(NUMBERS, plan, Point(1, 1))
    assert [arrays["x"].tolist() for arrays in found] == [[[1, 2]], [[3, 4]]] * (PER_REQUEST // 2)


@pytest.mark.parametrize(
    ("model", "value", "expected"),
    [
        (NUMBERS, [1, 2.5], [1, 2.5]),
        (NUMBERS, {"content": [1, 2.5]}, [1, 2.5]),
        (NUMBERS, {"b64": base64.b64encode(np.array([1, 2.5], "<f4").tobytes()).decode()}, [1, 2.5]),
        (NUMBERS, {"content": {"b64": base64.b64encode(np.array([1, 2.5], "<f4").tobytes()).decode()}}, [1, 2.5]),
        (VARIABLE, {"content": [1, 2, 3], "shape": [3]}, [1, 2, 3]),
        (model_of(TensorInfo("x", "INT8", (2, 2))), [[1, 2], [3, -4]], [[1, 2], [3, -4]]),
        (model_of(TensorInfo("x", "BOOL", (3,))), [True, 0, 1], [True, False, True]),
        (model_of(TensorInfo("x", "BF16", (2,))), [1, -2.5], [0x3F80, 0xC020]),
        (STRINGS, ["a", "ö"], [b"a", "ö".encode()]),
        (model_of(TensorInfo("s", "BYTES", (1,))), {"b64": base64.b64encode(b"\0\xff").decode()}, [b"\0\xff"]),
    ],
)  # fmt: skip
def test_every_form_of_a_value(model: ModelInfo, value: Any, expected: Any) -> None:
    assert parsed(model, value).tolist() == expected


def test_variable_dims_may_be_said_by_shape_of_the_command() -> None:
    assert parsed(VARIABLE, [7, 8], {"x": (2,)}).tolist() == [7, 8]


@pytest.mark.parametrize(
    ("model", "value", "said"),
    [
        (NUMBERS, [1, 2, 3], "f.json, entry 0, input 'x': expected 2 values for dims [2], found 3"),
        (NUMBERS, {"content": [1], "shape": [1]}, "the model's dims are [2], found shape [1]"),
        (NUMBERS, {"content": [1], "shape": "1"}, "expected whole numbers as \"shape\", found '1'"),
        (NUMBERS, {"b64": "AAAA"}, "expected 8 bytes for dims [2], found 3"),
        (NUMBERS, {"b64": "?"}, '"b64" is no base64'),
        (NUMBERS, "one", "expected a list of values"),
        (NUMBERS, [1, "2"], "value 1 is text '2', which is no FP32"),
        (NUMBERS, [1, 1e39], "value 1 is 1e+39, FP32 holds -3.4028234663852886e+38 to 3.4028234663852886e+38"),
        (NUMBERS, [1, True], "value 1 is a truth value True, which is no FP32"),
        (VARIABLE, [1], "dims are [-1]: say \"shape\" beside \"content\", or --shape x:1"),
        (VARIABLE, {"content": [1.5], "shape": [1]}, "value 0 is a fraction 1.5, which is no INT32"),
        (VARIABLE, {"content": [2**31], "shape": [1]}, "value 0 is 2147483648, INT32 holds -2147483648 to 2147483647"),
        (STRINGS, ["a", 1], "value 1 is a whole number 1, which is no BYTES"),
        (STRINGS, {"b64": "AAAA"}, "expected 2 strings for dims [2], found the bytes of one"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_its_place(model: ModelInfo, value: Any, said: str) -> None:
    with pytest.raises(CallerError) as refused:
        parsed(model, value)
    assert said in refused.value.message and refused.value.message.startswith("f.json, entry 0, input ")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "f.json is no JSON"),
        ("[]", 'f.json: expected {"data": [entry, ...]} with at least one entry'),
        ('{"data": []}', "at least one entry"),
        ('{"data": [{"x": [1, 2]}], "date": []}', 'expected {"data": [entry, ...]}'),
        ('{"data": [{"x": [1, 2]}, {"y": [1, 2]}]}', "f.json, entry 1: model 'm' has inputs ['x'], found ['y']"),
        ('{"data": [[{"x": [1, 2]}]]}', "f.json, entry 0: expected an object with inputs ['x'], found a list"),
    ],
)  # fmt: skip
def test_a_document_of_another_form_is_refused(document: str, said: str) -> None:
    with pytest.raises(CallerError) as refused:
        parse_entries(document.encode(), "f.json", NUMBERS, {})
    assert said in refused.value.message


def test_outputs_in_the_file_are_no_reason_to_refuse_it() -> None:
    found = parse_entries(b'{"data": [{"x": [1, 2]}], "validation_data": [{"y": [1]}]}', "f.json", NUMBERS, {})
    assert found["x"][0].tolist() == [1, 2]


def test_rows_of_one_batch_have_one_shape(tmp_path: Path) -> None:
    entries = [{"x": {"content": [1], "shape": [1]}}, {"x": {"content": [1, 2], "shape": [2]}}]
    rows = read_input_rows(written(tmp_path, entries), VARIABLE, {})
    # One row at a time they may differ
    assert [len(rows.of_request(number, 1)["x"][0]) for number in (0, 1)] == [1, 2]
    # But not in one batch
    with pytest.raises(CallerError, match=r"but entry 0 has \[1\] and entry 1 \[2\]"):
        rows.of_request(0, 2)


def test_a_directory_has_a_file_for_each_input(tmp_path: Path) -> None:
    # Given raw numbers, an array of numpy's and a line for each string
    model = model_of(TensorInfo("x", "INT16", (2,)), TensorInfo("y", "FP64", (-1,)), TensorInfo("s", "BYTES", (1,)))
    (tmp_path / "x").write_bytes(np.array([[1, 2], [3, 4]], "<i2").tobytes())
    np.save(tmp_path / "y.npy", np.array([0.5, 1.5]))
    (tmp_path / "s").write_text("one\ntwo\nthree\n")
    # When a batch of two is made
    found = read_input_rows(str(tmp_path), model, {}).of_request(1, 2)
    # Then each input goes through its own rows
    assert found["x"].tolist() == [[1, 2], [3, 4]]
    assert found["y"].tolist() == [[0.5, 1.5], [0.5, 1.5]]
    assert found["s"].tolist() == [[b"three"], [b"one"]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x", b"1234567", "expected 8 bytes for each row of dims [2], found 7"),
        ("x", b"", "expected 8 bytes for each row of dims [2], found 0"),
        ("z", b"12345678", "expected one file 'x' or 'x.npy' for input 'x', found ['z']"),
        ("x.npy", b"12345678", "numpy cannot load it"),
    ],
)
def test_a_file_that_does_not_fit_is_said_with_what_it_should_hold(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CallerError) as refused:
        read_input_rows(str(tmp_path), NUMBERS, {})
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(2), "expected float32 for FP32, found float64"),
        (np.zeros((2, 3), np.float32), "expected one row of dims [2], or several, found shape [2, 3]"),
        (np.zeros((0, 2), np.float32), "expected at least one row, found none"),
    ],
)
def test_an_array_that_does_not_fit_is_said_with_its_shape(tmp_path: Path, array: Any, said: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(CallerError) as refused:
        read_input_rows(str(tmp_path), NUMBERS, {})
    assert said in refused.value.message


def test_strings_of_an_array_and_several_strings_a_row(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.array([["a", "b"], ["c", "d"]]))
    assert read_input_rows(str(tmp_path), STRINGS, {}).of_request(0, 2)["s"].tolist() == [[b"a", b"b"], [b"c", b"d"]]
    (tmp_path / "s.npy").unlink()
    (tmp_path / "s").write_bytes(b"a\nb\nc\n")
    with pytest.raises(CallerError, match=r"expected 2 strings, one a line, for each row of dims \[2\], found 3"):
        read_input_rows(str(tmp_path), STRINGS, {})


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="nosuch.json cannot be read: No such file"):
        read_input_rows(str(tmp_path / "nosuch.json"), NUMBERS, {})
