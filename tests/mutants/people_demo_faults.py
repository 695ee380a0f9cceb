# SPDX-License-Identifier: Apache-2.0
"""Faults of `penstock demo people-detection`: who calls when and with what memory, what is counted, which variant is loaded."""

from __future__ import annotations

from fault import Fault

CALLING = "clients/people_detection/calling.py"
COUNTING = "clients/people_detection/counting.py"
VARIANTS = "clients/people_detection/variants.py"
MEMORY = "clients/people_detection/memory.py"
COMMAND = "clients/cli/people_detection_command.py"
REPORT = "clients/cli/people_detection_report.py"

CALLERS = "tests/unit/clients/people_detection/test_calling.py::"
COUNTED = "tests/unit/clients/people_detection/test_counting.py::"
LOADED = "tests/unit/clients/people_detection/test_variants.py::"
USAGE = "tests/unit/cli/test_people_detection_usage.py::"
WHOLE = "tests/process/test_people_detection.py::"

FAULTS = (
    Fault(
        "callers do not wait for one another",
        CALLING,
        "        meeting.wait()\n",
        "        meeting.reset()\n",
        (f"{CALLERS}test_nobody_calls_before_everybody_is_there",),
    ),
    Fault(
        "callers share their tensors",
        CALLING,
        "count * sum(sizes[:tensor]) + (number * sizes[tensor] if number else 0)",
        "count * sum(sizes[:tensor])",
        (f"{CALLERS}test_each_has_tensors_of_its_own_and_the_image_in_them",),
    ),
    Fault(
        "the answers of the round before are left in place",
        CALLING,
        "np.full(_SHAPES[tensor], np.nan, np.float32)",
        "self._view(tensor, number)",
        (f"{CALLERS}test_an_answer_that_was_not_written_is_none",),
    ),
    Fault(
        "the time of a round is its longest call",
        CALLING,
        "max(call.ended_ns for call in self.calls) - min(call.began_ns for call in self.calls)",
        "max(call.latency_ns for call in self.calls)",
        (f"{CALLERS}test_a_round_lasts_from_the_first_beginning_to_the_last_end",),
    ),
    Fault(
        "batches of the warm-up are counted",
        COUNTING,
        '_batch(row, earlier.get(row["batch_size"], {}))',
        "_batch(row, {})",
        (f"{COUNTED}test_what_was_counted_before_is_not_in_the_difference",),
    ),
    Fault(
        "sizes of batches that there were only before stay",
        COUNTING,
        '[row for row in batches if row["compute_infer"]["count"]]',
        "batches",
        (f"{COUNTED}test_what_was_counted_before_is_not_in_the_difference",),
    ),
    Fault(
        "computing is what the model takes alone",
        COUNTING,
        "mean_ms(*COMPUTE)",
        'mean_ms("compute_infer")',
        (f"{COUNTED}test_means_are_of_requests_and_compute_is_all_three_stages",),
    ),
    Fault(
        "a range of instance counts ends before its end",
        VARIANTS,
        "range(first, last + 1)",
        "range(first, max(last, first + 1))",
        (f"{LOADED}test_counts_and_ranges_each_count_once",),
    ),
    Fault(
        "batching that is configured is replaced",
        VARIANTS,
        'if dynamic_batching and "dynamic_batching" not in changed:',
        "if dynamic_batching:",
        (f"{LOADED}test_batching_is_switched_and_otherwise_left_as_it_is",),
    ),
    Fault(
        "memory on a GPU is promised where there is none",
        MEMORY,
        'if memory == "gpu":\n        try:',
        'if memory == "cuda":\n        try:',
        (f"{USAGE}test_gpu_memory_without_a_gpu_is_refused_with_the_reason_and_a_way_out",),
    ),
    Fault(
        "where images cannot be written is found when all was called",
        COMMAND,
        '_check_writable(options["output_dir"])\n',
        "_check_writable(Path())\n",
        (f"{WHOLE}test_a_folder_that_cannot_be_written",),
    ),
    Fault(
        "answers that are no numbers are taken for rounding",
        REPORT,
        "if not isfinite(shown.largest_difference):",
        "if shown.largest_difference < 0:",
        (f"{WHOLE}test_answers_that_are_no_numbers",),
    ),
    Fault(
        "one batch of all calls goes unexplained",
        REPORT,
        'done.counted["execution_count"] == 1:',
        'done.counted["execution_count"] == 0:',
        (f"{WHOLE}test_one_batch_of_all_calls_is_explained",),
    ),
)
