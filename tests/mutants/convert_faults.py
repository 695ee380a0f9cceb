# SPDX-License-Identifier: Apache-2.0
"""Faults of converting: what is compared with what, what is allowed, what is written and when."""

from __future__ import annotations

from fault import Fault

CORRECTNESS = "clients/convert/correctness.py"
TOLERANCES = "clients/convert/tolerances.py"
SAMPLES = "clients/convert/samples.py"
ENTRY = "clients/convert/repository_entry.py"
ENGINES = "clients/convert/engine_orders.py"
CONVERSION = "clients/convert/conversion.py"
FUNCTIONS = "clients/convert/module_functions.py"
SIGNATURES = "clients/convert/signatures.py"

COMPARED = "tests/unit/clients/convert/test_correctness.py::"
BEFORE = "tests/unit/clients/convert/test_conversions.py::"
STAGED = "tests/unit/clients/convert/test_repository_entry.py::"

FAULTS = (
    Fault(
        "the tolerance is relative to what was found",
        CORRECTNESS,
        "        size = np.abs(expected)",
        "        size = np.abs(found)",
        (f"{COMPARED}test_the_tolerance_is_of_what_was_expected_and_not_of_what_was_found",),
    ),
    Fault(
        "a number where there should be none is right",
        CORRECTNESS,
        "        absolute[np.isnan(absolute)] = np.inf",
        "        absolute[np.isnan(absolute)] = 0.0",
        (f"{COMPARED}test_what_is_no_number",),
    ),
    Fault(
        "the worst element is the one with the largest error, be it allowed",
        CORRECTNESS,
        "    at = int(np.argmax(excess))",
        "    at = int(np.argmax(errors))",
        (f"{COMPARED}test_worst_is_what_is_farthest_outside_its_own_tolerance_and_not_the_largest_error",),
    ),
    Fault(
        "whole numbers are compared as doubles",
        CORRECTNESS,
        "        same = (expected == found).ravel()",
        "        same = (expected.astype(float) == found.astype(float)).ravel()",
        (f"{COMPARED}test_whole_numbers_are_compared_exactly_be_they_larger_than_a_double_can_tell",),
    ),
    Fault(
        "a tolerance for all is for whole numbers too",
        TOLERANCES,
        """        everywhere = "" if is_floating else output""",
        """        everywhere = \"\"""",
        ("tests/unit/clients/convert/test_tolerances.py::test_a_name_goes_before_a_value_for_all_which_is_for_fractions",),
    ),
    Fault(
        "what is traced has one row, which hides the batch",
        SAMPLES,
        "for count in self.rows if count > 1",
        "for count in self.rows if count > 0",
        ("tests/unit/clients/convert/test_samples.py::test_random_requests_have_one_row_the_most_and_one_between",),
    ),
    Fault(
        "somebody else's version is written over when it came meanwhile",
        ENTRY,
        "        self.place.check()",
        "        Place.check",
        (f"{STAGED}test_a_version_is_not_written_over_unless_that_is_asked_for",),
    ),
    Fault(
        "what is prepared can be seen",
        ENTRY,
        'prefix=".convert-"',
        'prefix="convert-"',
        (f"{STAGED}test_nothing_is_seen_of_it_until_it_is_published",),
    ),
    Fault(
        "two profiles take the same batch",
        ENGINES,
        "[1, *(end + 1 for end in ends[:-1])]",
        "[1, *(end for end in ends[:-1])]",
        ("tests/unit/clients/convert/test_engine_orders.py::test_every_batch_size_has_one_profile",),
    ),
    Fault(
        "an option that the function's parser does not know is ignored",
        FUNCTIONS,
        "    if left:",
        "    if left and not call.words:",
        (
            "tests/unit/clients/convert/test_module_functions.py::test_a_model_of_nvidias_examples_gets_what_its_own_parser_makes_of_them",
        ),
    ),
    Fault(
        "an output without the batch passes",
        SIGNATURES,
        "            if count and shape[:1] != (count,):",
        "            if count and not shape:",
        ("tests/unit/clients/convert/test_converted_signatures.py::test_an_output_without_a_row_per_row_cannot_be_batched",),
    ),
    Fault(
        "what native code prints comes between the reports of the builder",
        "clients/convert/engine_program.py",
        "        os.dup2(2, 1)",
        "        os.dup2(1, 1)",
        ("tests/process/test_engine_builder.py::test_what_native_code_prints_does_not_come_between_the_reports",),
    ),
    Fault(
        "whether a row answers the same in a batch is asked of the first alone",
        CONVERSION,
        "    places = [slice(0, 1), slice(samples.rows[largest] - 1, samples.rows[largest])]",
        "    places = [slice(0, 1)]",
        (f"{BEFORE}test_a_row_that_depends_on_those_beside_it_is_not_to_be_batched",),
    ),
    Fault(
        "rounding that is another for another batch is a difference",
        CONVERSION,
        'compare(outputs, alone, within, tolerances, "fp16")',
        'compare(outputs, alone, within, tolerances, "fp32")',
        (f"{BEFORE}test_rows_that_answer_for_themselves_pass",),
    ),
    Fault(
        "a prefix that is the module's own is taken off",
        "clients/convert/state_dicts.py",
        "    while not found.keys() & own.keys():",
        "    while True:",
        ("tests/unit/clients/convert/test_state_dicts.py::test_a_module_with_such_keys_of_its_own_keeps_them",),
    ),
    Fault(
        "a configuration that was written meanwhile is written over",
        ENTRY,
        '            self.check_config((staged / CONFIG_NAME).read_text(encoding="utf-8"))',
        "            self.check_invariants()",
        (f"{STAGED}test_a_configuration_that_somebody_else_wrote_meanwhile_is_not_written_over",),
    ),
    Fault(
        "a version that could not be replaced is gone",
        ENTRY,
        "                    replaced.rename(version)",
        "                    replaced.stat()",
        (f"{STAGED}test_what_was_there_is_there_again_when_it_cannot_be_replaced",),
    ),
)
