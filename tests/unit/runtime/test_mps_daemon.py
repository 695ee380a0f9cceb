# SPDX-License-Identifier: Apache-2.0
"""The MPS daemon on paper: who gets it, who waits for it, and what becomes of its users."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from scripted import CONFIG, ScriptedProcess

from penstock.ipc.errors import BrokerError
from penstock.ipc.messages import Gpu, LoadModel
from penstock.runtime.instances import Instance
from penstock.runtime.models import ServedModel
from penstock.runtime.mps.daemon import MpsDaemon, MpsState
from penstock.runtime.repository.configuration import parse_config
from penstock.runtime.settings import MpsMode

MS = 1_000_000
ENVIRONMENT = {"CUDA_MPS_PIPE_DIRECTORY": "/run/mps/pipe"}
UUID = "GPU-00000000-0000-0000-0000-000000000000"


class Bench:
    """A daemon whose program is the test, and the workers that it serves."""

    def __init__(self, mode: MpsMode = MpsMode.AUTO, is_theirs: bool = False) -> None:
        self.starts = 0
        self.unflushed: set[Instance] = set()
        self.daemon = MpsDaemon(mode, ENVIRONMENT, is_theirs, self._start, self.unflushed)
        self._model = ServedModel(1, parse_config(CONFIG, Path("config.pbtxt"), "echo"), 1, "/m/1")
        self._count = 0

    def _start(self) -> None:
        self.starts += 1

    def worker(self, sharing: int = 2, on_gpu: bool = True) -> Instance:
        """A worker that is told what to load: at once, or later."""
        self._count += 1
        process = ScriptedProcess(f"echo_0_{self._count}", {})
        (plan,) = self._model.config.workers()
        instance = Instance(self._count, plan, self._model, process, supervised=True)
        instance.gpu = UUID if on_gpu else ""
        gpu = Gpu(UUID) if on_gpu else None
        self.daemon.send(instance, LoadModel(self._model.spec, instance.name, "/m/1", gpu=gpu), sharing)
        self.daemon.check_invariants()
        return instance


def order(instance: Instance) -> LoadModel | None:
    """What the worker has been told to load."""
    queued = instance.process.link.queued  # type: ignore[attr-defined]
    return queued[-1] if queued else None


def expects_mps(bench: Bench, instance: Instance) -> bool:
    """Whether it has been told what to load, for it to be computed through the daemon."""
    assert order(instance) is not None
    return instance in bench.daemon._users


def is_killed(instance: Instance) -> bool:
    return bool(instance.process.killed)  # type: ignore[attr-defined]


def test_workers_that_share_a_gpu_wait_for_the_daemon_and_are_told_when_it_answers() -> None:
    # Given two workers on one GPU
    bench = Bench()
    assert bench.daemon.environment_for(2) == ENVIRONMENT
    first, second = bench.worker(), bench.worker()
    # Then one daemon is started, and nobody loads before it is there
    assert bench.starts == 1
    assert order(first) is None and order(second) is None
    # When it answers, both load, expecting it
    bench.daemon.answers()
    assert expects_mps(bench, first) and expects_mps(bench, second)
    assert bench.unflushed == {first, second}
    # And one that comes later need not wait
    assert expects_mps(bench, bench.worker())
    assert bench.starts == 1


def test_a_worker_alone_on_its_gpu_and_one_on_the_cpu_need_no_daemon() -> None:
    bench = Bench()
    assert bench.daemon.environment_for(1) == {}
    assert not expects_mps(bench, bench.worker(sharing=1))
    assert order(bench.worker(sharing=0, on_gpu=False)) is not None
    assert bench.starts == 0


def test_with_on_a_lone_worker_gets_one_too_but_not_one_on_the_cpu() -> None:
    bench = Bench(MpsMode.ON)
    assert order(bench.worker(sharing=1)) is None
    assert order(bench.worker(sharing=0, on_gpu=False)) is not None
    assert bench.daemon.environment_for(0) == {}
    assert bench.starts == 1


def test_with_off_none_is_started() -> None:
    bench = Bench(MpsMode.OFF)
    assert bench.daemon.environment_for(2) == {}
    assert not expects_mps(bench, bench.worker())
    assert bench.starts == 0


@pytest.mark.parametrize("mode", [MpsMode.AUTO, MpsMode.ON])
def test_a_daemon_of_the_users_own_is_used_and_not_touched(mode: MpsMode) -> None:
    bench = Bench(mode, is_theirs=True)
    assert bench.daemon.environment_for(2) == {}  # the broker's own environment names it
    assert expects_mps(bench, bench.worker(sharing=1))
    assert bench.starts == 0


def test_where_none_can_be_had_auto_does_without_and_says_what_that_means(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    first = bench.worker()
    with caplog.at_level(logging.WARNING):
        bench.daemon.ended("nvidia-cuda-mps-control: No such file or directory", 0)
    assert not expects_mps(bench, first)
    assert "No such file" in caplog.text and "take turns" in caplog.text
    # And nobody tries again
    assert not expects_mps(bench, bench.worker())
    assert bench.daemon.environment_for(2) == {}
    assert bench.starts == 1


def test_where_none_can_be_had_on_loads_nothing_and_says_why() -> None:
    bench = Bench(MpsMode.ON)
    first = bench.worker()
    bench.daemon.ended("nvidia-cuda-mps-control: No such file or directory", 0)
    late = bench.worker()
    for instance in (first, late):
        assert order(instance) is None and is_killed(instance)
        assert instance.load_error is not None
        assert "--mps on" in instance.load_error.message and "No such file" in instance.load_error.message


def test_a_daemon_that_dies_takes_its_users_along_and_comes_back_with_back_off() -> None:
    # Given a worker with and one without
    bench = Bench()
    user, other = bench.worker(), bench.worker(sharing=1)
    bench.daemon.answers()
    # When the daemon dies
    bench.daemon.ended("it died", 0)
    # Then its users' contexts are lost: they are ended at once, and not with their next batch
    assert is_killed(user) and "the MPS daemon is gone: it died" in user.verdict
    assert not is_killed(other)
    bench.daemon.gone(user)
    # And a new worker waits for the next daemon, which is started in a while
    again = bench.worker()
    assert order(again) is None
    assert bench.daemon.due_ns == 100 * MS
    bench.daemon.tick(100 * MS - 1)
    assert bench.starts == 1
    bench.daemon.tick(100 * MS)
    assert (bench.starts, bench.daemon.due_ns) == (2, None)
    bench.daemon.answers()
    assert expects_mps(bench, again)


def test_a_daemon_that_dies_too_often_is_given_up() -> None:
    bench = Bench()
    bench.worker()
    for crash in range(5):
        bench.daemon.answers()
        bench.daemon.ended("it died", crash * 1000 * MS)
        bench.daemon.check_invariants()
        if crash < 4:
            bench.daemon.tick(crash * 1000 * MS + 900 * MS)
    assert bench.daemon.state is MpsState.LOST
    assert "5 times in 60 s" in bench.daemon.reason
    assert not expects_mps(bench, bench.worker())


def test_a_worker_that_ended_while_it_waited_is_told_nothing() -> None:
    bench = Bench()
    gone, killed = bench.worker(), bench.worker()
    bench.daemon.gone(gone)
    killed.kill("its model is unloaded")
    bench.daemon.answers()
    assert order(gone) is None and order(killed) is None


def test_a_worker_that_expected_a_daemon_and_has_none_is_named(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    reaches, misses = bench.worker(), bench.worker()
    bench.daemon.answers()
    with caplog.at_level(logging.WARNING):
        bench.daemon.verify(reaches, has_mps=True)
        bench.daemon.verify(misses, has_mps=False)
    assert caplog.text.count("was to compute through MPS and does not") == 1
    assert (reaches.has_mps, misses.has_mps) == (True, False) and misses.load_error is None
    assert bench.daemon.describe()["workers"] == 1
    # And the daemon's end is none of its business
    bench.daemon.ended("it died", 0)
    assert is_killed(reaches) and not is_killed(misses)


def test_with_on_a_worker_that_does_not_reach_the_daemon_is_not_loaded() -> None:
    bench = Bench(MpsMode.ON)
    misses, on_host = bench.worker(), bench.worker()
    bench.daemon.answers()
    assert not bench.daemon.verify(misses, has_mps=False)
    assert misses.load_error is not None and misses.load_error.message.startswith("--mps on, and the worker does not reach")
    assert is_killed(misses)
    # One that computes text on the CPU has no use for it
    on_host.gpu = ""
    assert bench.daemon.verify(on_host, has_mps=False) and not is_killed(on_host)


def test_a_daemon_that_nobody_started_cannot_answer() -> None:
    with pytest.raises(BrokerError, match="cannot become running"):
        Bench().daemon.answers()
