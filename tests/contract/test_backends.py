# SPDX-License-Identifier: Apache-2.0
"""The contract of every backend, through the worker's own memory handling: the same stories for all that serve models.

The model: y = the first 4 of the 6 elements of each row of x.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from worker_rig import POISON, Memory, Rig, Tensor, copies, spec_of, unplaced, write_prefix_model

from penstock.ipc.errors import PenstockError
from penstock.ipc.messages import InputSlice, Placement

BACKENDS = ("identity", "fake", "onnxruntime", "pytorch")
X, Y = 24, 16  # bytes per row
OUT = 32768  # outputs lie here and after


@pytest.fixture(params=BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


@pytest.fixture
def rig(name: str, tmp_path: Path) -> Iterator[Rig]:
    directory: Path | str = ""
    if name == "onnxruntime":
        directory = write_prefix_model(tmp_path / "1")
    elif name == "pytorch":
        pytest.importorskip("torch", reason="needs torch (the extra `torch`)")
        from torch_files import Prefix, write_script

        directory = write_script(tmp_path / "1", Prefix())
    with Rig(spec_of(name, {"x": ("FP32", [6])}, {"y": ("FP32", [4])}), directory) as made:
        yield made


def rows(count: int, seed: int) -> Tensor:
    return np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)


def placed(memory: Memory, tensor: Tensor, at: int, out: int, capacity: int | None = None) -> Placement:
    size = len(tensor) * Y if capacity is None else capacity
    return Placement(len(tensor), [memory.put(at, tensor)], [memory.place(0, out, size)])


def expect(memory: Memory, tensor: Tensor, out: int) -> None:
    np.testing.assert_array_equal(memory.get(out, "FP32", (len(tensor), 4)), tensor[:, :4])


@pytest.mark.parametrize("offset", [0, 1, 6, 64])
def test_a_request_alone_is_executed_where_it_lies(rig: Rig, offset: int) -> None:
    x = rows(3, 0)
    done = rig.run(placed(rig.memory, x, offset, OUT + offset))
    assert (done.batch, done.items, done.copies, done.message) == (7, [], [], "")
    expect(rig.memory, x, OUT + offset)
    assert rig.memory.get(OUT + offset + 3 * Y, "UINT8", [8]).tolist() == [POISON] * 8


def test_the_same_placement_again_sees_the_new_content(rig: Rig) -> None:
    for seed in range(3):
        x = rows(2, seed)
        assert rig.run(placed(rig.memory, x, 0, OUT)).items == []
        expect(rig.memory, x, OUT)


def copied_out(name: str, byte_size: int) -> dict[str, tuple[int, int]]:
    """What a batch costs whose places are one run: torch computes into memory of its own, the others straight into them."""
    return {"scatter": (1, byte_size)} if name == "pytorch" else {}


def test_adjacent_requests_are_one_tensor_without_a_copy(rig: Rig, name: str) -> None:
    tensors = [rows(count, count) for count in (2, 1, 3)]
    begins = [0, 2, 3]
    done = rig.run(*(placed(rig.memory, x, at * X, OUT + at * Y) for x, at in zip(tensors, begins, strict=True)))
    assert (done.items, copies(done)) == ([], copied_out(name, 6 * Y))
    for x, at in zip(tensors, begins, strict=True):
        expect(rig.memory, x, OUT + at * Y)


def test_requests_that_came_in_another_order_than_they_lie_are_still_one_tensor(rig: Rig, name: str) -> None:
    tensors = [rows(1, seed) for seed in range(4)]
    order = [2, 0, 3, 1]
    done = rig.run(*(placed(rig.memory, tensors[at], at * X, OUT + at * Y) for at in order))
    assert (done.items, copies(done)) == ([], copied_out(name, 4 * Y))
    for at, x in enumerate(tensors):
        expect(rig.memory, x, OUT + at * Y)


def test_scattered_requests_are_gathered_and_scattered_once_per_run(rig: Rig, name: str) -> None:
    tensors = [rows(1, seed) for seed in range(4)]
    inputs = [1000, 1000 + X, 3001, 200]  # the first two adjacent
    outputs = [OUT, OUT + 100, OUT + 301, OUT + 500]
    done = rig.run(*(placed(rig.memory, *triple) for triple in zip(tensors, inputs, outputs, strict=True)))
    assert done.items == []
    expected = {} if name == "identity" else {"gather": (3, 4 * X), "scatter": (4, 4 * Y)}
    assert copies(done) == expected
    for x, out in zip(tensors, outputs, strict=True):
        expect(rig.memory, x, out)


def test_outputs_in_another_order_than_inputs_reach_their_own_slots(rig: Rig) -> None:
    tensors = [rows(1, seed) for seed in range(3)]
    rig.run(*(placed(rig.memory, x, at * X, OUT + (2 - at) * Y) for at, x in enumerate(tensors)))
    for at, x in enumerate(tensors):
        expect(rig.memory, x, OUT + (2 - at) * Y)


def test_requests_in_different_regions_share_a_batch(rig: Rig) -> None:
    other = rig.map(Memory(2))
    first, second = rows(2, 0), rows(1, 1)
    assert rig.run(placed(rig.memory, first, 0, OUT), placed(other, second, 2 * X, OUT + 2 * Y)).items == []
    expect(rig.memory, first, OUT)
    expect(other, second, OUT + 2 * Y)


def test_a_place_that_is_too_small_fails_its_request_alone(rig: Rig) -> None:
    first, second = rows(1, 0), rows(1, 1)
    done = rig.run(placed(rig.memory, first, 0, OUT, capacity=15), placed(rig.memory, second, X, OUT + 64))
    assert (done.items[0].code, done.items[0].fault) == ("INVALID_ARG", "caller")
    assert done.items[0].message == "output 'y' of model 'm' needs 16 bytes, its place has 15"
    assert done.items[1].code == ""
    (output,) = done.items[1].outputs
    assert (output.output, output.shape, output.byte_size, output.offset) == (0, [1, 4], 16, OUT + 64)
    expect(rig.memory, second, OUT + 64)
    assert rig.memory.get(OUT, "UINT8", [16]).tolist() == [POISON] * 16


def test_more_room_than_needed_is_left_alone(rig: Rig) -> None:
    x = rows(1, 0)
    assert rig.run(placed(rig.memory, x, 0, OUT, capacity=100)).items == []
    assert rig.memory.get(OUT + Y, "UINT8", [84]).tolist() == [POISON] * 84


def test_an_unplaced_output_comes_in_a_sealed_memfd_of_its_own(rig: Rig) -> None:
    first, second, third = rows(2, 0), rows(1, 1), rows(1, 2)
    done, fds = rig.run_with_fds(
        Placement(2, [rig.memory.put(0, first)], [unplaced(0)]),
        placed(rig.memory, second, 4 * X, OUT),
        Placement(1, [rig.memory.put(8 * X, third)], [unplaced(0)]),
    )
    try:
        assert [item.fds for item in done.items] == [1, 0, 1]
        expect(rig.memory, second, OUT)
        for fd, x, item in zip(fds, (first, third), (done.items[0], done.items[2]), strict=True):
            (output,) = item.outputs
            assert (output.offset, output.byte_size, os.fstat(fd).st_size) == (0, len(x) * Y, len(x) * Y)
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
            np.testing.assert_array_equal(np.frombuffer(os.pread(fd, len(x) * Y, 0), np.float32).reshape(-1, 4), x[:, :4])
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize(
    ("placement", "reason"),
    [
        (Placement(1, [], []), "0 inputs were placed, it has 1"),
        (Placement(1, [InputSlice(9, 0, X, [1, 6])], []), "region 9 is not mapped"),
        (Placement(1, [InputSlice(1, 65536 - X + 1, X, [1, 6])], []), "lie outside of region 1 of 65536 bytes"),
        (Placement(1, [InputSlice(1, 0, X, [1, 7])], []), r"shape \[1, 7\], it takes \[1, 6\]"),
        (Placement(1, [InputSlice(1, 0, X + 4, [1, 6])], []), "placed with 28 bytes"),
    ],
)
def test_a_placement_that_the_broker_should_not_have_sent_costs_itself(rig: Rig, placement: Placement, reason: str) -> None:
    good = rows(1, 0)
    done = rig.run(placement, placed(rig.memory, good, 0, OUT))
    np.testing.assert_equal((done.items[0].code, done.items[0].fault, done.items[1].code), ("INTERNAL", "broker", ""))
    with pytest.raises(PenstockError, match=reason):
        raise PenstockError(done.items[0].message)
    expect(rig.memory, good, OUT)


def test_a_region_is_unmapped_when_the_worker_is_told_so(rig: Rig) -> None:
    other = rig.map(Memory(2))
    x = rows(1, 0)
    for _ in range(2):
        rig.run(placed(rig.memory, x, 0, OUT), placed(other, x, 0, OUT))
        rig.run(placed(other, x, 0, OUT))
    assert "rig-2" in Path("/proc/self/maps").read_text()
    rig.runner.forget_region(2)
    rig.regions.unmap(2)
    assert "rig-2" not in Path("/proc/self/maps").read_text()
    done = rig.run(placed(other, x, 0, OUT))
    assert "region 2 is not mapped" in done.items[0].message


def test_times_are_reported_in_the_order_of_the_stages(rig: Rig) -> None:
    done = rig.run(placed(rig.memory, rows(1, 0), 0, OUT), placed(rig.memory, rows(1, 1), 4 * X, OUT + 64))
    assert done.started_ns > 0
    assert done.infer_ns > 0
    assert min(done.input_ns, done.output_ns) >= 0
    assert done.started_ns + done.input_ns + done.infer_ns + done.output_ns <= done.ended_ns


def test_a_batch_has_no_time_beside_its_stages(rig: Rig) -> None:
    # Whether it is met for the first time, executed where it lies, packed, or one of its requests fails
    one, other = placed(rig.memory, rows(1, 0), 0, OUT), placed(rig.memory, rows(1, 1), 4 * X, OUT + 64)
    for batch in [(one,), (one,), (one, other), (one, other), (one, b"no placement")]:
        done = rig.run(*batch)
        assert not done.message
        assert done.input_ns + done.infer_ns + done.output_ns == done.ended_ns - done.started_ns


def test_close_may_be_called_twice(rig: Rig) -> None:
    rig.backend.close()
    rig.backend.close()
