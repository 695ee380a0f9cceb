# SPDX-License-Identifier: Apache-2.0
"""Faults of the response cache: what is the same request, what is kept, what a hit does."""

from __future__ import annotations

from fault import Fault

ANSWERS = "runtime/cached_answers.py"
PLANS = "runtime/cache_plans.py"
CACHE = "runtime/response_cache.py"

STORIES = "tests/unit/runtime/test_cached_answers.py::"
KEPT = "tests/unit/runtime/test_response_cache.py::"

FAULTS = (
    Fault(
        "an earlier load of the model answers",
        PLANS,
        "encode([model.name, model.version, model.number, tensor.name,",
        "encode([model.name, model.version, tensor.name,",
        (f"{STORIES}test_versions_and_loads_have_keys_of_their_own",),
    ),
    Fault(
        "where one input ends and the next begins does not matter",
        PLANS,
        "            digest.update(prefix)\n",
        "            digest.update(prefix[:8])\n",
        (f"{STORIES}test_a_key_is_of_names_and_bytes_whatever_the_order", f"{STORIES}test_shapes_are_part_of_the_request"),
    ),
    Fault(
        "an input that is not all there is looked up",
        PLANS,
        "if len(content) != byte_size:",
        "if len(content) > byte_size:",
        (f"{STORIES}test_truncated_before_it_is_looked_up",),
    ),
    Fault(
        "inputs that have changed are kept under what they were",
        ANSWERS,
        "if contents is not None and plan.key() == ticket.key:",
        "if contents is not None:",
        (f"{STORIES}test_inputs_that_change_while_the_model_runs_poison_nobody",),
    ),
    Fault(
        "a hit that lacks an output is an answer",
        ANSWERS,
        "            if output is None:\n                return None",
        "            if output is None:\n                continue",
        (f"{STORIES}test_an_output_that_was_not_computed_then_is_a_miss_and_both_are_there_afterwards",),
    ),
    Fault(
        "a hit is written behind the end of its place",
        ANSWERS,
        "if size > place.byte_size or begin",
        "if begin",
        (f"{STORIES}test_a_place_that_is_too_small_is_left_to_the_worker_to_refuse",),
    ),
    Fault(
        "a hit makes a truncated segment longer",
        ANSWERS,
        "size > place.byte_size or begin + size > os.fstat(region.fd).st_size:",
        "size > place.byte_size:",
        (f"{STORIES}test_truncated_where_the_outputs_go",),
    ),
    Fault(
        "a hit holds its regions for ever",
        "runtime/core.py",
        "self.fleet.unflushed.update(self.regions.release(request.binding.regions))",
        "pass",
        (f"{STORIES}test_the_same_request_again_is_answered_by_the_broker",),
    ),
    Fault(
        "what is too large is looked up",
        ANSWERS,
        "if plan.byte_size > self._limit_bytes:",
        "if plan.byte_size < 0:",
        (f"{STORIES}test_what_is_too_large_passes_the_cache_by",),
    ),
    Fault(
        "what was put in first goes first",
        CACHE,
        "self._entries.move_to_end(key)",
        "pass",
        (f"{KEPT}test_what_was_used_last_stays_longest",),
    ),
    Fault(
        "an entry costs nothing but its outputs",
        CACHE,
        "return ENTRY_BYTES + sum(",
        "return sum(",
        (f"{KEPT}test_many_small_responses_are_bounded_too",),
    ),
    Fault(
        "hits count as computed",
        "runtime/statistics.py",
        "computed = count - self.hit_count",
        "computed = count",
        (f"{STORIES}test_hits_and_misses_are_counted_as_triton_counts_them",),
    ),
)
