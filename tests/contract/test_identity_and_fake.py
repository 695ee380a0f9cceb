# SPDX-License-Identifier: Apache-2.0
"""What is particular to the two backends without a model file."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from worker_rig import Rig, Tensor, copies, spec_of

from penstock.ipc.errors import CallerError
from penstock.ipc.messages import Placement
from penstock.workers.backends import make_backend

OUT = 32768


def fake(**parameters: str) -> Rig:
    return Rig(spec_of("fake", {"x": ("FP32", [2])}, {"y": ("FP32", [2])}, **parameters))


def request(rig: Rig, x: Tensor, at: int = 0) -> Placement:
    return Placement(len(x), [rig.memory.put(at, x)], [rig.memory.place(0, OUT + at, x.nbytes)])


ONES = np.ones((1, 2), np.float32)


@pytest.mark.parametrize("backend", ["identity", "fake"])
def test_an_output_larger_than_its_input_is_refused_at_start(backend: str) -> None:
    with pytest.raises(CallerError, match="output 'y' has 7 elements, one of input 'x' that it copies only 6"):
        make_backend(backend).warm_up(spec_of(backend, {"x": ("FP32", [6])}, {"y": ("FP32", [7])}))


def test_another_datatype_is_refused_at_start() -> None:
    with pytest.raises(CallerError, match="output 'y' is INT32, input 'x' that it copies is FP32"):
        make_backend("identity").warm_up(spec_of("identity", {"x": ("FP32", [6])}, {"y": ("INT32", [6])}))


def test_more_outputs_than_inputs_are_refused_at_start() -> None:
    kind = ("FP32", [1])
    with pytest.raises(CallerError, match="2 outputs"):
        make_backend("identity").warm_up(spec_of("identity", {"x": kind}, {"y": kind, "z": kind}))


@pytest.mark.parametrize("backend", ["identity", "fake"])
def test_a_variable_output_is_the_whole_input(backend: str) -> None:
    with Rig(spec_of(backend, {"x": ("INT32", [-1])}, {"y": ("INT32", [-1])})) as rig:
        x = np.arange(6, dtype=np.int32).reshape(2, 3)
        done = rig.run(request(rig, x))
        assert done.items[0].outputs[0].shape == [2, 3]
        np.testing.assert_array_equal(rig.memory.get(OUT, "INT32", (2, 3)), x)


def test_a_row_too_short_for_a_fixed_output_is_the_callers_fault() -> None:
    with Rig(spec_of("identity", {"x": ("FP32", [-1])}, {"y": ("FP32", [3])})) as rig:
        short = Placement(1, [rig.memory.put(0, ONES)], [rig.memory.place(0, OUT, 12)])
        long = Placement(1, [rig.memory.put(100, np.ones((1, 4), np.float32))], [rig.memory.place(0, OUT + 100, 12)])
        done = rig.run(short, long)
        assert (done.items[0].code, done.items[0].fault, done.items[1].code) == ("INVALID_ARG", "caller", "")
        assert done.items[1].outputs[0].byte_size == 12
        assert rig.run(short).message.endswith("has 2 elements, output 'y' takes 3")


def test_identity_copies_shaped_rows_without_a_batch_dimension() -> None:
    with Rig(spec_of("identity", {"x": ("INT64", [2, 3])}, {"y": ("INT64", [2, 2])}, max_batch_size=0)) as rig:
        x = np.arange(6).reshape(2, 3)
        for _ in range(2):
            assert rig.run(Placement(1, [rig.memory.put(0, x)], [rig.memory.place(0, OUT, 32)])).items == []
            assert rig.memory.get(OUT, "INT64", (2, 2)).tolist() == [[0, 1], [2, 3]]


def test_an_unknown_mode_is_refused_with_those_there_are() -> None:
    with pytest.raises(CallerError, match="unknown mode 'sulking'; known are echo, slow, stalling, failing"):
        fake(mode="sulking")


def test_failing_fails_every_batch_with_its_message() -> None:
    with fake(mode="failing", message="on purpose") as rig:
        assert rig.run(request(rig, ONES)).message == "on purpose"
        assert rig.run(request(rig, ONES), request(rig, ONES, 64)).message == "on purpose"


@pytest.mark.parametrize("stage", ["load", "warm_up"])
def test_failing_elsewhere(stage: str) -> None:
    with pytest.raises(Exception, match="on purpose"):
        fake(mode="failing", message="on purpose", at=stage)


def test_flaky_fails_every_nth_batch() -> None:
    with fake(mode="flaky", fail_every="3") as rig:
        assert [bool(rig.run(request(rig, ONES)).message) for _ in range(6)] == [False, False, True] * 2


def test_stalling_takes_long_once() -> None:
    with fake(mode="stalling", stall_at="2", delay_ms="50") as rig:
        durations_s = []
        for _ in range(3):
            began_s = time.monotonic()
            assert not rig.run(request(rig, ONES)).message
            durations_s.append(time.monotonic() - began_s)
        assert max(durations_s) == durations_s[1] >= 0.05


def test_failing_items_fails_the_requests_with_nan_and_no_other() -> None:
    with fake(mode="failing_items") as rig:
        bad = np.array([[1, 1], [np.nan, 1]], np.float32)
        done = rig.run(request(rig, ONES), request(rig, bad, 64), request(rig, ONES * 3, 128))
        assert [item.code for item in done.items] == ["", "INTERNAL", ""]
        assert done.items[1].fault == "model"
        assert rig.memory.get(OUT + 128, "FP32", (2,)).tolist() == [3, 3]
        assert rig.run(request(rig, bad, 64)).code == "INTERNAL"
        assert rig.run(request(rig, np.ones_like(bad), 64)).code == ""  # the same placement with better content


def test_barrier_reports_its_rows_and_waits(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "barrier"))
        listener.listen()
        with fake(mode="barrier", barrier_path=str(tmp_path / "barrier")) as rig:
            batch = request(rig, ONES), request(rig, ONES, 64)
            reports: list[object] = []
            execution = threading.Thread(target=lambda: reports.append(rig.run(*batch)))
            execution.start()
            with listener.accept()[0] as entered:
                assert entered.recv(100) == b"entered 2\n"
                assert not reports
                entered.send(b"!")
                execution.join()
            assert len(reports) == 1


def test_the_fake_always_packs() -> None:
    with fake() as rig:
        assert copies(rig.run(request(rig, ONES), request(rig, ONES, 64))) == {"gather": (2, 16), "scatter": (2, 16)}
