# SPDX-License-Identifier: Apache-2.0
"""What lies where a plan should be, and the datatypes of plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.ipc.errors import Code, ModelError
from penstock.workers.backends.plans.datatypes import datatype_of
from penstock.workers.backends.plans.plan_file import read_plan

TAO = b"\x07\x00\x00\x00input_1" + bytes(range(200, 250))


def test_a_plan_is_read(tmp_path: Path) -> None:
    content = b"ptrt" + bytes(100)
    (tmp_path / "model.plan").write_bytes(content)
    assert read_plan(str(tmp_path), "model.plan") == content


@pytest.mark.parametrize(
    ("filename", "content", "expected"),
    [
        ("net.etlt", b"anything", "'net.etlt' is an encrypted export of NVIDIA's TAO toolkit"),
        ("model.plan", TAO, "'model.plan' is an encrypted export of NVIDIA's TAO toolkit"),
        ("model.onnx", b"anything", "'model.onnx' is an ONNX model, not a plan"),
        ("model.plan", b"\x08\x08\x12\x07pytorch", "'model.plan' is an ONNX model, not a plan"),
        ("model.plan", b"", "'model.plan' is empty"),
    ],
)
def test_what_is_taken_for_a_plan_is_told_by_name(tmp_path: Path, filename: str, content: bytes, expected: str) -> None:
    (tmp_path / filename).write_bytes(content)
    with pytest.raises(ModelError, match=expected):
        read_plan(str(tmp_path), filename)


def test_an_export_beside_a_plan_that_is_missing_is_told(tmp_path: Path) -> None:
    (tmp_path / "resnet.etlt").write_bytes(TAO)
    with pytest.raises(ModelError, match="'model.plan' is missing in .*; 'resnet.etlt' is an encrypted export") as caught:
        read_plan(str(tmp_path), "model.plan")
    assert caught.value.code is Code.NOT_FOUND


def test_a_directory_that_is_missing_is_no_other_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'model.plan' is missing in"):
        read_plan(str(tmp_path / "nowhere"), "model.plan")


@pytest.mark.parametrize(
    ("name", "datatype"),
    [
        ("FLOAT", "FP32"),
        ("HALF", "FP16"),
        ("BF16", "BF16"),
        ("INT64", "INT64"),
        ("INT8", "INT8"),
        ("UINT8", "UINT8"),
        ("BOOL", "BOOL"),
    ],
)
def test_datatypes_go_by_name(name: str, datatype: str) -> None:
    assert datatype_of(name, "input", "x", "model.plan") == datatype


@pytest.mark.parametrize("name", ["FP8", "FP4", "INT4", "E8M0"])
def test_a_datatype_that_the_protocol_lacks_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=rf"'model.plan': output 'y' is a {name}, .* build the plan with a cast") as caught:
        datatype_of(name, "output", "y", "model.plan")
    assert caught.value.code is Code.UNSUPPORTED
