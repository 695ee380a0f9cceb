# SPDX-License-Identifier: Apache-2.0
"""Where a broker would listen, and whether one does and answers over both links."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from ....ipc.addresses import default_local_path, default_zmq_address, runtime_dir
from ....ipc.socket_paths import MAX_PATH_BYTES
from .finding import Finding, Verdict

PATIENCE_S = 3.0


def directory() -> Iterator[Finding]:
    """Runtime directory: where sockets are made unless an address is given."""
    path = str(runtime_dir())
    try:
        found: os.stat_result | None = os.lstat(path)
    except FileNotFoundError:
        found = None
    longest = max(len(os.fsencode(name)) for name in (str(default_local_path()), default_zmq_address().partition("://")[2]))
    yield judge_directory(path, found, longest, os.geteuid())


def judge_directory(path: str, found: os.stat_result | None, longest: int, uid: int) -> Finding:
    """`longest`: bytes of the longest socket path in it."""
    what, fix = "runtime directory", "set PENSTOCK_RUNTIME_DIR to a short path of your own"
    if longest > MAX_PATH_BYTES:
        text = f"{path}: socket paths of {longest} bytes"
        return Finding(what, Verdict.PROBLEM, text, f"a socket's path has at most {MAX_PATH_BYTES} bytes", fix)
    if found is None:
        return Finding(what, Verdict.OK, f"{path} will be made")
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
        return Finding(what, Verdict.PROBLEM, f"{path} is not a directory of uid {uid}", "a broker refuses to use it", fix)
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = f"{stat.S_IMODE(found.st_mode):o}"
        return Finding(what, Verdict.PROBLEM, f"{path} has mode {mode}", "others could reach the sockets", f"chmod 700 {path}")
    return Finding(what, Verdict.OK, path)


def local_link() -> Iterator[Finding]:
    """Broker, local link."""
    path = str(default_local_path())
    yield judge_answer("broker, local link", path, os.path.lexists(path), lambda: _ask_locally(path))


def zeromq() -> Iterator[Finding]:
    """Broker, ZeroMQ: asked by wire.py, the client that shares no code with the broker."""
    address = default_zmq_address()
    exists = os.path.lexists(address.partition("://")[2])
    yield judge_answer("broker, ZeroMQ", address, exists, lambda: _ask_by_wire(address))


def judge_answer(what: str, address: str, exists: bool, ask: Callable[[], int]) -> Finding:
    """`ask` returns the broker's pid, or raises."""
    if not exists:
        return Finding(what, Verdict.OK, f"none runs at {address}", "", "penstock serve REPOSITORY")
    try:
        return Finding(what, Verdict.OK, f"process {ask()} answers at {address}")
    except Exception as error:  # noqa: BLE001 - zmq's, msgpack's, ours: whatever it is, no broker answers
        consequence = "a socket is there, but no broker answers: it was killed, or is stopped"
        fix = "penstock serve replaces a stale socket; see ps for one that hangs"
        return Finding(what, Verdict.WARNING, f"{address}: {type(error).__name__}: {error}", consequence, fix)


def _ask_locally(path: str) -> int:
    from ...client import Client

    with Client(path, name="penstock doctor", connect_timeout_s=0.0) as client:
        return int(client.status()["pid"])


def _ask_by_wire(address: str) -> int:
    from ...wire import WireClient

    client = WireClient(address, PATIENCE_S)
    try:
        return int(client.query("status")["pid"])
    finally:
        client.close()
