# SPDX-License-Identifier: Apache-2.0
"""Regions of a program's own: views, tensors in them, and names that do not outlive them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from penstock.clients.asking import Asked
from penstock.clients.regions import MemfdRegion, SystemRegion
from penstock.clients.slots import PlacedRequest
from penstock.ipc.errors import CallerError


def test_views_share_the_memory_and_outlive_the_region() -> None:
    with MemfdRegion("r", 4096) as region:
        view = region.view("FP32", (2, 3), 64)
        view[:] = 7
        assert region.array[64:88].view(np.float32).tolist() == [7.0] * 6
        message, fds = region.registration(9)
        assert (message.id, message.name, message.byte_size, message.fds, len(fds)) == (9, "r", 4096, 1, 1)
        region.check_invariants()
    region.check_invariants()
    view[:] = 8
    assert view.sum() == 48


@pytest.mark.parametrize(
    ("datatype", "shape", "offset", "text"),
    [
        ("FP32", (17,), 0, "has 64 bytes"),
        ("FP32", (1,), 61, "at 61 needs 4"),
        ("BYTES", (1,), 0, "no fixed size"),
        ("FP32", (1,), -4, "at -4"),
    ],
)
def test_tensors_must_lie_within(datatype: str, shape: tuple[int, ...], offset: int, text: str) -> None:
    with MemfdRegion("r", 64) as region, pytest.raises(CallerError, match=text):
        region.tensor(datatype, shape, offset)


def test_a_system_region_is_unlinked_by_who_made_it() -> None:
    key = f"penstock-unit-{os.getpid()}"
    with SystemRegion.create("a", key, 4096) as made:
        with SystemRegion.attach("b", key, 1024, offset=1024) as attached:
            made.array[1024] = 5
            assert attached.array[0] == 5
            assert attached.registration(1)[0].offset == 1024
        assert os.path.exists(f"/dev/shm/{key}")
        made.unlink()
        made.unlink()
        assert not os.path.exists(f"/dev/shm/{key}")
    assert made.closed


def test_requests_in_regions_take_nothing_else() -> None:
    with MemfdRegion("r", 64) as region:
        request = PlacedRequest("m", -1, {"x": region.tensor("FP32", (4,))}, {"y": region.tensor("FP32", (4,), 32), "z": None})
        assert request.infer(1, Asked())[0].version == -1
        with pytest.raises(CallerError, match="either all inputs lie in regions or none; input 'z' is a list"):
            PlacedRequest("m", -1, {"x": region.tensor("FP32", (4,)), "z": [1]}, ())
