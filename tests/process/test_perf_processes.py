# SPDX-License-Identifier: Apache-2.0
"""Several client processes against a real broker: what they share, whose error ends it, and that none is left."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from running import LINKS, RunningBroker, add_model, children_of

from penstock.clients.perf.figures import Row
from penstock.clients.perf.measuring import Measurer
from penstock.clients.perf.plan import Plan, Point, Windows, memory_over
from penstock.clients.perf.processes import PROGRAM, ClientProcess
from penstock.clients.perf.target import TargetSpec
from penstock.clients.perf.targets import open_target
from penstock.ipc.errors import BrokerError, MachineError, ModelError

FEW = Windows(request_count=24, max_trials=3, warmup=2)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    folder = tmp_path_factory.mktemp("run")
    add_model(folder / "models", "echo")
    add_model(folder / "models", "failing", mode="failing")
    with RunningBroker(folder, folder / "models") as running:
        yield running


def rows_of(broker: RunningBroker, model: str, link: Any, *points: Point, said: Any = print, **more: Any) -> Iterator[Row]:
    options = {"processes": 2, "windows": FEW, "memory": memory_over(link, None)}
    spec = TargetSpec(link=link, address=broker.addresses[link], model=model)
    with closing(open_target(spec)) as target:
        yield from Measurer(target, Plan(points=points, **(options | more)), said).rows()


def clients() -> list[int]:
    """The client processes that run, or have not been reaped."""
    return [pid for pid in children_of(os.getpid()) if PROGRAM.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize("link", LINKS)
def test_they_share_a_load_and_their_figures_are_of_all(broker: RunningBroker, link: str) -> None:
    # When points of a closed and of an open loop are measured by three processes
    points = (Point(2, 4), Point(2, 2), Point(2, 32, request_rate=500))
    found = list(rows_of(broker, "echo", link, *points, processes=3))
    # Then requests of all are in a row, which needs no more processes than requests are in flight
    assert [(row.requests, row.failed, row.windows) for row in found] == [(72, 0, 3)] * 3
    assert [row.concurrency for row in found[:2]] == [4, 2]
    for row in found:
        # And stages still add up to the mean latency, nothing being left over but what rounding leaves
        assert row.stages.latency_ns == row.latencies.avg_ns
        assert abs(row.stages.unaccounted_ns) <= 4
        assert all(stage >= 0 for stage in row.stages[:-1])
    # And none is left
    assert clients() == []


def test_one_that_dies_ends_the_measurement(broker: RunningBroker) -> None:
    # Given a measurement in its second window
    said: list[str] = []
    killed: list[int] = []

    def say(text: str) -> None:
        said.append(text)
        if not killed:
            killed.append(clients()[-1])
            os.kill(killed[0], signal.SIGKILL)

    # When one of its processes is killed
    with pytest.raises(MachineError, match=r"client process [01] \(pid \d+\) was killed by signal 9") as caught:
        list(rows_of(broker, "echo", "local", Point(1, 2), said=say))
    # Then it is named, and the other has ended too
    assert str(killed[0]) in str(caught.value)
    assert clients() == []


def test_an_error_of_one_is_the_measurements(broker: RunningBroker) -> None:
    with pytest.raises(ModelError, match="failing as configured"):
        list(rows_of(broker, "failing", "local", Point(1, 2)))
    assert clients() == []


def test_interrupted_none_is_left(broker: RunningBroker) -> None:
    # Given a measurement that is interrupted after its first window
    def interrupt(_text: str) -> None:
        raise KeyboardInterrupt

    rows = rows_of(broker, "echo", "zmq", Point(1, 2), said=interrupt)
    # Then that is what its caller gets, and nothing runs any more
    with pytest.raises(KeyboardInterrupt):
        next(rows)
    assert clients() == []


def test_interrupted_in_the_middle_of_a_window_it_gives_those_before(broker: RunningBroker) -> None:
    # Given a measurement that is interrupted while its processes are at work, and that would go on for long
    timers: list[threading.Timer] = []

    def later(_text: str) -> None:
        if not timers:
            timers.append(threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1)))
            timers[0].start()

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    windows = Windows(interval_ms=400, max_trials=1000, stability_percentage=0)
    rows = rows_of(broker, "echo", "local", Point(1, 2), said=later, windows=windows)
    try:
        # Then the windows before that make a row, which is not called stable
        row = next(rows)
        assert row.notes[0].startswith("interrupted")
        assert row.windows >= 1 and row.requests > 0 and not row.is_stable
        # And who asks for more is interrupted, with nothing left that runs
        with pytest.raises(KeyboardInterrupt):
            next(rows)
    finally:
        for timer in timers:
            timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert clients() == []


def test_who_takes_one_row_only_leaves_none(broker: RunningBroker) -> None:
    rows = rows_of(broker, "echo", "local", Point(1, 2), Point(1, 4))
    next(rows)
    assert len(clients()) == 2
    rows.close()  # type: ignore[attr-defined]  # it is a generator
    assert clients() == []


def test_interrupted_while_one_is_waited_for_the_other_is_reaped_too(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a measurement by two processes, and an interruption while the first of them is ended
    closed: list[int] = []
    close = ClientProcess.close

    def interrupted(process: ClientProcess) -> None:
        close(process)
        closed.append(process.number)
        if len(closed) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(ClientProcess, "close", interrupted)
    rows = rows_of(broker, "echo", "local", Point(1, 2), Point(1, 4))
    next(rows)
    with pytest.raises(KeyboardInterrupt):
        rows.close()  # type: ignore[attr-defined]  # it is a generator
    assert sorted(closed) == [0, 1]
    assert clients() == []


def test_a_broker_that_dies_is_what_is_said(tmp_path: Path) -> None:
    # Given a measurement under way
    add_model(tmp_path / "models", "echo")
    with RunningBroker(tmp_path, tmp_path / "models") as running:
        rows = rows_of(
            running, "echo", "local", Point(1, 2), said=lambda _text: running.kill(), windows=Windows(interval_ms=50)
        )
        # When its broker is killed, then that is the error
        with pytest.raises(BrokerError, match="broker at "):
            next(rows)
    assert clients() == []
