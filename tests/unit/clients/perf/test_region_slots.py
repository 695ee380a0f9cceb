# SPDX-License-Identifier: Apache-2.0
"""Requests laid out in one region: where their tensors lie, and what that takes."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np

from penstock.clients.models import ModelInfo, TensorInfo
from penstock.clients.perf.region_slots import RegionLayout

MODEL = ModelInfo(
    "m", -1, 1, (1,), "", 8, (TensorInfo("x", "FP32", (-1,)), TensorInfo("s", "BYTES", (1,))), (TensorInfo("y", "FP32", (2,)),)
)


def filled(layout: RegionLayout) -> tuple[Any, list[Any]]:
    """The memory of a region, and the requests in it."""
    region: Any = SimpleNamespace(memory=np.zeros(layout.byte_size, np.uint8))
    return region.memory, layout.place(region)


def test_each_request_lies_where_its_place_says() -> None:
    # Given two requests: numbers that are every other one of an array, and strings
    arrays = [
        {"x": np.arange(8, dtype=np.float32).reshape(2, 4)[:, ::2] + number, "s": np.array([[b"ab"], [b"c" * number]], object)}
        for number in range(2)
    ]
    # When they are laid out
    memory, places = filled(RegionLayout(MODEL, 2, arrays))
    # Then each is found again
    for number, (inputs, outputs) in enumerate(places):
        x, s, y = inputs["x"], inputs["s"], outputs["y"]
        assert np.array_equal(memory[x.offset : x.offset + x.byte_size].view(np.float32).reshape(x.shape), arrays[number]["x"])
        assert memory[s.offset : s.offset + s.byte_size].tobytes() == b"\2\0\0\0ab" + bytes([number, 0, 0, 0]) + b"c" * number
        assert y.byte_size == 2 * 2 * 4 and y.offset + y.byte_size <= len(memory)


def test_numbers_are_copied_into_the_region_and_nowhere_else() -> None:
    arrays = [{"x": np.ones((8, 1 << 17), np.float32), "s": np.array([[b""]] * 8, object)} for _ in range(4)]
    tracemalloc.start()
    try:
        layout = RegionLayout(MODEL, 8, arrays)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert layout.byte_size > sum(each["x"].nbytes for each in arrays) > 100 * peak
