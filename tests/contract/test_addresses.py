# SPDX-License-Identifier: Apache-2.0
"""How addresses are written, where the runtime directory is, and that nobody else's directory is used."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from penstock.ipc.addresses import (
    Address,
    default_local_path,
    default_zmq_address,
    ensure_runtime_dir,
    parse_address,
    runtime_dir,
)
from penstock.ipc.errors import CallerError, MachineError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PENSTOCK_ADDRESS", "PENSTOCK_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///run/p.sock", Address("local", "/run/p.sock")),
        ("/run/p.sock", Address("local", "/run/p.sock")),
        ("ipc:///run/p.zmq", Address("zmq", "ipc:///run/p.zmq")),
        ("tcp://127.0.0.1:5555", Address("zmq", "tcp://127.0.0.1:5555")),
        ("tcp://broker.example:0", Address("zmq", "tcp://broker.example:0")),
        ("tcp://[::1]:5555", Address("zmq", "tcp://[::1]:5555")),
        ("tcp://*:5555", Address("zmq", "tcp://*:5555")),
    ],
)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address
    assert address.is_tcp == text.startswith("tcp")


@pytest.mark.parametrize(
    "text",
    [
        "unix://relative", "relative", "unix://", "/", "/dir/", "ipc://", "ipc://@abstract", "ipc://*", "tcp://host", "tcp://:1",
        "tcp://host:", "tcp://host:x", "tcp://host:65536", "tcp://host:-1", "http://host:1", "udp://host:1", "unix:///a\0b",
    ],
)  # fmt: skip
def test_what_is_no_address_is_named_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(CallerError) as raised:
        parse_address(text)
    assert repr(text) in raised.value.message
    assert "unix:///PATH, /PATH, ipc:///PATH or tcp://HOST:PORT" in raised.value.message


def test_an_address_left_out_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_ADDRESS", "tcp://127.0.0.1:1")
    assert parse_address() == parse_address("") == Address("zmq", "tcp://127.0.0.1:1")
    assert parse_address("/given") == Address("local", "/given")


def test_without_either_it_is_the_default_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_RUNTIME_DIR", str(tmp_path))
    assert parse_address() == Address("local", str(tmp_path / "broker.sock"))
    assert default_local_path() == tmp_path / "broker.sock"
    assert parse_address(default_zmq_address()) == Address("zmq", f"ipc://{tmp_path}/broker.zmq")


def test_the_runtime_directory_is_the_first_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime_dir() == Path(f"/tmp/penstock-{os.geteuid()}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert runtime_dir() == Path("/run/user/7/penstock")
    monkeypatch.setenv("PENSTOCK_RUNTIME_DIR", "/chosen")
    assert runtime_dir() == Path("/chosen")


def test_a_missing_directory_is_made_for_its_owner_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_RUNTIME_DIR", str(tmp_path / "a" / "b"))
    old = os.umask(0)
    try:
        made = ensure_runtime_dir()
    finally:
        os.umask(old)
    assert made == tmp_path / "a" / "b"
    assert stat.S_IMODE(made.lstat().st_mode) == 0o700
    assert ensure_runtime_dir() == made


def test_a_directory_open_to_others_is_refused_and_not_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o755)
    with pytest.raises(CallerError, match=r"has mode 0755.*PENSTOCK_RUNTIME_DIR"):
        ensure_runtime_dir()
    assert stat.S_IMODE(tmp_path.lstat().st_mode) == 0o755


@pytest.mark.parametrize("what", ["file", "symlink"])
def test_what_is_no_directory_is_refused(what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "run"
    if what == "file":
        path.write_text("precious")
    else:
        (tmp_path / "real").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "real")
    monkeypatch.setenv("PENSTOCK_RUNTIME_DIR", str(path))
    for call in (ensure_runtime_dir, default_local_path, default_zmq_address):
        with pytest.raises(CallerError, match="is not a directory"):
            call()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_somebody_elses_directory_is_refused_by_broker_and_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_RUNTIME_DIR", str(tmp_path / "run"))
    ensure_runtime_dir()
    os.chown(tmp_path / "run", 12345, 12345)
    for call in (ensure_runtime_dir, default_local_path, default_zmq_address, parse_address):
        with pytest.raises(CallerError, match="belongs to uid 12345"):
            call()


def test_a_place_where_nothing_can_be_made_is_the_machines_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_RUNTIME_DIR", "/proc/penstock/run")
    with pytest.raises(MachineError, match="cannot make the runtime directory /proc/penstock/run"):
        ensure_runtime_dir()
