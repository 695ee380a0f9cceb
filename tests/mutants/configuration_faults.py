# SPDX-License-Identifier: Apache-2.0
"""Faults of what a configuration asks of a worker: warm-up samples, host policies, classes of outputs."""

from __future__ import annotations

from fault import Fault

WARM_UP = "workers/warm_up.py"
CLASSES = "workers/classification.py"
OUTPUTS = "workers/outputs.py"
POLICIES = "runtime/host_policies.py"

WARMED = "tests/contract/test_warm_up.py::"
CLASSIFIED = "tests/contract/test_classified_outputs.py::"
BEST = "tests/unit/workers/test_classification.py::"
SHARES = "tests/unit/runtime/test_host_policies.py::"

FAULTS = (
    Fault(
        "a sample is executed once, whatever its count",
        WARM_UP,
        "for _ in range(sample.count):",
        "for _ in range(1):",
        (f"{WARMED}test_samples_are_executed_in_order_and_as_often_as_they_say",),
    ),
    Fault(
        "every request of a sample gets the file's first",
        WARM_UP,
        "at = request % len(offsets[name])",
        "at = 0",
        (f"{WARMED}test_a_file_of_one_request_serves_all_and_one_of_all_gives_each_its_own",),
    ),
    Fault(
        "requests of a sample that fail alone are overlooked",
        WARM_UP,
        "[item.message for item in report.items if item.code]",
        "[item.message for item in report.items if not item.code]",
        (f"{WARMED}test_requests_that_fail_alone_fail_the_sample_too",),
    ),
    Fault(
        "a skipped sample is executed",
        "runtime/repository/warm_up.py",
        "        if sample.batch_size\n    )",
        "        if sample.name\n    )",
        (
            "tests/unit/repository/test_warmup_samples.py::test_a_sample_of_batch_size_0_is_skipped_as_by_triton_but_not_in_silence",
        ),
    ),
    Fault(
        "integers are sorted by their negatives",
        CLASSES,
        "keys = -rows if is_float else ~rows",
        "keys = -rows",
        (f"{BEST}test_the_ends_of_the_integers_sort_as_they_should",),
    ),
    Fault(
        "equal values come in any order",
        CLASSES,
        'np.argsort(keys, axis=1, kind="stable")[:, :classes]',
        "(len(keys[0]) - 1 - np.argsort(keys[:, ::-1], axis=1, kind='stable'))[:, :classes]",
        (f"{BEST}test_of_equal_values_the_lower_index_is_first",),
    ),
    Fault(
        "the shape of classes is that which was asked for",
        OUTPUTS,
        "return [*batch, min(classes, rows.shape[1])]",
        "return [*batch, classes]",
        (f"{CLASSIFIED}test_requests_with_and_without_classes_share_a_batch",),
    ),
    Fault(
        "the classes of another output",
        OUTPUTS,
        "self._labels.get(output, ())",
        "self._labels.get(0, ())",
        (f"{CLASSIFIED}test_outputs_beside_it_are_as_they_are",),
    ),
    Fault(
        "a reply with classes keeps the output's datatype",
        "runtime/replies.py",
        'datatype = "BYTES" if place.classification else spec.datatype',
        "datatype = spec.datatype",
        ("tests/unit/runtime/test_classified_requests.py::test_the_worker_is_asked_for_classes_and_the_reply_is_text",),
    ),
    Fault(
        "each instance gets threads for all CPUs of its policy",
        POLICIES,
        "threads = (len(policy.cpus) or settings.cores) // sharing",
        "threads = len(policy.cpus) or settings.cores",
        (f"{SHARES}test_a_group_has_the_policy_it_names_else_that_of_its_kind_else_none",),
    ),
    Fault(
        "a policy is for those who name it only",
        "runtime/repository/configuration.py",
        "return self.group.host_policy or (",
        "return self.group.host_policy and (",
        (f"{SHARES}test_a_group_has_the_policy_it_names_else_that_of_its_kind_else_none",),
    ),
    Fault(
        "only the first thread runs where the policy says",
        "ipc/processors.py",
        'for thread in os.listdir("/proc/self/task") if cpus else ():',
        "for thread in [os.getpid()] if cpus else ():",
        ("tests/process/test_host_policies_of_workers.py::test_workers_run_where_their_policy_says",),
    ),
)
