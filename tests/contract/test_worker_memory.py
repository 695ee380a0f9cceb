# SPDX-License-Identifier: Apache-2.0
"""What the worker does around any backend: snapshots, BYTES, variable dims, isolation, and models that misbehave."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from worker_rig import Memory, Rig, copies, spec_of, unplaced

from penstock.ipc.errors import ModelError
from penstock.ipc.messages import InputSlice, LoadModel, ModelSpec, Placement, Signature
from penstock.workers import placements
from penstock.workers.backends.base import Backend, Tensor, Work

OUT = 32768


class Scripted(Backend):
    """Executes what the test says."""

    def __init__(self, script: Callable[[Work], Sequence[Tensor | None]]) -> None:
        self.script = script

    def load(self, order: LoadModel) -> Signature | None:
        return None

    def warm_up(self, spec: ModelSpec) -> None:
        pass

    def execute(self, work: Work) -> Sequence[Tensor | None]:
        return self.script(work)

    def close(self) -> None:
        pass


def simple(datatype: str = "FP32", dims: list[int] | None = None, **more: int) -> ModelSpec:
    kind = (datatype, [2] if dims is None else dims)
    return spec_of("scripted", {"x": kind}, {"y": kind}, **more)


def request(memory: Memory, x: Tensor, at: int = 0, out: int = OUT, size: int | None = None) -> Placement:
    return Placement(len(x), [memory.put(at, x)], [memory.place(0, out, x.nbytes if size is None else size)])


@pytest.mark.parametrize("datatype", ["INT64", "UINT8", "BOOL"])
def test_indices_are_private_before_execution_begins(datatype: str) -> None:
    def flip_then_read(work: Work) -> Sequence[Tensor]:
        os.pwrite(rig.memory.fd, b"\xff" * 64, 0)  # the client, during execution
        return [work.inputs[0].copy()]

    with Rig(simple(datatype), backend=Scripted(flip_then_read)) as rig:
        x = np.array([[1, 0]]).astype({"INT64": np.int64, "UINT8": np.uint8, "BOOL": np.bool_}[datatype])
        done = rig.run(request(rig.memory, x))
        np.testing.assert_array_equal(rig.memory.get(OUT, datatype, (1, 2)), x)
        assert copies(done)["snapshot"] == (1, x.nbytes)


def test_floats_are_not_copied_for_that() -> None:
    seen: list[int] = []

    def look(work: Work) -> Sequence[Tensor | None]:
        seen.append(work.inputs[0].ctypes.data)
        work.places[0][...] = work.inputs[0]  # type: ignore[index]
        return work.places

    with Rig(simple(), backend=Scripted(look)) as rig:
        done = rig.run(request(rig.memory, np.ones((1, 2), np.float32), at=40))
        assert seen == [rig.regions[1].address + 40]
        assert done.copies == []


def test_results_of_the_backends_own_are_copied_to_their_slots() -> None:
    with Rig(simple(), backend=Scripted(lambda work: [work.inputs[0] * 2])) as rig:
        x = np.arange(4, dtype=np.float32).reshape(2, 2)
        for _ in range(2):
            assert rig.run(request(rig.memory, x)).items == []
            np.testing.assert_array_equal(rig.memory.get(OUT, "FP32", (2, 2)), x * 2)
        rig.run(request(rig.memory, x), request(rig.memory, x + 1, at=64, out=OUT + 64))
        np.testing.assert_array_equal(rig.memory.get(OUT + 64, "FP32", (2, 2)), (x + 1) * 2)


# --- text --------------------------------------------------------------------------------------------------------------------


def texts(*values: bytes) -> Tensor:
    found = np.empty((len(values), 1), np.object_)
    found[:, 0] = values
    return found


def test_text_is_concatenated_and_goes_back_to_slots_and_memfds() -> None:
    with Rig(simple("BYTES", [1]), backend=Scripted(lambda work: [work.inputs[0]])) as rig:
        first, second = texts(b"a", b"\xff\x00bc"), texts(b"")
        done, fds = rig.run_with_fds(
            request(rig.memory, first, size=100), Placement(1, [rig.memory.put(1000, second)], [unplaced(0)])
        )
        assert [item.code for item in done.items] == ["", ""]
        (output,) = done.items[0].outputs
        assert (output.shape, output.byte_size) == ([2, 1], 13)
        assert rig.memory.text(OUT, 13, (2, 1)).tolist() == first.tolist()
        assert os.pread(fds[0], 100, 0) == b"\0\0\0\0"
        os.close(fds[0])


def test_text_that_does_not_fit_its_place_says_how_much_it_needs() -> None:
    with Rig(simple("BYTES", [1]), backend=Scripted(lambda work: [work.inputs[0]])) as rig:
        good, long = texts(b"good"), texts(b"x" * 10)
        done = rig.run(request(rig.memory, long, size=13), request(rig.memory, good, 500, OUT + 64, 13))
        assert done.items[0].message == "output 'y' of model 'm' needs 14 bytes, its place has 13"
        assert done.items[1].code == ""


def test_malformed_text_fails_its_request_alone() -> None:
    with Rig(simple("BYTES", [1]), backend=Scripted(lambda work: [work.inputs[0]])) as rig:
        good = texts(b"good")
        piece = rig.memory.put(500, np.frombuffer(b"\xff\xff\0\0abcd", np.uint8))
        claims_too_much = InputSlice(piece.region, piece.offset, piece.byte_size, [1, 1])
        malformed = Placement(1, [claims_too_much], [rig.memory.place(0, OUT, 99)])
        done = rig.run(malformed, request(rig.memory, good, 0, OUT + 100, 99))
        assert (done.items[0].code, done.items[0].fault) == ("INVALID_ARG", "caller")
        assert "expecting string of length 65535 but only 4 bytes available" in done.items[0].message
        assert rig.memory.text(OUT + 100, 8, (1, 1)).tolist() == [[b"good"]]


# --- whose rows are whose ----------------------------------------------------------------------------------------------------


def test_rows_that_were_reordered_for_execution_go_back_to_their_own_requests() -> None:
    with Rig(simple(), backend=Scripted(lambda work: [work.inputs[0] * 2])) as rig:
        # Given requests of one, two and three rows that lie in memory in another order than they came in
        tensors = [np.full((count, 2), count, np.float32) for count in (1, 2, 3)]
        places = [(512, OUT), (0, OUT + 100), (256, OUT + 200)]
        # When they are executed together
        done = rig.run(*(request(rig.memory, x, at, out) for x, (at, out) in zip(tensors, places, strict=True)))
        # Then each finds what was computed from its own rows
        assert done.items == []
        for x, (_, out) in zip(tensors, places, strict=True):
            np.testing.assert_array_equal(rig.memory.get(out, "FP32", x.shape), x * 2)


def test_a_failure_of_a_reordered_request_is_its_own() -> None:
    def fail_negative(work: Work) -> Sequence[Tensor]:
        (x,) = work.inputs
        work.failures.update({at: ModelError(f"row {at}") for at in range(len(x)) if x[at, 0] < 0})
        return [x * 2]

    with Rig(simple(), backend=Scripted(fail_negative)) as rig:
        good, bad = np.ones((1, 2), np.float32), -np.ones((1, 2), np.float32)
        done = rig.run(
            request(rig.memory, good, 512), request(rig.memory, good, 256, OUT + 64), request(rig.memory, bad, 0, OUT + 128)
        )
        assert [item.message for item in done.items] == ["", "", "row 0"]
        assert rig.memory.get(OUT, "FP32", (2,)).tolist() == [2, 2]


# --- placements that come again ----------------------------------------------------------------------------------------------


def test_the_oldest_placement_is_forgotten_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placements, "KEPT", 3)
    with Rig(simple(), backend=Scripted(lambda work: [work.inputs[0]])) as rig:
        for at in (0, 8, 16, 24, 32, 0):
            x = np.full((1, 2), at, np.float32)
            assert rig.run(request(rig.memory, x, at, OUT + at)).items == []
            assert rig.memory.get(OUT + at, "FP32", (2,)).tolist() == [at, at]
        offsets = [prepared.spans[0].offset for prepared in rig.runner._placements.kept.values()]
        assert offsets == [24, 32, 0]


# --- variable dims -----------------------------------------------------------------------------------------------------------


def first_half(work: Work) -> Sequence[Tensor]:
    return [work.inputs[0][:, : work.inputs[0].shape[1] // 2]]


def test_outputs_of_unknown_size_are_copied_and_described() -> None:
    with Rig(simple(dims=[-1]), backend=Scripted(first_half)) as rig:
        x = np.arange(12, dtype=np.float32).reshape(2, 6)
        done = rig.run(request(rig.memory, x), request(rig.memory, x + 1, at=100, out=OUT + 100))
        assert [item.outputs[0].shape for item in done.items] == [[2, 3], [2, 3]]
        np.testing.assert_array_equal(rig.memory.get(OUT + 100, "FP32", (2, 3)), x[:, :3] + 1)


def test_an_output_larger_than_its_place_fails_its_request_alone() -> None:
    with Rig(simple(dims=[-1]), backend=Scripted(first_half)) as rig:
        x = np.arange(12, dtype=np.float32).reshape(2, 6)
        done = rig.run(request(rig.memory, x, size=23), request(rig.memory, x, at=100, out=OUT + 100))
        assert done.items[0].message == "output 'y' of model 'm' needs 24 bytes, its place has 23"
        assert done.items[1].code == ""


def test_requests_of_another_shape_than_the_first_are_refused() -> None:
    with Rig(simple(dims=[-1]), backend=Scripted(first_half)) as rig:
        done = rig.run(
            request(rig.memory, np.ones((1, 4), np.float32)),
            request(rig.memory, np.ones((1, 6), np.float32), at=100, out=OUT + 100),
        )
        assert done.items[0].code == ""
        assert done.items[1].message == "input 'x' of model 'm' has shape [1, 6] in a batch of shape [1, 4]"


def test_a_model_without_a_batch_dimension_executes_requests_one_by_one() -> None:
    with Rig(simple(max_batch_size=0), backend=Scripted(lambda work: [work.inputs[0] + 1])) as rig:
        pieces = [
            Placement(1, [rig.memory.put(at * 8, np.full(2, at, np.float32))], [rig.memory.place(0, OUT + at * 8, 8)])
            for at in range(3)
        ]
        assert rig.run(*pieces).items == []
        assert rig.memory.get(OUT, "FP32", (6,)).tolist() == [1, 1, 2, 2, 3, 3]


# --- which outputs -----------------------------------------------------------------------------------------------------------


def two_outputs() -> ModelSpec:
    return spec_of("scripted", {"x": ("FP32", [2])}, {"y": ("FP32", [2]), "z": ("INT64", [1])})


def double_and_sign(work: Work) -> Sequence[Tensor]:
    x = work.inputs[0]
    both = [x * 2, np.sign(x[:, :1]).astype(np.int64)]
    return [both[output] for output in work.wanted]


def test_each_request_gets_the_outputs_it_asked_for_in_its_order() -> None:
    with Rig(two_outputs(), backend=Scripted(double_and_sign)) as rig:
        x = np.array([[-1, 2]], np.float32)
        done = rig.run(
            Placement(1, [rig.memory.put(0, x)], [rig.memory.place(1, OUT, 8), rig.memory.place(0, OUT + 8, 8)]),
            Placement(1, [rig.memory.put(64, -x)], [rig.memory.place(1, OUT + 64, 8)]),
        )
        assert done.items == []
        assert rig.memory.get(OUT, "INT64", (1,)).tolist() == [-1]
        assert rig.memory.get(OUT + 8, "FP32", (2,)).tolist() == [-2, 4]
        assert rig.memory.get(OUT + 64, "INT64", (1,)).tolist() == [1]


def test_unplaced_outputs_of_a_request_share_one_memfd_at_aligned_offsets() -> None:
    with Rig(two_outputs(), backend=Scripted(double_and_sign)) as rig:
        done, (fd,) = rig.run_with_fds(
            Placement(1, [rig.memory.put(0, np.ones((1, 2), np.float32))], [unplaced(0), unplaced(1)])
        )
        outputs = done.items[0].outputs
        assert [(output.output, output.offset, output.byte_size) for output in outputs] == [(0, 0, 8), (1, 64, 8)]
        assert os.fstat(fd).st_size == 72
        assert np.frombuffer(os.pread(fd, 8, 64), np.int64).tolist() == [1]
        os.close(fd)


# --- memory that shrinks -----------------------------------------------------------------------------------------------------


def shrinkable(number: int) -> Memory:
    fd = os.memfd_create("shrinkable", os.MFD_CLOEXEC)
    os.ftruncate(fd, 8192)
    return Memory(number, 8192, fd)


def test_an_isolated_region_is_read_and_written_without_being_mapped() -> None:
    with Rig(simple(), backend=Scripted(lambda work: [work.inputs[0] + 1]), isolate=True) as rig:
        other = rig.map(shrinkable(2), sealed=False)
        x = np.ones((2, 2), np.float32)
        for _ in range(2):
            assert rig.run(request(other, x, out=4096)).items == []
            np.testing.assert_array_equal(other.get(4096, "FP32", (2, 2)), x + 1)
        assert rig.run(request(other, x, at=16, out=4096), request(rig.memory, x)).items == []
        assert not rig.regions[2].is_mapped


@pytest.mark.parametrize("left", [0, 100])
def test_an_isolated_region_that_shrank_costs_its_own_request(left: int) -> None:
    with Rig(simple(), backend=Scripted(lambda work: [work.inputs[0] + 1]), isolate=True) as rig:
        other = rig.map(shrinkable(2), sealed=False)
        x = np.ones((1, 2), np.float32)
        doomed, fine = request(other, x, at=96, out=4096), request(rig.memory, x)
        os.ftruncate(other.fd, left)
        done = rig.run(doomed, fine)
        assert (done.items[0].code, done.items[0].fault) == ("INVALID_ARG", "caller")
        assert done.items[0].message.startswith("region shrank: 8 bytes at offset 96")
        assert done.items[1].code == ""
        np.testing.assert_array_equal(rig.memory.get(OUT, "FP32", (1, 2)), x + 1)
        assert os.fstat(other.fd).st_size == left


def test_what_cannot_be_read_is_zeros_and_nothing_of_an_earlier_batch() -> None:
    seen: list[Tensor] = []

    def look(work: Work) -> Sequence[Tensor]:
        seen.append(work.inputs[0].copy())
        return [work.inputs[0]]

    with Rig(simple(), backend=Scripted(look), isolate=True) as rig:
        other = rig.map(shrinkable(2), sealed=False)
        secret = np.full((1, 2), 42, np.float32)
        doomed, fine = request(other, secret, at=96, out=4096), request(rig.memory, secret)
        assert rig.run(doomed, fine).items == []
        os.ftruncate(other.fd, 0)
        assert [item.code for item in rig.run(doomed, fine).items] == ["INVALID_ARG", ""]
        assert sorted(seen[1].tolist()) == [[0, 0], [42, 42]]


def test_a_place_that_shrank_away_is_not_made_again() -> None:
    with Rig(simple(), backend=Scripted(lambda work: [work.inputs[0] + 1]), isolate=True) as rig:
        other = rig.map(shrinkable(2), sealed=False)
        doomed = request(other, np.ones((1, 2), np.float32), out=4096)
        os.ftruncate(other.fd, 4096)
        done = rig.run(doomed)
        assert done.items[0].message.startswith("region shrank: 8 bytes at offset 4096")
        assert os.fstat(other.fd).st_size == 4096


def test_sealed_regions_are_mapped_even_under_isolation() -> None:
    with Rig(simple(), backend=Scripted(lambda work: [work.inputs[0]]), isolate=True) as rig:
        assert rig.regions[1].is_mapped


# --- models that misbehave ---------------------------------------------------------------------------------------------------


def raises(kind: type[BaseException], *values: object) -> Callable[[Work], Sequence[Tensor]]:
    def script(_work: Work) -> Sequence[Tensor]:
        raise kind(*values)

    return script


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("count", [1, 2])
def test_what_a_model_raises_fails_its_batch_and_nothing_else(error: type[BaseException], count: int) -> None:
    backend = Scripted(raises(error, "bad luck"))
    with Rig(simple(), backend=backend) as rig:
        batch = [request(rig.memory, np.ones((1, 2), np.float32), at=at * 100, out=OUT + at * 100) for at in range(count)]
        done = rig.run(*batch)
        assert (done.message, done.code, done.fault, done.items) == ("bad luck", "INTERNAL", "model", [])
        backend.script = lambda work: [work.inputs[0]]
        assert (rig.run(*batch).message, rig.run(*batch).items) == ("", [])


def test_an_exception_without_text_is_named() -> None:
    with Rig(simple(), backend=Scripted(raises(ZeroDivisionError))) as rig:
        assert rig.run(request(rig.memory, np.ones((1, 2), np.float32))).message == "ZeroDivisionError"


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([], "returned 0 outputs, 1 were asked for"),
        ([None], "returned nothing for output 'y'"),
        ([np.zeros((1, 2))], "returned output 'y' as float64 [1, 2], its configuration says FP32 [1, 2]"),
        ([np.zeros((1, 3), np.float32)], "returned output 'y' as float32 [1, 3], its configuration says FP32 [1, 2]"),
        ([np.zeros(2, np.float32)], "returned output 'y' as float32 [2], its configuration says FP32 [1, 2]"),
    ],
)
def test_results_that_contradict_the_configuration_are_the_models_fault(results: list[Tensor | None], reason: str) -> None:
    with Rig(simple(), backend=Scripted(lambda _work: results)) as rig:
        for _ in range(2):
            done = rig.run(request(rig.memory, np.ones((1, 2), np.float32)))
            assert (done.message, done.fault) == (reason, "model")


def test_descriptors_that_are_refused_cost_only_the_requests_that_need_one() -> None:
    with Rig(simple(), backend=Scripted(lambda work: [work.inputs[0]])) as rig:
        x = np.ones((1, 2), np.float32)
        wants_memfd = Placement(1, [rig.memory.put(0, x)], [unplaced(0)])
        has_place = request(rig.memory, x, at=64)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            done = rig.run(wants_memfd, has_place)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (done.items[0].code, done.items[0].fault) == ("UNAVAILABLE", "machine")
        assert done.items[1].code == ""


def test_a_region_that_cannot_be_mapped_costs_the_requests_in_it() -> None:
    with Rig(simple(), backend=Scripted(lambda work: [work.inputs[0]])) as rig:
        gone = shrinkable(2)
        x = np.ones((1, 2), np.float32)
        doomed = request(gone, x, out=4096)
        os.ftruncate(gone.fd, 0)
        rig.map(gone, sealed=False)
        done = rig.run(doomed, request(rig.memory, x))
        assert (done.items[0].code, done.items[0].fault, done.items[1].code) == ("INVALID_ARG", "caller", "")
        assert "the memory holds 0 bytes" in done.items[0].message
        rig.regions.check_invariants()
        rig.regions.unmap(2)
        assert 2 not in rig.regions
