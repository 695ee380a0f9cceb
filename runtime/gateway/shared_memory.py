# SPDX-License-Identifier: Apache-2.0
"""Triton's shared memory extensions: regions of the caller's user, in the broker's shared scope.

Texts and codes are those of Triton (its shared_memory_manager.cc, http_server.cc and grpc_server.cc), and what is refused for
a reason that Triton has not says so behind them. Offsets need no alignment here: Triton's have to be multiples of a page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ...ipc.errors import CallerError, Code, PenstockError, invalid
from ...ipc.messages import Register, Unregister
from ...ipc.system_regions import normalise_key
from .callers import Caller
from .link import BrokerLink
from .ranges import MOST
from .settings import GatewaySettings
from .unknown_models import LONGEST_NAME

Kind = Literal["system", "cuda"]

SPELLED = {"system": "system", "cuda": "CUDA"}
RESERVED = "triton_python_backend_shm_region_"
HANDLE_BYTES = 64
"""CUDA_IPC_HANDLE_SIZE in driver_types.h."""


class SharedMemory:
    """Registers, lists and forgets regions; the broker holds them, and they survive this process."""

    def __init__(self, link: BrokerLink, settings: GatewaySettings) -> None:
        self._link = link
        self._settings = settings

    def __repr__(self) -> str:
        return f"<SharedMemory of {self._link!r}>"

    async def register_system(self, caller: Caller, name: str, key: str, offset: int, byte_size: int) -> None:
        """Registers a POSIX segment of the caller's user. Raises CallerError."""
        self.check_allowed()
        self.check_name(name, "system")
        _check_key(name, key)
        if offset + byte_size > MOST:
            raise _refused(name, f"{byte_size} bytes at offset {offset} are more than any segment holds")

        def make(number: int, uid: int) -> Register:
            return Register(number, name, "system", byte_size, key, offset, on_behalf=uid)

        try:
            await self._register(caller, name, make)
        except PenstockError as error:
            if error.code is Code.NOT_FOUND:
                raise _cannot_open(key) from error
            if error.code is Code.INVALID_ARG:
                raise _refused(name, error.message.removeprefix(f"region '{name}': ")) from error
            raise

    async def register_cuda(self, caller: Caller, name: str, handle: bytes, device_id: int, byte_size: int) -> None:
        """Registers CUDA memory by its cudaIpcMemHandle_t. Raises CallerError."""
        self.check_allowed()
        self.check_name(name, "cuda")
        if len(handle) != HANDLE_BYTES or not 0 <= device_id <= MOST or byte_size > MOST:
            raise _refused_cuda(
                f"raw_handle has {len(handle)} bytes, of {HANDLE_BYTES}; device_id is {device_id}, byte_size {byte_size}"
            )

        def make(number: int, uid: int) -> Register:
            return Register(number, name, "cuda", byte_size, handle=handle, device_id=device_id, on_behalf=uid)

        try:
            await self._register(caller, name, make)
        except PenstockError as error:
            if error.code is not Code.INVALID_ARG:
                raise
            if not (await self._link.query("status"))["gpus"]:
                raise invalid(f"failed to register CUDA shared memory region: '{name}', GPUs not supported") from error
            raise _refused_cuda(error.message) from error

    async def unregister(self, caller: Caller, kind: Kind, name: str) -> None:
        """Forgets a region, or (no name) all of that kind. What is not there is forgotten already."""
        self.check_allowed()
        uid = caller.uid()
        if uid >= 0 and len(name) <= LONGEST_NAME:
            await self._link.ask(lambda number: Unregister(number, name, uid, kind))

    async def status(self, caller: Caller, kind: Kind, name: str) -> list[dict[str, Any]]:
        """The caller's regions of a kind by name, or the one of that name. Raises CallerError (NOT_FOUND)."""
        uid = caller.uid()
        found = [] if uid < 0 else await self._link.query("shared_regions", on_behalf=uid)
        if not name:
            return sorted((row for row in found if row["kind"] == kind), key=lambda row: str(row["name"]))
        row = next((row for row in found if row["name"] == name), None)
        if row is None:
            raise CallerError(f"Unable to find {kind} shared memory region: '{name}'", Code.NOT_FOUND)
        if row["kind"] != kind:
            raise CallerError(
                f"The region named '{name}' is registered as {SPELLED[row['kind']]} shared memory, not {SPELLED[kind]} "
                "shared memory", Code.NOT_FOUND,
            )  # fmt: skip
        return [row]

    async def _register(self, caller: Caller, name: str, make: Callable[[int, int], Register]) -> None:
        uid = caller.uid()
        if uid < 0:
            raise CallerError(
                f"failed to register shared memory region '{name}': it is not known which user of this machine asks "
                f"({caller.principal}); such clients send tensors inline", Code.UNSUPPORTED,
            )  # fmt: skip
        await self._link.ask(lambda number: make(number, uid))

    @staticmethod
    def check_name(name: str, kind: Kind) -> None:
        """Raises CallerError where a region is to be registered without a name, or with one that no message can carry."""
        if not name:
            raise invalid(f"'region name' is necessary to register {kind} shared memory region")
        if len(name) > LONGEST_NAME:
            raise _refused(
                f"{name[:LONGEST_NAME]}...", f"its name has {len(name)} characters, at most {LONGEST_NAME} are taken"
            )

    def check_allowed(self) -> None:
        """Raises CallerError (UNSUPPORTED) where clients may not register memory here."""
        if not self._settings.allow_client_shm:
            raise CallerError(
                "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.", Code.UNSUPPORTED
            )


def _check_key(name: str, key: str) -> None:
    """Triton's rules for keys. What else is no name of a segment cannot be opened there either."""
    bare = key.lstrip("/")
    if key and not bare:
        raise invalid(f"cannot register shared memory region '{name}' - invalid shm key '{key}'")
    if bare.startswith(RESERVED):
        raise invalid(
            f"cannot register shared memory region '{name}' with key '{key}' as the key contains the reserved prefix "
            f"'{RESERVED}'"
        )
    try:
        normalise_key(key)
    except CallerError as error:
        raise _cannot_open(key) from error


def _cannot_open(key: str) -> CallerError:
    return CallerError(f"Unable to open shared memory region: '{key}'", Code.INTERNAL)


def _refused(name: str, why: str) -> CallerError:
    return invalid(f"failed to register shared memory region '{name}': invalid args: {why}")


def _refused_cuda(why: str) -> CallerError:
    return invalid(f"failed to register shared memory region: invalid args: {why}")
