# SPDX-License-Identifier: Apache-2.0
"""Faults of the Python client: tasks and their requests, arrays of other libraries, text."""

from __future__ import annotations

from fault import Fault

SESSION = "clients/async_session.py"
READER = "clients/loop_reader.py"
ARRAYS = "clients/arrays.py"

TASKS = "tests/contract/test_async_client.py::"
LOOP = "tests/unit/clients/test_loop_reader.py::"
TAKEN = "tests/unit/clients/test_arrays.py::"
CORNERS = "tests/contract/test_client_corners.py::"
EXCHANGE = "tests/contract/test_array_exchange.py::"

FAULTS = (
    Fault(
        "a cancelled task leaves its request alone",
        SESSION,
        "connection.cancel(entry, asyncio.CancelledError())",
        "pass",
        (f"{TASKS}test_wait_for_cancels",),
    ),
    Fault(
        "a task's deadline is not watched",
        SESSION,
        "self._reader.arm(entry.deadline_ns)",
        "pass",
        (f"{TASKS}test_deadlines_end_requests_that_a_broker_says_nothing_of[local]",),
    ),
    Fault(
        "every task connects for itself",
        SESSION,
        "            if self._attempt is None:\n                self._attempt = loop",
        "            if True:\n                self._attempt = loop",
        (f"{TASKS}test_no_broker_is_an_error_that_names_the_address_for_each_task[local]",),
    ),
    Fault(
        "tasks share one exception",
        SESSION,
        "raise copy.copy(error)",
        "raise error",
        (f"{TASKS}test_no_broker_is_an_error_that_names_the_address_for_each_task[local]",),
    ),
    Fault(
        "an error of a task keeps its request's memory",
        "clients/async_client.py",
        "            del entry, lease",
        "            pass",
        (f"{TASKS}test_memory_is_free_when_an_error_or_a_cancel_is_over_without_the_garbage_collector[local]",),
    ),
    Fault(
        "another loop is let in",
        SESSION,
        "            if self._loop is not None:\n                raise",
        "            if self._loop is None:\n                raise",
        (f"{TASKS}test_another_loop_or_thread_is_refused[local]",),
    ),
    Fault(
        "every request is a frame",
        READER,
        "        if not self._pushing:",
        "        if True:",
        (f"{LOOP}test_what_is_put_in_together_is_pushed_once",),
    ),
    Fault(
        "a later deadline replaces an earlier one",
        READER,
        "deadline_ns < self._due_ns)",
        "deadline_ns > self._due_ns)",
        (f"{LOOP}test_the_earliest_deadline_is_waited_for_and_then_the_next",),
    ),
    Fault(
        "memory of another device is read",
        ARRAYS,
        "if kind not in (CPU,",
        "if kind not in (2, CPU,",
        (f"{TAKEN}test_mistakes_name_the_input_what_it_is_and_what_was_given",),
    ),
    Fault(
        "fractions are cut off",
        ARRAYS,
        '.dtype.kind in "fc":',
        '.dtype.kind in "c":',
        (f"{TAKEN}test_mistakes_name_the_input_what_it_is_and_what_was_given",),
    ),
    Fault(
        "a slot goes back while a tensor shows it",
        "clients/buffers.py",
        "np.asarray(self) if isinstance(array, np.ndarray)",
        "array if isinstance(array, np.ndarray)",
        (f"{EXCHANGE}test_a_tensor_of_a_result_is_the_slot_s_memory_and_keeps_it",),
    ),
    Fault(
        "an array of a slot can be replaced",
        "clients/slots.py",
        "        raise TypeError(f\"a slot's arrays are written",
        "        return  # (f\"a slot's arrays are written",
        (f"{EXCHANGE}test_a_slot_s_arrays_cannot_be_replaced_by_mistake",),
    ),
    Fault(
        "a region of an earlier broker is used",
        "clients/arena.py",
        "        self._regions.append(PooledRegion(region, epoch))",
        "        self._regions.append(PooledRegion(region, self._broker.epoch))",
        ("tests/unit/clients/test_arena.py::test_a_region_of_an_earlier_broker_is_no_room",),
    ),
    Fault(
        "nobody doubts what is known of a model that refuses",
        "clients/inbox.py",
        "self._on_refusal(error)",
        "pass",
        (f"{CORNERS}test_a_future_that_is_refused_has_the_model_asked_for_again",),
    ),
    Fault(
        "a region registered twice is struck",
        "clients/region_book.py",
        "if region.name in regions or regions.setdefault",
        "if regions.setdefault",
        (f"{CORNERS}test_a_region_that_is_registered_twice_stays_registered",),
    ),
    Fault(
        "what is given back after close is kept",
        "clients/buffers.py",
        "            self._returned.clear()\n",
        "            pass\n",
        (f"{CORNERS}test_a_slot_that_is_closed_after_its_client_leaves_no_memory_behind",),
    ),
    Fault(
        "a message that cannot be encoded stays in the link",
        "clients/outbox.py",
        "except UNSPEAKABLE as error:",
        "except KeyError as error:",
        (f"{CORNERS}test_a_name_that_cannot_be_encoded_does_not_spoil_the_client",),
    ),
)
