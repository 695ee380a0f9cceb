# SPDX-License-Identifier: Apache-2.0
"""What a client asks for, checked and made: regions from Register, requests from Infer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from ..ipc.errors import CallerError, Code, invalid
from ..ipc.messages import Infer, Register
from ..ipc.regions import check_memfd, create_memfd
from ..ipc.system_regions import check_system, open_system
from .bindings import Binding, bind
from .known_gpus import check_gpu
from .models import ModelTable
from .regions import CudaMemory, Region, RegionNames, RegionRegistry
from .requests import InferRequest
from .sessions import BindingKey, Session
from .shared_regions import SharedRegions, user_of

ALIGNMENT = 64
HANDLE_BYTES = 64
"""CUDA_IPC_HANDLE_SIZE in driver_types.h."""
LARGEST = 2**63 - 1


class Registrant(NamedTuple):
    """Who registers memory: where its name goes, whose the memory must be, and which process it is (0: not known)."""

    names: RegionNames
    uid: int
    pid: int


def registrant(shared: SharedRegions, session: Session, message: Register) -> Registrant:
    """Who registers memory. Raises CallerError for a name that is taken, and for who is not known or may not."""
    if message.on_behalf >= 0:
        user_of(session, message.on_behalf)
        found = Registrant(shared.of(message.on_behalf), message.on_behalf, 0)
        if message.kind == "memfd":
            raise invalid(f"region '{message.name}': a memfd is its session's own, and is not shared on behalf of a user")
    elif session.peer is None:
        raise CallerError(
            f"region '{message.name}': a client whose uid is not known may send tensors inline only", Code.UNSUPPORTED
        )
    else:
        found = Registrant(session.regions, session.peer.uid, session.peer.pid)
    found.names.check_new(message.name)
    return found


def register(regions: RegionRegistry, who: Registrant, message: Register, fds: Sequence[int]) -> Region:
    """Registers memory. `message` names the GPU of CUDA memory by its uuid; the caller keeps `fds`.

    Raises CallerError; then nothing has changed.
    """
    try:
        region = _added(regions, message, fds, who)
    except CallerError as error:
        raise CallerError(f"region '{message.name}': {error.message}", error.code) from error
    region.key = message.key
    who.names.add(region)
    return region


def _added(regions: RegionRegistry, message: Register, fds: Sequence[int], who: Registrant) -> Region:
    name, kind, offset, byte_size = message.name, message.kind, message.offset, message.byte_size
    if kind == "cuda":
        cuda = CudaMemory(_handle(message, fds), check_gpu(message.uuid), who.pid, message.device_id)
        return regions.add(name, kind, -1, offset, byte_size, True, cuda)
    if message.handle or message.uuid:
        raise invalid(f"a {kind} region has neither a handle nor a GPU, which only CUDA memory has")
    is_memfd = kind == "memfd"
    fd = _memfd(message, fds) if is_memfd else _system(message, fds, who.uid)
    return regions.add(name, kind, fd, offset, byte_size, is_memfd)


def _handle(message: Register, fds: Sequence[int]) -> bytes:
    if fds:
        raise invalid("a cuda region is named by its handle and brings no descriptor")
    if message.key:
        raise invalid(f"a cuda region has no key, got {message.key!r}")
    if message.byte_size == 0:
        raise invalid("byte_size must be at least 1, got 0")
    if message.offset + message.byte_size > LARGEST:
        raise invalid(f"offset {message.offset} + byte_size {message.byte_size} is more than any memory has")
    if len(message.handle) != HANDLE_BYTES:
        raise invalid(f"the handle of CUDA memory has {HANDLE_BYTES} bytes (cudaIpcMemHandle_t), got {len(message.handle)}")
    if not any(message.handle):
        raise invalid("the handle of CUDA memory is all zeros: cudaIpcGetMemHandle gives one")
    return message.handle


def _memfd(message: Register, fds: Sequence[int]) -> int:
    if message.byte_size == 0:
        raise invalid("byte_size must be at least 1, got 0")
    if len(fds) != 1:
        raise invalid(f"a memfd region brings one descriptor over the local link, got {len(fds)}")
    if message.key:
        raise invalid(f"a memfd region has no key, got {message.key!r}")
    check_memfd(fds[0], message.offset + message.byte_size)
    return os.dup(fds[0])


def _system(message: Register, fds: Sequence[int], uid: int) -> int:
    if fds:
        raise invalid("a system region is named by its key and brings no descriptor")
    fd = open_system(message.key)
    try:
        check_system(fd, message.key, message.byte_size, message.offset, uid)
    except CallerError:
        os.close(fd)
        raise
    return fd


def admit(
    regions: RegionRegistry,
    shared: SharedRegions,
    models: ModelTable,
    session: Session,
    message: Infer,
    parts: Sequence[bytes],
    number: int,
    now_ns: int,
) -> InferRequest:
    """Makes a request of an Infer, its regions held until `RegionRegistry.release`. Raises PenstockError."""
    key = (message.model, message.version, bytes(message.inputs), bytes(message.outputs), message.on_behalf)
    binding = session.bindings.get(key)
    if binding is None or parts or not binding.model.accepts:
        binding = _bind(regions, shared, models, session, key, parts)
    for region in binding.regions:
        region.in_flight += 1
        if binding.single_use and region.kind == "inline":
            region.closing = True
    deadline = now_ns + message.deadline_us * 1000 if message.deadline_us else None
    return InferRequest(
        number, session.number, message.principal, binding.model.number, binding.rows, binding.shape_key, deadline, now_ns,
        client=session, client_id=message.id, binding=binding, explain=message.explain, priority=message.priority,
        timeout_ns=message.timeout_us * 1000, gpu=binding.bound_to,
    )  # fmt: skip


def _bind(
    regions: RegionRegistry, shared: SharedRegions, models: ModelTable, session: Session, key: BindingKey,
    parts: Sequence[bytes],
) -> Binding:  # fmt: skip
    name, version, inputs, outputs, on_behalf = key
    model = models.find(name, version)
    if not model.accepts:
        raise model.unavailable()

    def store(sizes: Sequence[int]) -> tuple[Region, list[int]]:
        return _store_inline(regions, parts, sizes)

    visible = shared.visible(session, on_behalf)
    binding = bind(model, visible, inputs, outputs, [len(part) for part in parts], store)
    if not binding.single_use:
        session.remember(key, binding)
    return binding


def _store_inline(regions: RegionRegistry, parts: Sequence[bytes], sizes: Sequence[int]) -> tuple[Region, list[int]]:
    """Writes inline tensors once, into a region that ends with the request."""
    offsets: list[int] = []
    total = 0
    for size in sizes:
        offsets.append(total)
        total += -(-size // ALIGNMENT) * ALIGNMENT
    fd = create_memfd("penstock-inline", max(total, ALIGNMENT))
    try:
        for part, offset in zip(parts, offsets, strict=True):
            _write(fd, part, offset)
    except OSError:
        os.close(fd)
        raise
    return regions.add("(inline)", "inline", fd, 0, max(total, ALIGNMENT), True), offsets


def _write(fd: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written
