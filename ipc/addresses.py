# SPDX-License-Identifier: Apache-2.0
"""Where a broker listens: the runtime directory, the default addresses, and how addresses are written.

An address is `unix:///PATH` or `/PATH` (the local link), `ipc:///PATH` or `tcp://HOST:PORT` (ZeroMQ).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal, NamedTuple

from .errors import CallerError, MachineError, invalid

ADDRESS_VARIABLE = "PENSTOCK_ADDRESS"
RUNTIME_DIR_VARIABLE = "PENSTOCK_RUNTIME_DIR"
LOCAL_SOCKET_NAME = "broker.sock"
ZMQ_SOCKET_NAME = "broker.zmq"
_FORMS = "an address is unix:///PATH, /PATH, ipc:///PATH or tcp://HOST:PORT"


class Address(NamedTuple):
    """`target` is the socket's path for "local", and the endpoint as ZeroMQ writes it for "zmq"."""

    kind: Literal["local", "zmq"]
    target: str

    def __str__(self) -> str:
        """As `parse_address` reads it."""
        return f"unix://{self.target}" if self.kind == "local" else self.target

    @property
    def is_tcp(self) -> bool:
        """Whether it may lead to another machine: tensors go inline then."""
        return self.target.startswith("tcp://")


def runtime_dir() -> Path:
    """$PENSTOCK_RUNTIME_DIR, else $XDG_RUNTIME_DIR/penstock, else /tmp/penstock-UID. It need not exist."""
    chosen = os.environ.get(RUNTIME_DIR_VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    of_user = os.environ.get("XDG_RUNTIME_DIR")
    if of_user:
        return Path(of_user).absolute() / "penstock"
    return Path(f"/tmp/penstock-{os.geteuid()}")  # noqa: S108 - its owner and mode are checked before it is used


def ensure_runtime_dir() -> Path:
    """The runtime directory, made with mode 0700 where it is missing. Raises CallerError when it is open to other users."""
    path = runtime_dir()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        raise _unsafe(path, "is not a directory") from None
    except OSError as error:
        raise MachineError(f"cannot make the runtime directory {path}: {error.strerror}") from error
    _check_owner(path)
    mode = stat.S_IMODE(path.lstat().st_mode)
    if mode & 0o077:
        raise _unsafe(path, f"has mode {mode:04o}, which lets other users in; make it 0700")
    return path


def default_local_path() -> Path:
    """Where the local socket is by default. Raises CallerError when somebody else made the directory."""
    return _existing_is_ours(runtime_dir()) / LOCAL_SOCKET_NAME


def default_zmq_address() -> str:
    """The ZeroMQ endpoint by default. Raises as `default_local_path` does."""
    return f"ipc://{_existing_is_ours(runtime_dir()) / ZMQ_SOCKET_NAME}"


def parse_address(text: str | None = None) -> Address:
    """The address that `text` writes; None or "": $PENSTOCK_ADDRESS, else the default local socket. Raises CallerError."""
    text = text or os.environ.get(ADDRESS_VARIABLE) or f"unix://{default_local_path()}"
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "unix", text
    if scheme == "tcp":
        return Address("zmq", f"tcp://{_host_and_port(text, rest)}")
    if scheme not in {"unix", "ipc"}:
        raise invalid(f"address {text!r}: unknown scheme {scheme!r}; {_FORMS}")
    if not rest.startswith("/") or rest.endswith("/") or "\0" in rest:
        raise invalid(f"address {text!r}: {rest!r} is not an absolute path; {_FORMS}")
    return Address("local", rest) if scheme == "unix" else Address("zmq", f"ipc://{rest}")


def _host_and_port(text: str, rest: str) -> str:
    host, _, port = rest.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise invalid(f"address {text!r}: {rest!r} is not HOST:PORT; {_FORMS}")
    return f"{host}:{int(port)}"


def _existing_is_ours(path: Path) -> Path:
    if os.path.lexists(path):
        _check_owner(path)
    return path


def _check_owner(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise _unsafe(path, "is not a directory")
    if status.st_uid != os.geteuid():
        raise _unsafe(path, f"belongs to uid {status.st_uid}, not to {os.geteuid()}")


def _unsafe(path: Path, why: str) -> CallerError:
    return invalid(f"the runtime directory {path} {why} (set ${RUNTIME_DIR_VARIABLE} to use another)")
