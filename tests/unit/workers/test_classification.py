# SPDX-License-Identifier: Apache-2.0
"""Classes of an output: order, format and labels, each worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.ipc.errors import Code, ModelError
from penstock.ipc.messages import ModelSpec, TensorSpec
from penstock.workers.classification import classify, read_labels


def best(values: list[list[Any]], dtype: str, classes: int, *labels: bytes) -> list[bytes]:
    return classify(np.array(values, dtype), classes, labels)


def test_the_best_come_first_row_after_row() -> None:
    assert best([[0.25, 0.5, 0.125], [3, 1, 2]], "float32", 2) == [
        b"0.500000:1", b"0.250000:0",
        b"3.000000:0", b"2.000000:2",
    ]  # fmt: skip


def test_of_equal_values_the_lower_index_is_first() -> None:
    assert best([[1, 7, 7, 1, 7]], "float64", 4) == [b"7.000000:1", b"7.000000:2", b"7.000000:4", b"1.000000:0"]
    assert best([[1, 7, 7, 1, 7]], "int32", 4) == [b"7:1", b"7:2", b"7:4", b"1:0"]
    assert best([[0.0, -0.0]], "float32", 2) == [b"0.000000:0", b"-0.000000:1"]


def test_more_classes_than_elements_are_all_elements() -> None:
    assert best([[2, 1]], "int8", 100) == [b"2:0", b"1:1"]
    assert best([[]], "float32", 3) == []


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("uint8", [0, 255, 7], [b"255:1", b"7:2", b"0:0"]),
        ("uint64", [0, 2**64 - 1, 2**63], [b"18446744073709551615:1", b"9223372036854775808:2", b"0:0"]),
        ("int64", [-(2**63), 2**63 - 1, -1], [b"9223372036854775807:1", b"-1:2", b"-9223372036854775808:0"]),
        ("int8", [-128, 127, 0], [b"127:1", b"0:2", b"-128:0"]),
    ],
)
def test_the_ends_of_the_integers_sort_as_they_should(dtype: str, values: list[int], expected: list[bytes]) -> None:
    assert best([values], dtype, 3) == expected


def test_floating_point_is_written_as_by_std_to_string() -> None:
    # Six digits behind the point, however large or small; 0.1 is the nearest FP32, 0.100000001490116...
    values = [[1e10, 0.1, 1e-7, -2.5, np.inf, -np.inf, np.nan]]
    assert best(values, "float32", 7) == [
        b"inf:4", b"10000000000.000000:0", b"0.100000:1", b"0.000000:2", b"-2.500000:3", b"-inf:5", b"nan:6",
    ]  # fmt: skip


def test_a_label_follows_where_there_is_one() -> None:
    # Two labels for four elements, and one of them empty, which counts as none (TRITONSERVER_...ClassificationLabel)
    assert best([[1, 2, 3, 4]], "int16", 4, b"one", b"") == [b"4:3", b"3:2", b"2:1", b"1:0:one"]


def spec(**labels: str) -> ModelSpec:
    return ModelSpec("m", 1, "fake", 0, [], [TensorSpec("a", "FP32", [2]), TensorSpec("b", "FP32", [2])], labels=labels)


def test_labels_are_a_file_beside_the_version(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("cat\nbig dog\r\n\nmöwe".encode())

    found = read_labels(spec(b="labels.txt"), str(tmp_path / "1"))

    assert found == {1: [b"cat", b"big dog", b"", "möwe".encode()]}


def test_labels_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="output 'a': label_filename 'none.txt' cannot be read: No such file") as caught:
        read_labels(spec(a="none.txt"), str(tmp_path / "1"))
    assert caught.value.code is Code.NOT_FOUND
