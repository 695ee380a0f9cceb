# SPDX-License-Identifier: Apache-2.0
"""Faults of regions that belong to users: whose they are, how long they are there, and whose a connection is."""

from __future__ import annotations

from fault import Fault

SHARED = "runtime/shared_regions.py"
PLACES = "runtime/region_checks.py"
SOCKETS = "ipc/local_sockets.py"
ADMISSION = "runtime/admission.py"
DEVICES = "runtime/device_regions.py"

STORY = "tests/unit/runtime/test_shared_regions.py::"
SOCKET = "tests/contract/test_local_sockets.py::"

FAULTS = (
    Fault(
        "any client speaks for any user",
        SHARED,
        "if own != os.geteuid():",
        "if own == os.geteuid() + 1:",
        (f"{STORY}test_only_the_broker_s_own_user_speaks_for_others",),
    ),
    Fault(
        "a segment is registered for whoever asks",
        ADMISSION,
        "found = Registrant(shared.of(message.on_behalf), message.on_behalf, 0)",
        "found = Registrant(shared.of(message.on_behalf), os.geteuid(), 0)",
        (f"{STORY}test_a_segment_must_be_the_user_s_own",),
    ),
    Fault(
        "sessions remember placements in shared regions that are gone",
        SHARED,
        "        self._forget()",
        "        self._forget",
        (
            f"{STORY}test_no_session_remembers_a_placement_in_a_region_that_is_gone",
            f"{STORY}test_a_refused_region_is_forgotten_by_every_session",
        ),
    ),
    Fault(
        "unregistering one kind takes the other too",
        SHARED,
        'kind in ("", region.kind) and not region.closing',
        'kind != "-" and not region.closing',
        (f"{STORY}test_unregistering_all_takes_one_kind_of_one_user",),
    ),
    Fault(
        "unregister waits for shared memory that is in use",
        DEVICES,
        "if region.gpu and (waits or not region.in_flight)}",
        "if region.gpu}",
        (f"{STORY}test_cuda_memory_that_is_in_use_is_closed_with_its_last_request",),
    ),
    Fault(
        "a tensor may begin where its shared region ends",
        PLACES,
        "(place.shared and offset == region.byte_size)",
        "(place.shared and offset < 0)",
        (f"{STORY}test_places_in_shared_regions_are_refused_in_triton_s_words",),
    ),
    Fault(
        "a socket that nobody has any more is root's",
        SOCKETS,
        "return uid if inode else UNKNOWN",
        "return uid",
        (f"{SOCKET}test_a_socket_that_is_closed_is_nobody_s",),
    ),
    Fault(
        "an answer about another connection is taken for that about this one",
        SOCKETS,
        "if answered != number:",
        "if number == 0:",
        (f"{SOCKET}test_an_answer_that_was_left_is_nobody_s",),
    ),
    Fault(
        "the list of sockets has no IPv6 socket that is connected to IPv4",
        SOCKETS,
        "source, target = _MAPPED + source, _MAPPED + target",
        "source, target = source + _MAPPED, target + _MAPPED",
        (f"{SOCKET}test_a_connection_is_its_user_s",),
    ),
)
