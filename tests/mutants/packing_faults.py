# SPDX-License-Identifier: Apache-2.0
"""Faults of the worker's memory: what is merged, copied, cached, and whose rows are whose."""

from __future__ import annotations

from fault import Fault

PACKING = "workers/packing.py"
PLACEMENTS = "workers/placements.py"
REGION_TABLE = "workers/region_table.py"
BATCHES = "workers/batches.py"

RUNS = "tests/unit/workers/test_packing.py::"
ANY_BACKEND = "tests/contract/test_backends.py::"
LAST_BYTE = "placement2-lie outside of region 1 of 65536 bytes"
MEMORY = "tests/contract/test_worker_memory.py::"

FAULTS = (
    Fault(
        "runs are merged across a gap",
        PACKING,
        "if number != region or begin != end or packed_begin",
        "if number != region or begin < end or packed_begin",
        (f"{RUNS}test_a_gap_starts_a_new_run",),
    ),
    Fault(
        "runs are merged across a gap in the packed tensor",
        PACKING,
        "or packed_begin != packed_end or number in apart",
        "or number in apart",
        (f"{RUNS}test_a_gap_in_the_packed_tensor_starts_a_new_run",),
    ),
    Fault(
        "regions that touch are one run",
        PACKING,
        "if number != region or begin != end or packed_begin",
        "if begin != end or packed_begin",
        (f"{RUNS}test_regions_that_touch_in_the_address_space_are_two_runs",),
    ),
    Fault(
        "a gap counts as one run",
        PACKING,
        "if number != region or begin != end:",
        "if number != region or begin < end:",
        (f"{RUNS}test_one_run_is_told_from_several_without_making_them",),
    ),
    Fault(
        "the rows of reordered requests go to each other's slots",
        BATCHES,
        "self._writer.deliver(ordered, packed",
        "self._writer.deliver(jobs, packed",
        (f"{MEMORY}test_rows_that_were_reordered_for_execution_go_back_to_their_own_requests",),
    ),
    Fault(
        "the failure of a reordered request is told to another",
        BATCHES,
        "ordered[at].error = ordered[at].error or error",
        "jobs[at].error = jobs[at].error or error",
        (f"{MEMORY}test_a_failure_of_a_reordered_request_is_its_own",),
    ),
    Fault(
        "indices are read from memory that the client may change",
        PLACEMENTS,
        "(needs_snapshots and tensor.datatype not in FLOATING)",
        "(needs_snapshots and tensor.datatype in FLOATING)",
        (f"{MEMORY}test_indices_are_private_before_execution_begins",),
    ),
    Fault(
        "what was remembered of a region outlives it",
        PLACEMENTS,
        "            self._drop(encoded)",
        "            self._by_region.get(number)",
        (f"{ANY_BACKEND}test_a_region_is_unmapped_when_the_worker_is_told_so[identity]",),
    ),
    Fault(
        "placements are remembered without bound",
        PLACEMENTS,
        "if len(self.kept) >= KEPT:",
        "if len(self.kept) < 0:",
        (f"{MEMORY}test_the_oldest_placement_is_forgotten_beyond_the_bound",),
    ),
    Fault(
        "a placement may reach one byte beyond its region",
        REGION_TABLE,
        "or offset + byte_size > region.byte_size:",
        "or offset + byte_size > region.byte_size + 1:",
        (f"{ANY_BACKEND}test_a_placement_that_the_broker_should_not_have_sent_costs_itself[identity-{LAST_BYTE}]",),
    ),
    Fault(
        "writing makes a truncated segment grow again",
        REGION_TABLE,
        ".st_size < self._base + offset + data.size:",
        ".st_size < 0:",
        (f"{MEMORY}test_a_place_that_shrank_away_is_not_made_again",),
    ),
    Fault(
        "what could not be read is what another request left there",
        "workers/devices/host.py",
        "part[...] = 0",
        "pass",
        (f"{MEMORY}test_what_cannot_be_read_is_zeros_and_nothing_of_an_earlier_batch",),
    ),
    Fault(
        "requests of unequal shapes are executed together",
        "workers/inputs.py",
        "if fitting and job.prepared.row_shapes != fitting[0].prepared.row_shapes:",
        "if not fitting and job.prepared.row_shapes != job.prepared.row_shapes:",
        (f"{MEMORY}test_requests_of_another_shape_than_the_first_are_refused",),
    ),
    Fault(
        "an output is written beyond its place",
        "workers/outputs.py",
        "and size > target.capacity and",
        "and size > target.capacity + 1 and",
        (f"{MEMORY}test_text_that_does_not_fit_its_place_says_how_much_it_needs",),
    ),
    Fault(
        "unplaced outputs are not aligned",
        "workers/outputs.py",
        "offset = aligned(total)",
        "offset = total",
        (f"{MEMORY}test_unplaced_outputs_of_a_request_share_one_memfd_at_aligned_offsets",),
    ),
    Fault(
        "what a model returns is not compared with its configuration",
        "workers/outputs.py",
        "or result.ndim != len(expected)",
        "and result.ndim != len(expected)",
        (f"{MEMORY}test_results_that_contradict_the_configuration_are_the_models_fault",),
    ),
)
