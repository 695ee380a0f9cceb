# SPDX-License-Identifier: Apache-2.0
"""Processes that end together, and the identity of the process at the other end."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from penstock.ipc.peers import peer_from_zmq, peer_of
from penstock.ipc.processes import open_pidfd

PATIENCE_S = 20.0

PARENT = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
print(child.pid, child.stdout.readline().decode().strip(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
CHILD = """
import os, signal, sys, time
from penstock.ipc.processes import die_with_parent
signal.signal(signal.SIGTERM, signal.SIG_IGN)
die_with_parent(int(sys.argv[1]))
print("armed", flush=True)
signal.pause()
"""

HEAVY = """
import resource, sys
from penstock.ipc.processes import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory(64 << 20)

def make():
    return [bytearray(b"x") * 600_000 for _ in range(8)]

make()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    make()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_child_dies_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, word = parent.stdout.readline().split()
        assert word == "armed"
        try:
            pidfd = open_pidfd(int(pid))
        except ProcessLookupError:
            return  # it was faster than we are
        assert select.select([pidfd], [], [], PATIENCE_S)[0], "the child outlived its parent"
        os.close(pidfd)


def test_a_child_whose_parent_is_dead_already_dies_at_once() -> None:
    program = "from penstock.ipc.processes import die_with_parent; die_with_parent(1 << 22); print('alive')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")


def test_a_child_of_the_right_parent_lives() -> None:
    program = f"from penstock.ipc.processes import die_with_parent; die_with_parent({os.getpid()}); print('alive')"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "alive\n"


def test_a_pidfd_is_readable_when_the_process_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        pidfd = open_pidfd(process.pid)
        assert not os.get_inheritable(pidfd)
        assert not select.select([pidfd], [], [], 0)[0]
        process.kill()
        assert select.select([pidfd], [], [], PATIENCE_S)[0]
        os.close(pidfd)


def test_a_process_that_is_gone_has_no_pidfd() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(ProcessLookupError):
        open_pidfd(process.pid)


CONNECTING = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
{}
"""


def connect_from_another_process(path: str, then: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(PATIENCE_S)
        process = subprocess.Popen([sys.executable, "-c", CONNECTING.format(then), path])
        sock, _ = listener.accept()
    return process, sock


def test_the_peer_of_a_socket_is_the_process_that_connected(tmp_path: os.PathLike[str]) -> None:
    process, sock = connect_from_another_process(f"{os.fspath(tmp_path)}/s", "sock.recv(1)")
    peer = peer_of(sock)
    assert (peer.pid, peer.uid, peer.gid) == (process.pid, os.getuid(), os.getgid())
    assert peer.pidfd is not None
    assert not select.select([peer.pidfd], [], [], 0)[0]
    process.kill()
    assert select.select([peer.pidfd], [], [], PATIENCE_S)[0]
    process.wait()
    sock.close()
    os.close(peer.pidfd)


def test_the_death_of_a_peer_shows_though_a_forked_child_holds_its_socket(tmp_path: os.PathLike[str]) -> None:
    then = "import os, signal\nif os.fork() == 0:\n    sock.recv(1)\n    os._exit(0)\nsock.send(b'x')\nsignal.pause()"
    process, sock = connect_from_another_process(f"{os.fspath(tmp_path)}/s", then)
    assert sock.recv(1) == b"x"
    peer = peer_of(sock)
    assert peer.pidfd is not None
    process.kill()
    process.wait()
    assert select.select([peer.pidfd], [], [], PATIENCE_S)[0]
    assert not select.select([sock], [], [], 0)[0], "the child keeps the connection open: there is no end-of-file"
    sock.send(b"x")  # lets the child end
    assert sock.recv(1) == b""
    sock.close()
    os.close(peer.pidfd)


def test_a_peer_that_is_dead_already_has_its_identity_still(tmp_path: os.PathLike[str]) -> None:
    process, sock = connect_from_another_process(f"{os.fspath(tmp_path)}/s", "")
    process.wait()
    peer = peer_of(sock)
    assert (peer.pid, peer.uid) == (process.pid, os.getuid())
    if peer.pidfd is not None:  # a kernel that kept it: then it says so
        assert select.select([peer.pidfd], [], [], 0)[0]
        os.close(peer.pidfd)
    sock.close()


def test_what_zeromq_says_of_a_peer_is_read() -> None:
    peer = peer_from_zmq(f"localhost:1000:100:{os.getpid()}")
    assert peer is not None
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), 1000, 100)
    assert peer.pidfd is not None
    os.close(peer.pidfd)


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1", "::1", "localhost", "localhost:0:0", "localhost:0:0:x", "localhost:0:0:0", "a:1:1:1"]
)
def test_what_names_no_process_is_no_peer(text: str) -> None:
    assert peer_from_zmq(text) is None


def test_a_process_that_cannot_be_watched_is_no_peer_over_zeromq() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert peer_from_zmq(f"localhost:0:0:{process.pid}") is None


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_memory_that_is_freed_and_used_again_is_not_mapped_anew() -> None:
    """Given eight messages of 600 KB at once, again and again, then the kernel has no pages to add after the first time."""
    command = [sys.executable, "-c", HEAVY]
    added, otherwise = (
        int(subprocess.run([*command, *option], capture_output=True, check=True, timeout=PATIENCE_S).stdout)
        for option in (["keep"], [])
    )
    assert added * 10 < otherwise
