# SPDX-License-Identifier: Apache-2.0
"""Programs beside bench/peers end with it, whatever happens; one that fails is named and costs the others nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from running import eventually

BENCH = Path(__file__).resolve().parents[2] / "bench"
OF_BENCH = ("peers", "measurement", "models", "server")

WITH_A_CHILD = """
import os, signal, sys
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
print("ready", flush=True)
signal.pause()
"""
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)\nwhile True: signal.pause()"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of bench/peers, which is no package that is installed."""
    monkeypatch.syspath_prepend(str(BENCH))
    from peers import environments, loads, processes, run, servers

    yield SimpleNamespace(environments=environments, loads=loads, processes=processes, run=run, servers=servers)
    for name in [name for name in sys.modules if name.split(".")[0] in OF_BENCH]:
        del sys.modules[name]


def says_ready(log: Path) -> bool:
    return "ready" in log.read_text()


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("program", [WITH_A_CHILD, DEAF], ids=["with a child that ignores SIGTERM", "that ignores SIGTERM"])
def test_a_program_ends_with_its_block_and_its_whole_group_with_it(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(peers.processes, "STOP_S", 0.2)
    log = tmp_path / "log"
    groups: list[int] = []

    def start_and_fail() -> None:
        with peers.processes.running([sys.executable, "-c", program], log) as process:
            groups.append(process.pid)
            peers.processes.wait_until(lambda: says_ready(log), process, log, 20.0)
            raise KeyError("whatever")

    with pytest.raises(KeyError, match="whatever"):
        start_and_fail()
    eventually(lambda: group_is_gone(groups[0]), 10.0, "nobody of the group is left")


STARTER = """
import sys
from pathlib import Path
from peers import processes
with processes.running([sys.executable, "-c", sys.argv[2]], Path(sys.argv[1])) as process:
    processes.wait_until(lambda: "ready" in Path(sys.argv[1]).read_text(), process, Path(sys.argv[1]), 20.0)
    print(process.pid, flush=True)
    sys.stdin.read()
"""


def test_a_program_and_its_children_end_though_who_started_it_is_killed(tmp_path: Path) -> None:
    # Given a program whose child ends by SIGKILL only
    command = [sys.executable, "-c", STARTER, str(tmp_path / "log"), WITH_A_CHILD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(BENCH)}
    ) as starter:
        assert starter.stdout is not None
        group = int(starter.stdout.readline())
        # When who started it is killed
        starter.kill()
    # Then nobody of the group is left
    eventually(lambda: group_is_gone(group), 30.0, "nobody of the group is left")


def test_the_watcher_leaves_alone_what_has_ended_and_what_never_began() -> None:
    watcher = [sys.executable, str(BENCH / "peers" / "watcher.py"), "0"]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as bystander:
        for told in (f"{bystander.pid}\nended\n", ""):
            assert subprocess.run(watcher, input=told, text=True, check=False, timeout=60).returncode == 0
            assert bystander.poll() is None
        bystander.communicate(b"\n")
    assert bystander.returncode == 0


def test_a_program_that_ends_before_it_is_ready_is_unavailable_with_its_last_words(peers: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "print('first'); raise SystemExit('no such library')"]
    with (
        peers.processes.running(command, log) as process,
        pytest.raises(peers.environments.UnavailableError, match=r"ended with 1: .*no such library"),
    ):
        peers.processes.wait_until(lambda: False, process, log, 20.0)


def test_a_load_that_does_not_end_is_given_up_and_one_that_fails_says_why(peers: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(peers.processes.CommandError, match=r"did not end within 0 s"):
        peers.processes.loaded([sys.executable, "-c", "import signal; signal.pause()"], log, os.getpid(), 0.0)
    with pytest.raises(peers.processes.CommandError, match=r"ended with 1: .*refused"):
        peers.processes.loaded([sys.executable, "-c", "raise SystemExit('refused')"], log, os.getpid(), 20.0)


def test_what_server_and_client_use_is_watched_while_the_load_runs(peers: Any, tmp_path: Path) -> None:
    busy = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass"
    with peers.processes.running([sys.executable, "-c", busy.format(60)], tmp_path / "server") as server:
        usage = peers.processes.loaded([sys.executable, "-c", busy.format(1.2)], tmp_path / "log", server.pid, 60.0)
    assert usage.server_cores > 0
    assert usage.client_cores > 0


@contextmanager
def fake_server(_logs: Path, _instances: int) -> Iterator[Any]:
    from peers.servers import Served

    yield Served("penstock", "1", os.getpid(), {"local": "unix://nowhere"})


@contextmanager
def missing_server(_logs: Path, _instances: int) -> Iterator[Any]:
    from peers.environments import UnavailableError

    raise UnavailableError("Triton is not built")
    yield


def test_a_peer_that_does_not_start_or_fails_at_a_load_is_named_and_the_others_are_measured(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a server that starts and one that does not, and two tools, one of which fails
    monkeypatch.setattr(peers.run, "SERVERS", {"penstock": fake_server, "triton": missing_server})
    asked: list[str] = []

    def measures(side: Any, *_: object) -> Any:
        asked.append(side.tool)
        return {"inferences_per_s": 10.0 * len(asked), "p50_us": 1.0}, peers.processes.Usage(0.5, 0.1)

    def fails(side: Any, *_: object) -> Any:
        asked.append(side.tool)
        raise peers.processes.CommandError("perf_analyzer ended with 99")

    monkeypatch.setattr(peers.loads, "TOOLS", {"penstock perf": measures, "perf_analyzer": fails})
    comparison = peers.run.Comparison(1.0, 3, tmp_path)
    with ExitStack() as stack:
        comparison.start(("penstock", "triton"), 1, stack)
        sides = [peers.loads.Side(comparison.servers["penstock"], "local", tool) for tool in peers.loads.TOOLS]
        # When two loads are measured, three rounds each
        for batch in (1, 8):
            comparison.measure(peers.loads.Point("identity", batch, 1), sides)
    # Then the one that measures has all its rounds, the order reversed in the second, and the other was tried once for each load
    assert asked[:4] == ["penstock perf", "perf_analyzer", "penstock perf", "penstock perf"]
    assert [(row["tool"], row["batch"], len(row["rounds"])) for row in comparison.rows] == [
        ("penstock perf", 1, 3), ("penstock perf", 8, 3),
    ]  # fmt: skip
    assert comparison.rows[0]["server_cpu_us"] == 16666.67  # half a core for 30 a second: the median of 10, 30 and 40
    # And what is missing is said once, with its loads
    assert comparison.left_out() == [
        "triton: Triton is not built",
        "penstock local, perf_analyzer: perf_analyzer ended with 99 (identity 1 x 1, identity 8 x 1)",
    ]


def test_a_run_that_is_told_to_end_has_written_what_it_measured(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers.run, "SERVERS", {"penstock": fake_server})
    monkeypatch.setattr(peers.run, "IDLE_S", 0.01)
    count = 0

    def measures(*_: object) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return {"inferences_per_s": 10.0}, peers.processes.Usage(0.5, 0.1)

    monkeypatch.setattr(peers.loads, "TOOLS", {"penstock perf": measures})
    file = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        peers.run.compare(peers.run.Comparison(1.0, 1, tmp_path), ["identity"], ["penstock"], 1, file)
    assert '"complete": false' in file.read_text()
    assert file.read_text().count('"inferences_per_s"') == 2  # of the row, and of its one round
