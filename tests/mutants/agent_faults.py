# SPDX-License-Identifier: Apache-2.0
"""Faults of repository agents: who is called when, what is checked, what is left behind."""

from __future__ import annotations

from fault import Fault

RUNS = "runtime/repository/agent_runs.py"
ORDERS = "tests/unit/repository/test_agent_runs.py::"
DECRYPTING = "tests/unit/agents/test_decrypt.py::"
PRIVATE = "tests/unit/repository/test_private_directories.py::"

FAULTS = (
    Fault(
        "LOAD_COMPLETE goes through the agents as they are written",
        RUNS,
        "REVERSED = frozenset({Action.LOAD_COMPLETE, ",
        "REVERSED = frozenset({",
        (f"{ORDERS}test_load_and_unload_go_forward_and_what_follows_them_backward",),
    ),
    Fault(
        "UNLOAD goes backwards",
        RUNS,
        "reversed(self._called) if action in REVERSED else self._called:",
        "reversed(self._called):",
        (f"{ORDERS}test_load_and_unload_go_forward_and_what_follows_them_backward",),
    ),
    Fault(
        "the next agent sees the model where it was",
        RUNS,
        "self.location = model.location",
        "pass",
        (f"{ORDERS}test_a_directory_that_is_handed_over_is_what_the_others_and_the_reader_see",),
    ),
    Fault(
        "directories outlive a load that failed",
        RUNS,
        "            self._tell(Action.LOAD_FAIL)\n            self._release()",
        "            self._tell(Action.LOAD_FAIL)\n            self._called.clear()",
        (f"{ORDERS}test_a_directory_that_is_handed_over_is_what_the_others_and_the_reader_see",),
    ),
    Fault(
        "a checksum may be of a file outside of the model",
        "runtime/agents/checksum.py",
        "if not path.is_relative_to(directory.resolve()):",
        "if not path.is_absolute():",
        ("tests/unit/agents/test_checksum.py::test_others_are_refused",),
    ),
    Fault(
        "what was changed is decrypted",
        "runtime/agents/encryption.py",
        "        try:\n            coder.finalize_with_tag(",
        "        try:\n            (",
        (f"{DECRYPTING}test_a_changed_byte_is_noticed_wherever_it_is",),
    ),
    Fault(
        "files can be exchanged",
        "runtime/agents/encryption.py",
        "return MAGIC + name.encode()",
        "return MAGIC",
        (f"{DECRYPTING}test_files_cannot_be_exchanged",),
    ),
    Fault(
        "the directory of a living process is taken for abandoned",
        "runtime/repository/private_directories.py",
        "    fcntl.flock(lock, fcntl.LOCK_EX)\n",
        "    fcntl.flock(lock, fcntl.LOCK_UN)\n",
        (f"{PRIVATE}test_what_a_killed_process_left_is_removed_and_what_lives_is_not",),
    ),
)
