# SPDX-License-Identifier: Apache-2.0
"""The keeper of an MPS daemon: it says what becomes of it, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nvidia import with_mps_control, without_mps_control
from running import START_S, eventually, is_alive

from penstock.runtime.mps import keeper

Keeping = subprocess.Popen[bytes]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the keeper is to put the daemon's pipes and logs: in a runtime directory."""
    monkeypatch.setenv("PENSTOCK_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run" / "mps-1"


@contextmanager
def keeping(directory: Path, environment: dict[str, str]) -> Iterator[Keeping]:
    """A keeper as the broker starts it."""
    command = [sys.executable, "-m", "penstock.runtime.mps.keeper", str(directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment}, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def word(process: Keeping) -> str:
    """The next line that it says; "" when it has ended."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], START_S)
    assert readable, "the keeper says nothing"
    return process.stdout.readline().decode().strip()


def pids(directory: Path) -> list[int]:
    """The daemon and its server."""
    return list(map(int, (directory / "pipe" / "pids").read_text().split()))


def close(process: Keeping) -> int:
    """What the broker does, or the kernel for a dead one; the exit status."""
    assert process.stdin is not None
    process.stdin.close()
    return process.wait(START_S)


def test_a_daemon_answers_and_goes_with_everything_when_the_broker_is_gone(directory: Path, tmp_path: Path) -> None:
    # Given a daemon that answers
    with keeping(directory, {**with_mps_control(tmp_path / "bin"), "CUDA_VISIBLE_DEVICES": "1"}) as process:
        assert word(process) == "ready"
        assert (directory / "pipe" / "visible").read_text() == "all"  # the workers choose among all GPUs
        assert [oct(path.stat().st_mode & 0o777) for path in (directory, directory / "pipe", directory / "log")] == [
            "0o700"
        ] * 3
        daemon, server = pids(directory)
        assert is_alive(daemon) and is_alive(server)
        # When the broker's end of the pipe is closed
        assert close(process) == keeper.EXIT_TOLD
    # Then nothing is left, not even the server in its own session
    assert not is_alive(daemon) and not is_alive(server)
    assert not directory.exists()


def test_what_a_killed_broker_would_leave_goes_too(directory: Path, tmp_path: Path) -> None:
    # Given a broker, here a shell, that keeps a keeper, and dies of SIGKILL
    environment = {**os.environ, **with_mps_control(tmp_path / "bin")}
    program = (
        "import subprocess, sys; p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True); p.wait()"
    )
    command = [sys.executable, "-c", program, sys.executable, "-m", "penstock.runtime.mps.keeper", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as broker:
        assert word(broker) == "ready"
        daemon, server = pids(directory)
        broker.kill()
    # Then the keeper ends what it kept
    eventually(lambda: not is_alive(daemon) and not is_alive(server) and not directory.exists(), 10, "all of it is gone")


def test_a_daemon_that_dies_is_reported_and_its_server_ended(directory: Path, tmp_path: Path) -> None:
    with keeping(directory, with_mps_control(tmp_path / "bin")) as process:
        assert word(process) == "ready"
        daemon, server = pids(directory)
        os.kill(daemon, signal.SIGKILL)
        assert process.wait(START_S) == keeper.EXIT_DAEMON_DIED
    assert not is_alive(server)
    assert not directory.exists()


def test_a_daemon_that_does_not_quit_is_killed(directory: Path, tmp_path: Path) -> None:
    with keeping(directory, with_mps_control(tmp_path / "bin", "stubborn")) as process:
        assert word(process) == "ready"
        daemon, server = pids(directory)
        assert close(process) == keeper.EXIT_TOLD
    assert not is_alive(daemon) and not is_alive(server)


def test_a_daemon_that_cannot_be_started_is_a_reason(directory: Path, tmp_path: Path) -> None:
    with keeping(directory, with_mps_control(tmp_path / "bin", "refuses")) as process:
        assert word(process) == "failed nvidia-cuda-mps-control exited with status 1"
        assert process.wait(START_S) == keeper.EXIT_NOT_STARTED
    with keeping(directory, without_mps_control(tmp_path / "empty")) as process:
        assert word(process) == "failed nvidia-cuda-mps-control: No such file or directory"
        assert process.wait(START_S) == keeper.EXIT_NOT_STARTED
    assert not directory.exists()


def test_a_broker_that_leaves_while_the_daemon_is_silent_is_not_waited_for(directory: Path, tmp_path: Path) -> None:
    with keeping(directory, with_mps_control(tmp_path / "bin", "silent")) as process:
        eventually((directory / "pipe" / "pids").exists, START_S, "the daemon has begun")
        eventually(lambda: len(pids(directory)) == 2, START_S, "it has said who it is")
        daemon, server = pids(directory)
        assert close(process) == keeper.EXIT_TOLD
    assert not is_alive(daemon) and not is_alive(server)
