# SPDX-License-Identifier: Apache-2.0
"""Faults of what a gateway tells of its server and its models, and of who may load and unload them."""

from __future__ import annotations

from fault import Fault

DOCUMENTS = "runtime/gateway/documents.py"
REPOSITORY = "runtime/gateway/repository.py"
UNKNOWN = "runtime/gateway/unknown_models.py"
METRICS = "runtime/metrics/machine.py"

PAPER = "tests/unit/gateway/test_documents_on_paper.py::"
MACHINE = "tests/unit/runtime/metrics/test_machine_metrics.py::"

FAULTS = (
    Fault(
        "whoever reaches the ports may load models",
        REPOSITORY,
        "if uid != owner:",
        "if uid not in (owner, -1):",
        (f"{PAPER}test_only_the_owner_may_load",),
    ),
    Fault(
        "a load is given up after a while",
        REPOSITORY,
        "question(number)[0], fds, timeout_s=None)",
        "question(number)[0], fds)",
        (f"{PAPER}test_a_load_brings_its_files_as_descriptors",),
    ),
    Fault(
        "a configuration that no message carries is sent, and costs the connection",
        REPOSITORY,
        "len(config.encode()) > LONGEST_CONFIG",
        "len(config) > LONGEST_CONFIG",
        (f"{PAPER}test_what_no_message_carries_is_not_sent",),
    ),
    Fault(
        "the configuration of what is not ready is told",
        DOCUMENTS,
        'await self._of_model("metadata", model, wanted)  # the broker tells',
        "pass  # the broker tells",
        (f"{PAPER}test_what_is_not_ready_tells_no_configuration",),
    ),
    Fault(
        "statistics of versions that are not ready are told",
        DOCUMENTS,
        'if row["version"] in ready and wanted in',
        "if wanted in",
        (
            f"{PAPER}test_statistics_are_those_of_ready_versions",
            f"{PAPER}test_a_version_without_statistics",
        ),
    ),
    Fault(
        "a gateway that leaves is still ready",
        DOCUMENTS,
        "        self._leaving = True\n",
        "        self._leaving = False\n",
        (f"{PAPER}test_a_gateway_that_leaves_says_so",),
    ),
    Fault(
        "a model that was unloaded is answered with the broker's code",
        UNKNOWN,
        'has no available versions", Code.NOT_FOUND)',
        'has no available versions", error.code)',
        (f"{PAPER}test_a_model_that_cannot_be_had",),
    ),
    Fault(
        "utilization is that since the machine was started",
        METRICS,
        "self._busy, self._total = busy, total",
        "self._busy, self._total = 0, 0",
        (f"{MACHINE}test_processors_are_busy_since_the_last_look",),
    ),
)
