# SPDX-License-Identifier: Apache-2.0
"""Memory without and with a name: reserved, sealed, checked before it is trusted, mapped as long as somebody looks at it."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from penstock.ipc.available_memory import available_bytes
from penstock.ipc.errors import CallerError, Code, MachineError, PenstockError
from penstock.ipc.regions import Mapping, check_memfd, create_memfd
from penstock.ipc.system_regions import check_system, create_system, normalise_key, open_system, unlink_system

PAGE = mmap.PAGESIZE
ALL_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = create_memfd("test", 3 * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def key() -> Iterator[str]:
    name = f"/penstock-test-{uuid.uuid4().hex}"
    yield name
    unlink_system(name)


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """Stands in for a machine without memory: the kernel refuses to reserve more than this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = 16 * PAGE
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mappings_of(name: str) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if name in line]


def plain_memfd(byte_size: int, seals: int) -> int:
    fd = os.memfd_create("plain", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.posix_fallocate(fd, 0, byte_size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


# --- memfd ------------------------------------------------------------------------------------------------------------------


def test_what_we_make_passes_our_own_check(memfd: int) -> None:
    check_memfd(memfd, 3 * PAGE)
    assert os.fstat(memfd).st_size == 3 * PAGE
    assert not os.get_inheritable(memfd)


@pytest.mark.parametrize("byte_size", [1, 10 * PAGE])
def test_a_sealed_memfd_can_neither_shrink_nor_grow(memfd: int, byte_size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memfd, byte_size)


def test_the_seals_stay(memfd: int) -> None:
    with pytest.raises(PermissionError):
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_memory_is_reserved_when_it_is_made(memfd: int) -> None:
    assert os.fstat(memfd).st_blocks * 512 == 3 * PAGE


@pytest.mark.parametrize(
    ("seals", "missing"),
    [
        (0, "F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL"),
        (fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL, "F_SEAL_SHRINK"),
        (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL, "F_SEAL_GROW"),
        (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW, "F_SEAL_SEAL"),
    ],
)
def test_a_missing_seal_is_named(seals: int, missing: str) -> None:
    fd = plain_memfd(PAGE, seals)
    with pytest.raises(CallerError) as raised:
        check_memfd(fd, PAGE)
    assert raised.value.message.endswith(f"lacks the seals {missing}")
    os.close(fd)


def test_what_is_too_small_says_both_sizes(memfd: int) -> None:
    with pytest.raises(CallerError, match=f"holds {3 * PAGE} bytes, {3 * PAGE + 1} are needed"):
        check_memfd(memfd, 3 * PAGE + 1)


@pytest.mark.parametrize("what", ["file", "pipe", "socket", "directory"])
def test_what_is_no_memfd_is_refused(what: str, tmp_path: Path) -> None:
    if what == "pipe":
        fd, other = os.pipe()
        os.close(other)
    elif what == "socket":
        import socket

        fd = socket.socket(socket.AF_UNIX).detach()
    else:
        (tmp_path / "file").write_bytes(bytes(PAGE))
        fd = os.open(tmp_path if what == "directory" else tmp_path / "file", os.O_RDONLY)
    with pytest.raises(CallerError, match=r"is not a memfd|lacks the seals"):
        check_memfd(fd, PAGE)
    os.close(fd)


def test_what_a_worker_could_not_write_is_refused(memfd: int) -> None:
    sealed = plain_memfd(PAGE, ALL_SEALS | fcntl.F_SEAL_WRITE)
    reopened = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
    for fd in (sealed, reopened):
        with pytest.raises(CallerError, match="cannot be written"):
            check_memfd(fd, PAGE)
        os.close(fd)


def test_promised_memory_that_is_not_there_is_refused() -> None:
    fd = os.memfd_create("promised", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4 * PAGE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, ALL_SEALS)
    with pytest.raises(CallerError, match=f"0 of {4 * PAGE} bytes reserved"):
        check_memfd(fd, 4 * PAGE)
    os.close(fd)


def test_no_room_is_the_machines_refusal_with_sizes_and_leaks_nothing(file_size_limit: int) -> None:
    before, asked = open_descriptors(), file_size_limit + 1
    with pytest.raises(MachineError, match=rf"'big': {asked} bytes are not to be had \(File too large\), \d+ are available"):
        create_memfd("big", asked)
    assert open_descriptors() == before
    os.close(create_memfd("fits", file_size_limit))  # and it goes on when there is room


@pytest.mark.usefixtures("file_size_limit")  # the net under this test: without the check, it would take all there is
@pytest.mark.parametrize("byte_size", [available_bytes() + 2**30, 2**62, 2**70])
def test_a_reservation_that_cannot_succeed_is_not_begun(byte_size: int) -> None:
    before = open_descriptors()
    with pytest.raises(MachineError, match=rf"{byte_size} bytes are not to be had \(Cannot allocate memory\)"):
        create_memfd("huge", byte_size)
    assert open_descriptors() == before


def test_control_groups_limit_what_is_available(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups = [line.rstrip("\n").split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in groups:
        if controllers in {"", "memory"}:
            group = tmp_path / controllers / path.lstrip("/")
            group.mkdir(parents=True, exist_ok=True)
            (group / ("memory.limit_in_bytes" if controllers else "memory.max")).write_text(f"{4 * PAGE}\n")
    assert available_bytes() > 4 * PAGE
    monkeypatch.setattr("penstock.ipc.available_memory._CGROUPS", tmp_path)
    assert available_bytes() == 4 * PAGE


@pytest.mark.parametrize("byte_size", [0, -1])
def test_no_bytes_are_no_memory(byte_size: int) -> None:
    with pytest.raises(CallerError, match=f"at least 1, got {byte_size}"):
        create_memfd("none", byte_size)


# --- mapping ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("byte_size", "offset"), [(3 * PAGE, 0), (100, 1), (PAGE, PAGE + 13), (1, 3 * PAGE - 1)])
def test_a_mapping_shows_the_bytes_at_any_offset(memfd: int, byte_size: int, offset: int) -> None:
    content = np.random.default_rng(0).integers(0, 256, 3 * PAGE, np.uint8)
    os.pwrite(memfd, content.tobytes(), 0)
    with Mapping(memfd, byte_size, offset) as mapping:
        mapping.check_invariants()
        assert np.array_equal(mapping.array, content[offset : offset + byte_size])
        assert mapping.address == mapping.array.ctypes.data
        mapping.array[:] = 7
    assert os.pread(memfd, byte_size, offset) == b"\7" * byte_size
    mapping.check_invariants()


def test_two_mappings_are_the_same_memory(memfd: int) -> None:
    with Mapping(memfd, PAGE) as one, Mapping(memfd, PAGE) as other:
        one.array[5] = 99
        assert other.array[5] == 99


def test_a_view_keeps_the_memory_mapped_after_close(memfd: int) -> None:
    # Given views of a mapping, one of them typed
    name = "memfd:test"
    mapping = Mapping(memfd, PAGE)
    view = mapping.array[:400].view(np.float32)
    view[:] = 1.5
    # When the mapping is closed, twice
    mapping.close()
    mapping.close()
    mapping.check_invariants()
    # Then the view lives on, and the memory goes with it
    assert float(view.sum()) == 150.0
    view[0] = 2.5
    assert os.pread(memfd, 4, 0) == np.float32(2.5).tobytes()
    assert len(mappings_of(name)) == 1
    del view
    gc.collect()
    assert mappings_of(name) == []


def test_a_mapping_without_views_goes_at_once(memfd: int) -> None:
    before = open_descriptors()
    mapping = Mapping(memfd, PAGE)
    assert len(mappings_of("memfd:test")) == 1
    mapping.close()
    assert mappings_of("memfd:test") == []
    assert open_descriptors() == before
    assert mapping.address == 0
    assert len(mapping.array) == 0


def test_memory_outlives_the_descriptor_it_was_mapped_from() -> None:
    fd = create_memfd("short-lived", PAGE)
    mapping = Mapping(fd, PAGE)
    os.close(fd)
    mapping.array[0] = 1
    assert mapping.array[0] == 1
    mapping.close()


def test_views_that_are_left_at_the_end_of_a_program_make_no_noise() -> None:
    program = """
import os
from penstock.ipc.regions import Mapping, create_memfd
fd = create_memfd("left", 4096)
mapping = Mapping(fd, 4096)
view = mapping.array[10:20]
with mapping:
    pass
print(int(view.sum()))
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize(
    ("byte_size", "offset"), [(3 * PAGE + 1, 0), (1, 3 * PAGE), (PAGE, 100 * PAGE), (2**62, 0), (2**64, 0), (1, 2**70)]
)
def test_what_reaches_beyond_the_memory_is_refused(memfd: int, byte_size: int, offset: int) -> None:
    before = open_descriptors()
    with pytest.raises(CallerError, match=f"cannot map {byte_size} bytes at offset {offset}: the memory holds {3 * PAGE}"):
        Mapping(memfd, byte_size, offset)
    assert open_descriptors() == before


@pytest.mark.parametrize(("byte_size", "offset"), [(0, 0), (-1, 0), (1, -1)])
def test_what_is_no_range_is_refused(memfd: int, byte_size: int, offset: int) -> None:
    with pytest.raises(CallerError, match="cannot map"):
        Mapping(memfd, byte_size, offset)


def test_what_cannot_be_written_cannot_be_mapped(memfd: int) -> None:
    fd = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
    with pytest.raises(MachineError, match="Permission denied"):
        Mapping(fd, PAGE)
    os.close(fd)


# --- system -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["name", "/name", "///name"])
def test_a_key_may_have_any_number_of_leading_slashes(given: str) -> None:
    assert normalise_key(given) == "/name"


@pytest.mark.parametrize("bad", ["", "/", "//", "a/b", "/a/b", "..", "/..", ".", "../x", "a\0b", "x" * 255, "é" * 128])
def test_what_is_no_key_is_refused_by_name(bad: str) -> None:
    with pytest.raises(CallerError, match="invalid shared memory key"):
        normalise_key(bad)


@pytest.mark.parametrize("prefix", ["triton_python_backend_shm_region_", "sem."])
def test_reserved_keys_are_refused(prefix: str) -> None:
    with pytest.raises(CallerError, match=f"reserved prefix '{prefix}'"):
        normalise_key(f"//{prefix}1")


def test_a_segment_is_made_opened_checked_and_removed(key: str) -> None:
    made = create_system(key, 2 * PAGE)
    opened = open_system("/" + key)
    check_system(opened, key, PAGE, PAGE, os.geteuid())
    status = os.fstat(made)
    assert (status.st_size, status.st_blocks * 512, status.st_mode & 0o777) == (2 * PAGE, 2 * PAGE, 0o600)
    assert not os.get_inheritable(made)
    assert not os.get_inheritable(opened)
    with Mapping(made, PAGE) as one, Mapping(opened, PAGE) as other:
        one.array[0] = 42
        assert other.array[0] == 42
    unlink_system(key)
    unlink_system(key)  # gone already: nothing happens
    os.pwrite(made, b"x", 0)  # the memory lives on in its descriptors
    assert os.pread(opened, 1, 0) == b"x"
    os.close(made)
    os.close(opened)


def test_a_key_that_exists_is_not_taken_over(key: str) -> None:
    os.close(create_system(key, PAGE))
    before = open_descriptors()
    with pytest.raises(CallerError) as raised:
        create_system(key, PAGE)
    assert raised.value.code is Code.ALREADY_EXISTS
    assert open_descriptors() == before


def test_a_key_that_nobody_made_is_named_as_it_was_given() -> None:
    with pytest.raises(CallerError, match="unable to open shared memory region: '//nobody-made-this'") as raised:
        open_system("//nobody-made-this")
    assert raised.value.code is Code.NOT_FOUND


def test_no_room_for_a_segment_leaves_neither_name_nor_descriptor(key: str, file_size_limit: int) -> None:
    before = open_descriptors()
    with pytest.raises(MachineError, match=f"{file_size_limit + 1} bytes are not to be had"):
        create_system(key, file_size_limit + 1)
    assert open_descriptors() == before
    assert not Path("/dev/shm", key.lstrip("/")).exists()


def check(fd: int, key: str, byte_size: int = PAGE, offset: int = 0, uid: int | None = None) -> None:
    check_system(fd, key, byte_size, offset, os.geteuid() if uid is None else uid)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fd, key: check(fd, key, uid=os.geteuid() + 1), "does not belong to uid"),
        (lambda fd, key: check(fd, key, PAGE + 1), f"holds {PAGE} bytes, {PAGE + 1} at offset 0 need more"),
        (lambda fd, key: check(fd, key, 1, PAGE), f"holds {PAGE} bytes, 1 at offset {PAGE} need more"),
        (lambda fd, key: check(fd, key, 2**63 - 1, 2**63 - 1), "need more"),
        (lambda fd, key: check(fd, key, 0), "cannot use 0 bytes"),
        (lambda fd, key: check(fd, key, 1, -1), "at offset -1"),
    ],
)
def test_a_segment_that_does_not_fit_the_claim_is_refused(key: str, call: Callable[[int, str], None], message: str) -> None:
    fd = create_system(key, PAGE)
    with pytest.raises(CallerError) as raised:
        call(fd, key)
    assert message in raised.value.message
    assert repr(key) in raised.value.message
    os.close(fd)


def test_what_is_no_segment_is_refused() -> None:
    directory = os.open("/dev/shm", os.O_RDONLY)
    with pytest.raises(CallerError, match="does not belong"):
        check_system(directory, "x", 1, 0, os.fstat(directory).st_uid)
    os.close(directory)


def test_a_symbolic_link_in_place_of_a_segment_is_not_followed(key: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(PAGE))
    Path("/dev/shm", key.lstrip("/")).symlink_to(tmp_path / "secret")
    with pytest.raises(PenstockError, match="unable to open"):
        open_system(key)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_segment_is_refused_without_a_word_about_it(key: str) -> None:
    fd = create_system(key, PAGE)
    os.fchown(fd, 12345, 12345)
    with pytest.raises(CallerError) as raised:
        check(fd, key)
    assert "12345" not in raised.value.message
    os.close(fd)


def test_the_end_of_another_process_that_opened_a_segment_does_not_remove_it(key: str) -> None:
    fd = create_system(key, PAGE)
    program = f"import os; from penstock.ipc.system_regions import open_system; os.close(open_system({key!r}))"
    subprocess.run([sys.executable, "-c", program], check=True)
    os.close(open_system(key))
    os.close(fd)
