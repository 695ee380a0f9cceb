# SPDX-License-Identifier: Apache-2.0
"""Faults of batches on a device: events between streams, memory used again, whose bytes go where, and what waits for what."""

from __future__ import annotations

from fault import Fault

LANES = "workers/on_gpu/lanes.py"
EXECUTOR = "workers/on_gpu/executor.py"
PLANS = "workers/on_gpu/planning.py"
OUTPUTS = "workers/on_gpu/outputs.py"
BATCHES = "workers/on_gpu/batches.py"
LOOP = "workers/on_gpu/loop.py"

RUNNER = "tests/contract/test_device_batches.py::"
WORKER = "tests/contract/test_device_loop.py::"

FAULTS = (
    Fault(
        "a model does not wait for inputs in another stream",
        LANES,
        "stream.wait(marks.copied_in)\n            marks.starting",
        "stream.is_idle()\n            marks.starting",
        (f"{RUNNER}test_no_stream_goes_on_without_what_it_needs_from_another[_copy_in]",),
    ),
    Fault(
        "outputs do not wait for the model in another stream",
        LANES,
        "stream.wait(marks.computed)",
        "stream.is_idle()",
        (f"{RUNNER}test_no_stream_goes_on_without_what_it_needs_from_another[stream]",),
    ),
    Fault(
        "a batch has ended before its outputs are there",
        LANES,
        "execution.last = marks.ended\n        _put",
        "execution.last = marks.computed\n        _put",
        (f"{RUNNER}test_no_stream_goes_on_without_what_it_needs_from_another[_copy_out]",),
    ),
    Fault(
        "a failed batch is over before the device is past its inputs",
        EXECUTOR,
        "            lane.give_up(execution, _unless_lost(error))",
        "            execution.error = _unless_lost(error)",
        (f"{RUNNER}test_what_the_backend_raises_fails_its_batch_and_no_other",),
    ),
    Fault(
        "a slot is free while its batch is in flight",
        LANES,
        "self.free = deque(self.slots)",
        "self.free = deque(self.slots * 4)",
        (f"{RUNNER}test_many_batches_through_two_slots_keep_their_content",),
    ),
    Fault(
        "staging is used again while the device reads it",
        "workers/on_gpu/memory.py",
        "self._end = aligned(begin + byte_size)",
        "self._end = 0",
        (f"{RUNNER}test_staged_bytes_are_not_overwritten_before_the_device_has_read_them",),
    ),
    Fault(
        "what cannot be copied costs all that share its batch",
        EXECUTOR,
        "if len(jobs) > 1:  # that",
        "if len(jobs) > 9:  # that",
        (f"{RUNNER}test_memory_that_cannot_be_copied_costs_its_own_request",),
    ),
    Fault(
        "a plan outlives the memory that it was made for",
        EXECUTOR,
        "return known if known is not None and known[0].work.slot is slot.memory.slot else None",
        "return known",
        (f"{RUNNER}test_memory_that_has_grown_makes_a_slot_anew_and_forgets_what_was_planned_for_the_old",),
    ),
    Fault(
        "what was planned beside a failure is kept",
        EXECUTOR,
        "is_clean = not work.failures and",
        "is_clean = work.failures is not None and",
        (f"{RUNNER}test_a_request_that_failed_once_is_delivered_when_it_comes_again",),
    ),
    Fault(
        "a failure of what was served before is lost",
        EXECUTOR,
        " or plan.work.failures:",
        " or not plan.work:",
        (f"{RUNNER}test_a_request_that_was_served_before_can_fail",),
    ),
    Fault(
        "indices are read from memory that the client may change meanwhile",
        PLANS,
        "tensor.datatype in FLOATING or not",
        "tensor.datatype or not",
        (f"{RUNNER}test_device_memory_is_copied_within_the_device_where_it_cannot_be_bound",),
    ),
    Fault(
        "a copy goes across the border of what is pinned at once",
        PLANS,
        "region.registration is not None and region.registration.is_divided",
        "region.registration is None and region.registration.is_divided",
        (f"{RUNNER}test_a_request_across_the_border_of_what_is_pinned_at_once_is_copied_in_pieces",),
    ),
    Fault(
        "what one request has is pinned for it",
        "workers/region_table.py",
        " and not message.single_use:",
        ":",
        (f"{RUNNER}test_what_lives_for_one_request_is_staged_not_pinned_and_no_warning_is_due",),
    ),
    Fault(
        "no worker is told that one request alone has a region",
        "runtime/regions.py",
        'is_single = region.kind == "inline"',
        "is_single = False",
        ("tests/unit/runtime/test_region_registry.py::test_workers_are_told_what_one_request_alone_has",),
    ),
    Fault(
        "pageable memory is copied in a batch",
        "workers/devices/cuda/copies.py",
        "self._batched is not None and is_pinned",
        "self._batched is not None",
        (f"{RUNNER}test_many_copies_of_pageable_memory_are_made_singly",),
    ),
    Fault(
        "staging that cannot be pinned costs the batch",
        "workers/on_gpu/memory.py",
        "            if error.is_sticky:\n                raise\n            sys",
        "            if error:\n                raise\n            sys",
        (f"{RUNNER}test_staging_is_pageable_where_no_more_memory_is_pinned",),
    ),
    Fault(
        "a copy that is none is timed",
        LANES,
        "        if not plan.inward:\n            marks.copied_in",
        "        if plan.inward is None:\n            marks.copied_in",
        (f"{RUNNER}test_a_request_that_comes_again_takes_no_more_calls_than_it_has_stages",),
    ),
    Fault(
        "a worker whose device cannot be waited for does not tell what was in flight",
        BATCHES,
        "        with suppress(MachineError):  # as",
        "        with suppress():  # as",
        (f"{RUNNER}test_where_the_device_cannot_be_waited_for_no_batch_is_taken_to_be_over",),
    ),
    Fault(
        "a thread that cannot use the device ends without a word",
        LOOP,
        "            with suppress(MachineError):  # whoever",
        "            with suppress():  # whoever",
        (f"{WORKER}test_a_sleeper_is_woken_though_its_thread_cannot_use_the_device",),
    ),
    Fault(
        "closing CUDA memory in a lost context keeps the rest from being closed",
        "workers/on_gpu/regions.py",
        "if not error.is_sticky:  # when",
        "if error:  # when",
        (
            "tests/contract/test_device_regions_of_workers.py::test_memory_that_went_with_a_lost_context_is_let_go_of_without_a_word",
        ),
    ),
    Fault(
        "a signal ends a worker with work in flight",
        "workers/loop.py",
        "signal.signal(signal.SIGTERM, self._device_loop.terminate)",
        "self._device_loop.check_invariants()",
        (f"{WORKER}test_a_worker_that_is_terminated_answers_what_is_in_flight_and_dies_of_the_signal[auto]",),
    ),
    Fault(
        "what was planned outlives its region",
        BATCHES,
        "        self._placements.forget_region(number)",
        "        self._placements.check_invariants()",
        ("tests/contract/test_device_fuzz.py::test_every_request_is_answered_once_and_with_its_own_whatever_happens[0]",),
    ),
    Fault(
        "what is done again singly is counted as done",
        EXECUTOR,
        "                execution.is_repeated = True",
        "                execution.is_repeated = False",
        ("tests/contract/test_device_fuzz.py::test_every_request_is_answered_once_and_with_its_own_whatever_happens[1]",),
    ),
    Fault(
        "tensors are bound at any address",
        PLANS,
        "address % ALIGNMENT == 0",
        "address % 4 == 0",
        (f"{RUNNER}test_device_memory_is_copied_within_the_device_where_it_cannot_be_bound",),
    ),
    Fault(
        "what a device could not be given is what another request left there",
        PLANS,
        "content[...] = 0",
        "pass",
        (f"{RUNNER}test_what_could_not_be_read_is_zeros_to_the_model",),
    ),
    Fault(
        "the rows of requests that did not ask for an output are given to the next",
        OUTPUTS,
        "merge(spans, (), [share.starts[at] for at in positions])",
        "merge(spans)",
        (f"{RUNNER}test_outputs_that_some_did_not_ask_for_shift_nobody",),
    ),
    Fault(
        "an output is copied into a place that is too small for it",
        OUTPUTS,
        "if not is_promised:\n                self._writer.check_room",
        "if is_promised:\n                self._writer.check_room",
        (f"{RUNNER}test_a_place_that_is_too_small_says_how_much_is_needed_and_is_left_alone",),
    ),
    Fault(
        "a region is let go of under a batch",
        BATCHES,
        "        self._executor.drain(number)",
        "        self._executor.has_room(0)",
        (f"{RUNNER}test_a_region_is_let_go_of_when_what_uses_it_has_ended",),
    ),
    Fault(
        "a batch that was refused overtakes those before it",
        BATCHES,
        "elif flight.batch.lane not in behind:",
        "else:",
        (f"{RUNNER}test_batches_of_a_lane_are_reported_in_order_though_one_of_them_was_not_executed",),
    ),
    Fault(
        "stopping forgets what is in flight",
        "workers/loop.py",
        "            self._device_loop.drain()",
        "            self._device_loop.answer()",
        (f"{WORKER}test_stopping_answers_what_is_in_flight_first",),
    ),
    Fault(
        "a lost context is taken for a batch's own failure",
        EXECUTOR,
        "if isinstance(error, CudaError) and error.is_sticky:",
        "if isinstance(error, CudaError) and error.is_sticky is None:",
        (f"{WORKER}test_a_lost_context_costs_what_is_in_flight_and_the_worker_and_says_why",),
    ),
    Fault(
        "a sleeper hears of one lane only",
        LOOP,
        "watch = self._watches.get(lane)",
        "watch = self._watches.get(min(self._watches, default=lane))",
        (f"{WORKER}test_a_sleeper_is_woken_by_the_lane_that_ends_first",),
    ),
    Fault(
        "a sleeper trusts a thread that waits for something else",
        LOOP,
        "outdated = outdated or watch.event is not event",
        "outdated = outdated or watch.event is None",
        (f"{WORKER}test_a_sleep_is_short_while_its_thread_waits_for_what_is_not_awaited_any_more",),
    ),
    Fault(
        "samples warm one lane only",
        "workers/on_gpu/instance.py",
        "for lane in range(self._gpu.lanes):  # each",
        "for lane in range(1):  # each",
        (f"{RUNNER}test_warm_up_samples_go_the_way_of_requests",),
    ),
)
