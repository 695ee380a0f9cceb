# SPDX-License-Identifier: Apache-2.0
"""What keeps a part of bench/gpu.py that fails from costing the others: limits, reasons, figures on disk from the first on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from penstock.runtime.repository import schema
from penstock.runtime.repository.optimization import optimization_of

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of on_gpu, which is no package that is installed."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = signal.getsignal(signal.SIGALRM)
    from on_gpu import models, raw_side, report, scale

    yield SimpleNamespace(models=models, raw_side=raw_side, report=report, scale=scale)
    signal.signal(signal.SIGALRM, before)
    for name in [name for name in sys.modules if name.split(".")[0] == "on_gpu"]:
        del sys.modules[name]


def test_a_part_that_fails_costs_the_others_nothing(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scale = bench.scale.Scale(False, 100.0)

    def fails() -> list[Any]:
        raise ValueError("no such thing")

    assert scale.attempt("first", 1.0, fails) == []
    assert scale.attempt("second", 1.0, lambda: [{"x": 1}]) == [{"x": 1}]
    with scale.optional("third"):
        fails()
    assert scale.left_out == ["first: ValueError: no such thing", "third: ValueError: no such thing"]
    assert scale.has_failed
    assert "Traceback" in capsys.readouterr().err


def test_a_part_that_hangs_is_broken_off_and_what_gives_back_too(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a part that hangs, with a side that swallows what goes wrong, and that hangs again when it gives back what it has
    monkeypatch.setattr(bench.scale, "LENIENCE", 0.05)
    monkeypatch.setattr(bench.scale, "AGAIN_S", 0.05)
    scale = bench.scale.Scale(False, 100.0)
    never = threading.Event()

    def hangs() -> list[Any]:
        try:
            with scale.optional("a side"):
                never.wait()
        finally:
            never.wait()
        raise AssertionError("not reached")

    assert scale.attempt("it", 1.0, hangs) == []
    assert scale.left_out == ["it: TimeIsUpError: it took too long"]
    # Then the clock is off again
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_there_is_no_time_for_is_named(bench: Any) -> None:
    scale = bench.scale.Scale(False, 5.0)
    assert scale.attempt("it", 6.0, lambda: [{}]) == []
    assert scale.left_out == ["it: no time was left"] and scale.has_failed


def test_figures_are_on_disk_from_the_first_on(bench: Any, tmp_path: Path) -> None:
    head = {
        "rehearsal": "", "device": {"name": "GPU", "memory_gib": 1, "uuid": "u", "driver": "13.0", "runtime": "13.0"},
        "machine": {"packages": {}, "processor": "p", "cores": 1, "kernel": "k", "python": "3", "date": "2026-01-01"},
    }  # fmt: skip
    left_out: list[str] = []
    figures = bench.report.Figures(head, left_out, tmp_path / "new" / "gpu.json")
    row = {"model": "convnet", "busy_wait": "always", "memory": "memfd", "batch": 1, "p50_us": 100.0}
    figures.add("latency", [{**row, "beyond_raw_us": 90.0}])
    figures.add("latency", [{**row, "memory": "cuda", "beyond_infer_us": 90.0}])
    left_out.append("the rest: it was ended")
    figures.save()
    read = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert len(read["latency"]) == 2 and not read["complete"] and read["left_out"] == left_out
    # And what was asked is beside what was measured; that of a CUDA region needs no raw loop
    assert [goal["verdict"] for goal in read["goals"]] == ["missed by 0.010 ms", "met"]
    text = (tmp_path / "new" / "gpu.md").read_text()
    assert "Not complete" in text and "missed by 0.010 ms" in text
    figures.complete()
    assert "Not complete" not in (tmp_path / "new" / "gpu.md").read_text()
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["gpu.json", "gpu.md"]


def test_a_question_that_was_broken_off_is_not_answered_to_the_next(bench: Any, tmp_path: Path) -> None:
    # Given a raw side that answers each question by its number, and never the second
    program = tmp_path / "raw.py"
    program.write_text(
        "import sys, threading\nprint('{}', flush=True)\nfor line in sys.stdin:\n"
        "    if 'wait 1 2' in line: threading.Event().wait()\n    print('{\"asked\": \"%s\"}' % line.strip(), flush=True)\n"
    )
    with bench.raw_side.Raw(bench.models.IDENTITY, tmp_path) as raw:
        raw._command = [sys.executable, str(program)]
        raw._end()
        assert raw._ask("wait", 1, 1)["asked"] == "wait 1 1"
        pid = raw._process.pid

        def give_up(*_: object) -> None:
            raise TimeoutError

        signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(TimeoutError):
            raw._ask("wait", 1, 2)
        raw.check_invariants()
        # When it is asked again, another process answers
        assert raw._ask("wait", 1, 3)["asked"] == "wait 1 3"
        assert raw._process.pid != pid


def test_requests_differ_by_more_than_what_counts_as_equal(bench: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs torch")
    assert bench.models.build(tmp_path, "torch") == ""
    for network in (bench.models.IDENTITY, bench.models.CONVNET, bench.models.CHAIN):
        expected = bench.models.expected_of(network, 8, tmp_path)
        for one, x in enumerate(expected):
            assert [bench.models.is_right(x, other) for other in expected] == [one == at for at in range(len(expected))]
        assert all(array.shape == (8, *network.outputs) and array.dtype == np.float32 for array in expected)


def test_served_networks_have_graphs_as_the_raw_loop_has(bench: Any, tmp_path: Path) -> None:
    """Given each way of waiting, then its entries ask for a graph of each batch size that is measured, and differ in that alone."""
    found = {}
    for busy, rest in bench.models.BUSY.items():
        bench.models.add_entry(tmp_path, busy, bench.models.IDENTITY, tmp_path, rest=rest)
        config = schema.parse_text((tmp_path / busy / "config.pbtxt").read_text())
        found[busy] = optimization_of(config)
        assert found[busy].cuda_graphs
        assert [spec.batch_size for spec in found[busy].graph_specs] == list(bench.models.BATCHES)
    assert [each.busy_wait for each in found.values()] == [False, True]


@pytest.mark.timeout(120)
def test_a_run_that_is_ended_leaves_what_it_measured(tmp_path: Path, simulated_cuda: Any) -> None:
    # Given a run on a simulation that has measured its first latency
    file = tmp_path / "rehearsal.json"
    command = [sys.executable, str(BENCH / "gpu.py"), "--rehearse", "--json", str(file)]
    with subprocess.Popen(
        command, env=simulated_cuda.environment(PYTHONUNBUFFERED="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("(latency of"):
            assert process.poll() is None
        # When it is told to end
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate()
    # Then the figures are there, and say that they are not all
    assert process.returncode == 1
    read = json.loads(file.read_text())
    assert read["floors"] and not read["complete"] and read["left_out"][-1] == "the rest: it was ended from outside"
    assert "it was ended from outside" in printed
