# SPDX-License-Identifier: Apache-2.0
"""Addresses belong to one process at a time: refused, replaced, left alone, removed."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq
from link_pairs import broker_receives, make_pair

from penstock.ipc.codec import FrameDecoder
from penstock.ipc.errors import CallerError, Code, MachineError
from penstock.ipc.local import LocalListener
from penstock.ipc.messages import FromClient, Ping
from penstock.ipc.zeromq import RouterDoor


def bind(kind: str, path: Path) -> Any:
    return LocalListener(path) if kind == "local" else RouterDoor(f"ipc://{path}", FrameDecoder(FromClient))


both_kinds = pytest.mark.parametrize("kind", ["local", "ipc"])


@both_kinds
def test_a_socket_is_its_owners_only_and_goes_with_the_listener(kind: str, tmp_path: Path) -> None:
    listener = bind(kind, tmp_path / "s")
    mode = os.lstat(tmp_path / "s").st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    listener.close()
    listener.close()
    assert list(tmp_path.iterdir()) == []


@both_kinds
def test_a_second_one_is_refused_by_the_pid_of_the_first_which_goes_on(kind: str, tmp_path: Path) -> None:
    made = make_pair(kind, tmp_path)
    with pytest.raises(CallerError, match=f"in use by process {os.getpid()}") as raised:
        bind(kind, tmp_path / ("local.sock" if kind == "local" else "zmq.sock"))
    assert raised.value.code is Code.ALREADY_EXISTS
    made.client.put(Ping())
    made.client.flush()
    assert broker_receives(made) == [Ping()]
    made.close()


@both_kinds
def test_what_a_killed_one_left_is_replaced(kind: str, tmp_path: Path) -> None:
    program = f"""
import os, signal
from penstock.ipc.codec import FrameDecoder
from penstock.ipc.local import LocalListener
from penstock.ipc.messages import FromClient
from penstock.ipc.zeromq import RouterDoor
path = {str(tmp_path / "s")!r}
kept = LocalListener(path) if {kind!r} == "local" else RouterDoor("ipc://" + path, FrameDecoder(FromClient))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert (tmp_path / "s").is_socket()
    bind(kind, tmp_path / "s").close()
    assert list(tmp_path.iterdir()) == []


@both_kinds
def test_a_listener_that_knows_nothing_of_our_lock_is_not_robbed(kind: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(tmp_path / "s"))
        stranger.listen()
        with pytest.raises(CallerError, match=f"in use by process {os.getpid()}"):
            bind(kind, tmp_path / "s")
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


@both_kinds
@pytest.mark.parametrize("what", ["file", "directory", "symlink", "file in the lock's place", "directory in the lock's place"])
def test_what_is_no_socket_is_never_removed(kind: str, what: str, tmp_path: Path) -> None:
    obstacle = tmp_path / ("s.lock" if "lock" in what else "s")
    if "directory" in what:
        obstacle.mkdir()
    elif what == "symlink":
        obstacle.symlink_to(tmp_path / "elsewhere")
    else:
        obstacle.write_text("precious data")
    with pytest.raises((CallerError, MachineError), match=r"left alone|cannot make"):
        bind(kind, tmp_path / "s")
    assert [entry.name for entry in tmp_path.iterdir()] == [obstacle.name]
    if obstacle.is_file():
        assert obstacle.read_text() == "precious data"


@both_kinds
def test_closing_leaves_a_successors_socket_alone(kind: str, tmp_path: Path) -> None:
    listener = bind(kind, tmp_path / "s")
    (tmp_path / "s").unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(tmp_path / "s"))
        listener.close()
        assert (tmp_path / "s").is_socket()


@both_kinds
def test_closing_after_the_directory_is_gone_is_fine(kind: str, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    listener = bind(kind, directory / "s")
    for entry in directory.iterdir():
        entry.unlink()
    directory.rmdir()
    listener.close()


@both_kinds
def test_a_path_that_is_too_long_says_how_long_it_may_be(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="at most 107"):
        bind(kind, tmp_path / ("s" * 108))


def test_nobody_waiting_is_no_connection(tmp_path: Path) -> None:
    listener = LocalListener(tmp_path / "s")
    assert listener.accept() is None
    listener.close()


def test_without_descriptors_left_a_connection_is_refused_and_does_not_spin(tmp_path: Path) -> None:
    program = f"""
import os, resource, select, socket
from penstock.ipc.local import LocalListener
listener = LocalListener({str(tmp_path / "s")!r})
client = socket.socket(socket.AF_UNIX)
client.connect(listener.path)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
kept = []
try:
    while True:
        kept.append(os.dup(0))
except OSError:
    print(listener.accept(), listener.refused, client.recv(1), select.select([listener], [], [], 0)[0])
while kept:
    os.close(kept.pop())
client = socket.socket(socket.AF_UNIX)
client.connect(listener.path)
print(listener.accept()[0].fileno() > 0)
listener.close()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["None 1 b'' []", "True"]


def test_pyzmq_is_new_enough_for_a_socket_that_we_bind() -> None:
    assert zmq.zmq_version_info() >= (4, 3)
