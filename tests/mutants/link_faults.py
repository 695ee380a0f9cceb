# SPDX-License-Identifier: Apache-2.0
"""Faults of what crosses a process boundary: frames, descriptors, the bytes of tensors, memory."""

from __future__ import annotations

from fault import Fault

CODEC = "ipc/codec.py"
LOCAL = "ipc/local.py"
DESCRIPTORS = "ipc/descriptors.py"
TENSORS = "ipc/tensors.py"
REGIONS = "ipc/regions.py"

FRAMES = "tests/unit/test_codec.py::"
DATATYPES = "tests/unit/test_tensors.py::"
LOCAL_LINK = "tests/contract/test_local_link.py::"
ANY_LINK = "tests/contract/test_links.py::"
MEMORY = "tests/contract/test_regions.py::"

FAULTS = (
    Fault(
        "a frame's length is big-endian",
        LOCAL,
        'struct.Struct("<I")',
        'struct.Struct(">I")',
        (f"{LOCAL_LINK}test_frames_may_be_cut_anywhere",),
    ),
    Fault(
        "the beginning of a frame that is not complete is lost",
        LOCAL,
        "self._pending = bytearray(source[at:])",
        "self._pending = bytearray()",
        (f"{LOCAL_LINK}test_frames_may_be_cut_anywhere",),
    ),
    Fault(
        "a frame of any size is received",
        LOCAL,
        "if size > self._max_frame_bytes:",
        "if size > 2**32:",
        (f"{LOCAL_LINK}test_an_announced_oversized_frame_is_refused_before_it_is_read",),
    ),
    Fault(
        "a frame of any size is sent",
        LOCAL,
        "if len(frame) <= self._max_frame_bytes:",
        "if len(frame) <= 2**32:",
        (f"{ANY_LINK}test_one_message_that_is_too_large_is_refused_and_its_neighbours_are_sent[local]",),
    ),
    Fault(
        "what a full socket took is sent again",
        LOCAL,
        "outgoing[0] = (rest[written:], [])",
        "outgoing[0] = (rest, [])",
        (f"{ANY_LINK}test_a_reader_that_does_not_read_loses_nothing_and_the_backlog_says_how_much_waits[local]",),
    ),
    Fault(
        "a message overtakes those that wait for the socket",
        LOCAL,
        "if not self._queued_fds and not self._outgoing:",
        "if not self._queued_fds:",
        (f"{ANY_LINK}test_a_message_comes_after_those_that_wait_already[local]",),
    ),
    Fault(
        "descriptors stay open here when they were sent",
        LOCAL,
        "close_all(fds)  # they went with the first byte",
        "pass",
        (f"{LOCAL_LINK}test_descriptors_are_taken_in_order_whatever_frame_and_call_brought_them",),
    ),
    Fault(
        "descriptors are taken in another order than they came",
        DESCRIPTORS,
        "taken = self._fds[:count]",
        "taken = self._fds[:count][::-1]",
        (f"{LOCAL_LINK}test_descriptors_are_taken_in_order_whatever_frame_and_call_brought_them",),
    ),
    Fault(
        "lost descriptors go unnoticed",
        DESCRIPTORS,
        "if truncated:",
        "if truncated and undeclared:",
        (f"{LOCAL_LINK}test_too_many_open_files_at_the_receiver_is_said_and_leaks_none",),
    ),
    Fault(
        "descriptors that no message declares pile up",
        DESCRIPTORS,
        "if undeclared:",
        "if undeclared and truncated:",
        (f"{LOCAL_LINK}test_descriptors_that_no_message_declares_end_the_connection",),
    ),
    Fault(
        "a bad message costs its neighbours",
        CODEC,
        "messages.append(_bad_message(raw, error))",
        "messages = [_bad_message(raw, error)]",
        (f"{FRAMES}test_a_bad_message_costs_itself_and_not_its_neighbours",),
    ),
    Fault(
        "what a bad message says of itself is believed",
        CODEC,
        "if type(value) is int and 0 <= value < 2**63",
        "if type(value) is int and value < 2**63",
        (f"{FRAMES}test_what_a_bad_message_says_of_itself_is_not_believed_blindly",),
    ),
    Fault(
        "a frame brings one descriptor too many",
        CODEC,
        "brought + brings[at] <= max_brings",
        "brought + brings[at] <= max_brings + 1",
        (f"{FRAMES}test_a_frame_brings_no_more_than_it_may",),
    ),
    Fault(
        "a frame that is sent becomes larger than the limit",
        CODEC,
        "fits = size + len(raw) <= max_bytes",
        "fits = len(raw) <= max_bytes",
        (f"{FRAMES}test_a_frame_is_no_larger_than_it_may_be",),
    ),
    Fault(
        "the length of a text is big-endian",
        TENSORS,
        'struct.pack("<I", len(data))',
        'struct.pack(">I", len(data))',
        (f"{DATATYPES}test_text_becomes_utf8",),
    ),
    Fault(
        "a text reads beyond its tensor",
        TENSORS,
        "if length > left:",
        "if length > len(content):",
        (f"{DATATYPES}test_malformed_bytes_name_the_tensor_and_both_sides",),
    ),
    Fault(
        "text that is left over goes unnoticed",
        TENSORS,
        "while at < len(content) and len(found) <= expected:",
        "while at < len(content) and len(found) < expected:",
        (f"{DATATYPES}test_malformed_bytes_name_the_tensor_and_both_sides",),
    ),
    Fault(
        "half floats are twice as large",
        TENSORS,
        '"FP16": 2, "BF16": 2,',
        '"FP16": 2, "BF16": 4,',
        (f"{DATATYPES}test_a_datatype_is_as_large_as_its_numpy_counterpart",),
    ),
    Fault(
        "memory is promised and not reserved",
        REGIONS,
        "os.posix_fallocate(fd, 0, byte_size)",
        "os.ftruncate(fd, byte_size)",
        (f"{MEMORY}test_memory_is_reserved_when_it_is_made",),
    ),
    Fault(
        "memory that can shrink is taken",
        REGIONS,
        '{"SHRINK": fcntl.F_SEAL_SHRINK, "GROW"',
        '{"GROW"',
        (f"{MEMORY}test_a_missing_seal_is_named",),
    ),
    Fault(
        "memory that is too small is taken",
        REGIONS,
        "if status.st_size < byte_size:",
        "if status.st_size < 1:",
        (f"{MEMORY}test_what_is_too_small_says_both_sizes",),
    ),
    Fault(
        "a mapping begins at its page",
        REGIONS,
        "np.frombuffer(memory, np.uint8, byte_size, offset - start)",
        "np.frombuffer(memory, np.uint8, byte_size, 0)",
        (f"{MEMORY}test_a_mapping_shows_the_bytes_at_any_offset",),
    ),
    Fault(
        "another user's segment is taken",
        "ipc/system_regions.py",
        " or status.st_uid != uid:",
        ":",
        (f"{MEMORY}test_a_segment_that_does_not_fit_the_claim_is_refused",),
    ),
)
