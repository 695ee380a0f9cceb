# SPDX-License-Identifier: Apache-2.0
"""Warm-up samples, executed on real models and on a fake that writes down what it was given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from worker_rig import Rig, spec_of, write_onnx

from penstock.ipc.errors import Code, ModelError
from penstock.ipc.messages import LoadModel, ModelSpec, Start, WarmupInput, WarmupSample
from penstock.ipc.tensors import ITEM_BYTES, numpy_dtype, serialize_bytes
from penstock.workers.backends.onnxruntime_onnx import OnnxRuntime
from penstock.workers.warm_up import contents_of, run_samples

ZERO = WarmupInput("x", "FP32", [2], "zero")


def warm_up(rig: Rig, version: Path, *samples: WarmupSample) -> None:
    """Executes samples; whatever comes of it, nothing of theirs is left mapped."""
    try:
        run_samples(Start(rig.spec, list(samples)), rig.runner, rig.regions, str(version))
    finally:
        rig.runner.check_invariants()
        rig.regions.check_invariants()
        assert 0 not in rig.regions


def recorder(tmp_path: Path, max_batch_size: int = 4, inputs: dict[str, tuple[str, list[int]]] | None = None) -> Rig:
    tensors = inputs or {"x": ("FP32", [2])}
    outputs = {f"{name}_out": kind for name, kind in tensors.items()}
    path = str(tmp_path / "record")
    return Rig(spec_of("fake", tensors, outputs, max_batch_size, mode="recording", record_path=path))


def recorded(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "record").read_text().splitlines()]


def file_of(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "warmup").mkdir(exist_ok=True)
    (tmp_path / "warmup" / name).write_bytes(content)


def test_samples_are_executed_in_order_and_as_often_as_they_say(tmp_path: Path) -> None:
    with recorder(tmp_path) as rig:
        warm_up(rig, tmp_path / "1", WarmupSample("three", 3, 2, [ZERO]), WarmupSample("one", 1, 1, [ZERO]))

    # A sample of batch size 3 is three requests of a row
    assert [row["rows"] for row in recorded(tmp_path)] == [[1, 1, 1], [1, 1, 1], [1]]
    assert recorded(tmp_path)[0]["inputs"] == {"x": [[0.0, 0.0]] * 3}


def test_a_model_without_batch_dimension_gets_none(tmp_path: Path) -> None:
    with recorder(tmp_path, max_batch_size=0) as rig:
        warm_up(rig, tmp_path / "1", WarmupSample("s", 1, 1, [ZERO]))

    assert recorded(tmp_path)[0]["inputs"] == {"x": [0.0, 0.0]}


def test_empty_texts_for_zeros_and_for_random_data(tmp_path: Path) -> None:
    kinds = {"a": ("BYTES", [2]), "b": ("BYTES", [-1])}
    given = [WarmupInput("b", "BYTES", [1], "random"), WarmupInput("a", "BYTES", [2], "zero")]
    with recorder(tmp_path, inputs=kinds) as rig:
        warm_up(rig, tmp_path / "1", WarmupSample("s", 1, 1, given))

    assert recorded(tmp_path)[0]["inputs"] == {"a": [["", ""]], "b": [[""]]}


def test_a_file_of_one_request_serves_all_and_one_of_all_gives_each_its_own(tmp_path: Path) -> None:
    file_of(tmp_path, "one", np.array([1, 2], np.float32).tobytes())
    file_of(tmp_path, "all", np.array([[1, 2], [3, 4]], np.float32).tobytes())
    samples = [WarmupSample(name, 2, 1, [WarmupInput("x", "FP32", [2], "file", name)]) for name in ("one", "all")]
    with recorder(tmp_path) as rig:
        warm_up(rig, tmp_path / "1", *samples)

    assert [row["inputs"]["x"] for row in recorded(tmp_path)] == [[[1, 2], [1, 2]], [[1, 2], [3, 4]]]


def test_texts_come_from_a_file_in_tritons_format(tmp_path: Path) -> None:
    file_of(tmp_path, "one", serialize_bytes(["a", "bc"]))
    file_of(tmp_path, "all", serialize_bytes(["a", "bc", "", "d"]))
    samples = [WarmupSample(name, 2, 1, [WarmupInput("t", "BYTES", [2], "file", name)]) for name in ("one", "all")]
    with recorder(tmp_path, inputs={"t": ("BYTES", [2])}) as rig:
        warm_up(rig, tmp_path / "1", *samples)

    assert [row["inputs"]["t"] for row in recorded(tmp_path)] == [[["a", "bc"]] * 2, [["a", "bc"], ["", "d"]]]


@pytest.mark.parametrize(
    ("given", "content", "said"),
    [
        (WarmupInput("x", "FP32", [2], "file", "f"), bytes(7), "input 'x': warmup setting expects 8 bytes (or 16 for all 2 requests), but the data provided from 'f' has 7 bytes"),
        (WarmupInput("x", "FP32", [2], "file", "f"), bytes(12), "input 'x': warmup setting expects 8 bytes (or 16 for all 2 requests), but the data provided from 'f' has 12 bytes"),
        (WarmupInput("x", "FP32", [2], "file", "f"), None, "input 'x': file 'f' cannot be read: No such file or directory"),
        (WarmupInput("x", "BYTES", [2], "file", "f"), serialize_bytes(["a", "b", "c"]), "expected 4 string elements for tensor 'x', got 3"),
        (WarmupInput("x", "BYTES", [2], "file", "f"), b"\x05", "incomplete string length indicator for tensor 'x', expecting 4 bytes but only 1 bytes available. Please make sure the string length indicator is in one buffer."),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_fails_its_sample_by_name(
    tmp_path: Path, given: WarmupInput, content: bytes | None, said: str
) -> None:
    if content is not None:
        file_of(tmp_path, "f", content)
    with recorder(tmp_path, inputs={"x": (given.datatype, [2])}) as rig, pytest.raises(ModelError) as caught:
        warm_up(rig, tmp_path / "1", WarmupSample("bad", 2, 1, [given]))

    assert caught.value.message == f"failed to run warmup sample 'bad': {said}"
    assert caught.value.code is Code.INVALID_ARG
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize("datatype", sorted(ITEM_BYTES))
def test_random_data_are_values_of_their_datatype(datatype: str) -> None:
    dtype = numpy_dtype(datatype)
    (content,) = contents_of(WarmupInput("x", datatype, [64, 64], "random"), 3, "")

    values = np.frombuffer(content, dtype)

    assert values.size == 4096
    if datatype == "BOOL":
        assert set(np.frombuffer(content, np.uint8)) == {0, 1}
    elif datatype == "BF16":
        numbers = (values.astype(np.uint32) << 16).view(np.float32)
        assert 0 <= numbers.min() < 0.1 and 0.9 < numbers.max() <= 1
    elif dtype.kind == "f":
        assert 0 <= values.min() < 0.1 and 0.9 < values.max() <= 1
    else:  # all of the range, not a corner of it
        limits = np.iinfo(dtype)
        span = float(limits.max) - float(limits.min)
        assert float(values.min()) < limits.min + 0.1 * span and float(values.max()) > limits.max - 0.1 * span


def test_random_data_are_the_same_at_each_start() -> None:
    given = WarmupInput("x", "INT32", [8], "random")
    assert contents_of(given, 1, "") == contents_of(given, 1, "")


def test_tensors_without_elements(tmp_path: Path) -> None:
    file_of(tmp_path, "nothing", b"")
    kinds = {"x": ("FP32", [-1]), "t": ("BYTES", [-1])}
    given = [WarmupInput("x", "FP32", [0], "file", "nothing"), WarmupInput("t", "BYTES", [0], "zero")]
    with recorder(tmp_path, inputs=kinds) as rig:
        warm_up(rig, tmp_path / "1", WarmupSample("s", 2, 1, given))

    assert recorded(tmp_path)[0]["inputs"] == {"x": [[], []], "t": [[], []]}


def test_the_first_sample_that_fails_ends_the_warm_up(tmp_path: Path) -> None:
    spec = spec_of("fake", {"x": ("FP32", [2])}, {"y": ("FP32", [2])}, 4, mode="failing", message="no luck")
    with Rig(spec) as rig, pytest.raises(ModelError) as caught:
        warm_up(rig, tmp_path / "1", WarmupSample("first", 1, 1, [ZERO]), WarmupSample("second", 1, 1, [ZERO]))

    assert caught.value.message == "failed to run warmup sample 'first': no luck"


def test_requests_that_fail_alone_fail_the_sample_too(tmp_path: Path) -> None:
    file_of(tmp_path, "f", np.array([[1, 2], [np.nan, 4], [np.nan, 6]], np.float32).tobytes())
    spec = spec_of("fake", {"x": ("FP32", [2])}, {"y": ("FP32", [2])}, 4, mode="failing_items", message="a row is NaN")
    with Rig(spec) as rig, pytest.raises(ModelError, match="warmup sample 's': a row is NaN$"):
        warm_up(rig, tmp_path / "1", WarmupSample("s", 3, 1, [WarmupInput("x", "FP32", [2], "file", "f")]))


def gather_model(directory: Path) -> ModelSpec:
    """y = table[x]: an index beyond the table is an error."""
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    table = {"table": np.arange(5, dtype=np.float32)}
    write_onnx(directory, [node], {"x": ("INT64", ["n", "m"])}, {"y": ("FP32", ["n", "m"])}, table)
    return spec_of("onnxruntime", {"x": ("INT64", [-1])}, {"y": ("FP32", [-1])})


def test_a_real_model_is_warmed_up_with_shapes_of_the_samples_choice(tmp_path: Path) -> None:
    file_of(tmp_path, "good", np.array([0, 4, 2], np.int64).tobytes())
    file_of(tmp_path, "bad", np.array([0, 5], np.int64).tobytes())
    spec = gather_model(tmp_path / "1")
    with Rig(spec, tmp_path / "1") as rig:
        good = WarmupSample("good", 4, 2, [WarmupInput("x", "INT64", [3], "file", "good")])
        warm_up(rig, tmp_path / "1", good)
        bad = WarmupSample("bad", 1, 1, [WarmupInput("x", "INT64", [2], "file", "bad")])
        with pytest.raises(ModelError, match=r"(?s)failed to run warmup sample 'bad': .*idx=5"):
            warm_up(rig, tmp_path / "1", good, bad)


class Counting(OnnxRuntime):
    """onnxruntime, counting executions."""

    def __init__(self) -> None:
        super().__init__()
        self.executions = 0

    def execute(self, work: Any) -> Any:
        self.executions += 1
        return super().execute(work)


@pytest.mark.parametrize(("samples_follow", "executions"), [(False, 2), (True, 0)])
def test_zeros_of_the_backends_own_are_for_models_without_samples(
    tmp_path: Path, samples_follow: bool, executions: int
) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    write_onnx(tmp_path, [node], {"x": ("FP32", ["n", 2])}, {"y": ("FP32", ["n", 2])})
    spec = spec_of("onnxruntime", {"x": ("FP32", [2])}, {"y": ("FP32", [2])}, 8)
    backend = Counting()
    backend.load(LoadModel(spec, "m_0_0", str(tmp_path), threads=1))

    backend.warm_up(spec, samples_follow=samples_follow)

    assert backend.executions == executions
    backend.close()
