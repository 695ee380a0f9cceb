# SPDX-License-Identifier: Apache-2.0
"""Batches in which some requests want an output's classes, and some the output itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from worker_rig import Rig, spec_of, unplaced, write_onnx

from penstock.ipc.messages import BatchDone, OutputSlice, Placement
from penstock.ipc.tensors import deserialize_bytes

OUT = 32768
LABELS = {0: [b"cat", b"dog"]}
X = np.array([[1, 3, 2, 3], [9, 8, 7, 6]], np.float32)


def best(classes: int, output: int = 0) -> OutputSlice:
    return OutputSlice(output, -1, 0, 0, classes)


@pytest.fixture(params=["fake", "onnxruntime"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    node = helper.make_node("Identity", ["x"], ["y"])
    write_onnx(tmp_path, [node], {"x": ("FP32", ["n", 4])}, {"y": ("FP32", ["n", 4])})
    spec = spec_of(request.param, {"x": ("FP32", [4])}, {"y": ("FP32", [4])})
    with Rig(spec, tmp_path, labels=LABELS) as made:
        yield made


def texts(done: BatchDone, fds: list[int]) -> list[Any]:
    """What came in each request's descriptor, by output; the descriptors are closed."""
    waiting = iter(fds)
    found = []
    for item in done.items:
        assert not item.code, item
        fd = next(waiting) if item.fds else -1
        found.append([(os.pread(fd, out.byte_size, out.offset), out.shape) if item.fds else out.shape for out in item.outputs])
    for fd in fds:
        os.close(fd)
    return found


def as_text(content: bytes, shape: list[int]) -> Any:
    return deserialize_bytes(content, shape, "y").tolist()


def test_one_request_for_classes(rig: Rig) -> None:
    done, fds = rig.run_with_fds(Placement(2, [rig.memory.put(0, X)], [best(3)]))

    ((found,),) = texts(done, fds)
    assert as_text(*found) == [
        [b"3.000000:1:dog", b"3.000000:3", b"2.000000:2"],
        [b"9.000000:0:cat", b"8.000000:1:dog", b"7.000000:2"],
    ]


def test_requests_with_and_without_classes_share_a_batch(rig: Rig) -> None:
    # Given four requests: its place, unplaced, one class, more classes than elements
    placements = [
        Placement(1, [rig.memory.put(64, X[1:])], [rig.memory.place(0, OUT, 16)]),
        Placement(2, [rig.memory.put(512, X)], [unplaced(0)]),
        Placement(1, [rig.memory.put(256, X[:1])], [best(1)]),
        Placement(1, [rig.memory.put(0, X[1:])], [best(1000)]),
    ]

    done, fds = rig.run_with_fds(*placements)

    placed, plain, one, all_four = texts(done, fds)
    assert placed == [[1, 4]] and rig.memory.get(OUT, "FP32", (1, 4)).tolist() == X[1:].tolist()
    assert np.frombuffer(plain[0][0], np.float32).reshape(plain[0][1]).tolist() == X.tolist()
    assert as_text(*one[0]) == [[b"3.000000:1:dog"]]
    assert as_text(*all_four[0]) == [[b"9.000000:0:cat", b"8.000000:1:dog", b"7.000000:2", b"6.000000:3"]]


def test_outputs_beside_it_are_as_they_are() -> None:
    kinds = {"a": ("FP32", [4]), "b": ("INT64", [2])}
    spec = spec_of("fake", kinds, {"p": ("FP32", [4]), "q": ("INT64", [2])})
    with Rig(spec, labels=LABELS) as rig:
        inputs = [rig.memory.put(0, X), rig.memory.put(256, np.array([[5, 6], [8, 7]]))]
        done, fds = rig.run_with_fds(Placement(2, inputs, [best(1, 1), unplaced(0)]))

    ((q, p),) = texts(done, fds)
    assert as_text(*q) == [[b"6:1"], [b"8:0"]]
    assert np.frombuffer(p[0], np.float32).reshape(p[1]).tolist() == X.tolist()


def test_without_batch_dimension_all_elements_are_one_row() -> None:
    spec = spec_of("fake", {"x": ("UINT8", [2, 2])}, {"y": ("UINT8", [2, 2])}, 0)
    with Rig(spec, labels=LABELS) as rig:
        done, fds = rig.run_with_fds(Placement(1, [rig.memory.put(0, np.array([[1, 4], [3, 2]], np.uint8))], [best(3)]))

    ((found,),) = texts(done, fds)
    assert found[1] == [3] and as_text(*found) == [b"4:1:dog", b"3:2", b"2:3"]


def test_no_elements_have_no_classes() -> None:
    spec = spec_of("fake", {"x": ("FP32", [-1])}, {"y": ("FP32", [-1])})
    with Rig(spec) as rig:
        done, fds = rig.run_with_fds(Placement(2, [rig.memory.put(0, X[:, :0])], [best(2)]))

    assert texts(done, fds) == [[(b"", [2, 0])]]


def test_a_row_of_several_dims_is_counted_through() -> None:
    spec = spec_of("fake", {"x": ("INT32", [2, 2])}, {"y": ("INT32", [2, 2])})
    with Rig(spec) as rig:
        x = np.array([[[1, 4], [3, 2]], [[0, 0], [0, 5]]], np.int32)
        done, fds = rig.run_with_fds(Placement(2, [rig.memory.put(0, x)], [best(2)]))

    ((found,),) = texts(done, fds)
    assert as_text(*found) == [[b"4:1", b"3:2"], [b"5:3", b"0:0"]]
