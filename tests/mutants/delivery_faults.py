# SPDX-License-Identifier: Apache-2.0
"""Faults of what the broker tells whom: outcomes, outputs and descriptors to clients; which workers are started again."""

from __future__ import annotations

from fault import Fault

DELIVERY = "runtime/delivery.py"
FLEET = "runtime/fleet.py"

OUTCOMES = "tests/unit/runtime/test_delivery.py::"
INSTANCES = "tests/unit/runtime/test_fleet.py::"

FAULTS = (
    Fault(
        "requests that are read together are batched one by one",
        "runtime/core.py",
        "arrived, self.arrived = self.arrived, []",
        "arrived, self.arrived = self.arrived[:1], self.arrived[1:]",
        (f"{OUTCOMES}test_requests_that_are_read_together_are_one_batch",),
    ),
    Fault(
        "a region is handed to a worker with each request",
        DELIVERY,
        "if region.number not in mapped:",
        "if region.number not in items:",
        (f"{OUTCOMES}test_a_region_is_handed_to_a_worker_with_the_first_request_in_it_only",),
    ),
    Fault(
        "a report for fewer requests than the batch has is taken",
        DELIVERY,
        "len(report.items) != len(batch.requests)",
        "len(report.items) > len(batch.requests)",
        (f"{OUTCOMES}test_a_report_for_another_number_of_requests_fails_them_all",),
    ),
    Fault(
        "the requests of a batch that failed succeed",
        "runtime/replies.py",
        "if report.message:",
        "if report.message and report.items:",
        (f"{OUTCOMES}test_a_batch_that_fails_is_the_outcome_of_each_of_its_requests",),
    ),
    Fault(
        "a request that failed alone succeeds",
        "runtime/replies.py",
        "if item.code:",
        "if item.code and item.outputs:",
        (f"{OUTCOMES}test_a_request_that_fails_alone_costs_no_other",),
    ),
    Fault(
        "another output than was asked for is delivered",
        "runtime/replies.py",
        "[model.output_position[place.name] for place in places]:",
        "[output.output for output in item.outputs]:",
        (f"{OUTCOMES}test_outputs_that_were_not_asked_for_fail_their_request",),
    ),
    Fault(
        "a request gets the descriptor of another",
        DELIVERY,
        "next(waiting, None) if item.fds else None",
        "next(waiting, None)",
        (f"{OUTCOMES}test_each_request_gets_the_memory_of_its_own_outputs",),
    ),
    Fault(
        "parts are read from the beginning of their memory",
        "runtime/replies.py",
        "os.pread(fd, output.byte_size, output.offset)",
        "os.pread(fd, output.byte_size, 0)",
        (f"{OUTCOMES}test_a_client_that_takes_no_descriptors_gets_unplaced_outputs_as_parts",),
    ),
    Fault(
        "a client is not told when its memory is free",
        "runtime/replies.py",
        "request.client.link.put(Released(request.client_id))",
        "pass",
        ("tests/unit/runtime/test_core.py::test_a_cancelled_request_at_a_worker_has_its_outcome_now_and_its_release_later",),
    ),
    Fault(
        "another protocol is spoken with",
        "runtime/reception.py",
        "if message.protocol != PROTOCOL:",
        "if message.protocol < PROTOCOL:",
        (f"{OUTCOMES}test_another_protocol_is_refused_with_both_versions",),
    ),
    Fault(
        "one instance that is given up takes its model along",
        "runtime/losses.py",
        "if model.instances or self._launches.expects(model):",
        "if self._launches.expects(model):",
        (f"{INSTANCES}test_an_instance_that_is_given_up_does_not_take_the_others_along",),
    ),
    Fault(
        "a model is given up while an instance is to be started again",
        "runtime/losses.py",
        "if model.instances or self._launches.expects(model):",
        "if model.instances:",
        (f"{INSTANCES}test_a_model_is_not_given_up_while_an_instance_is_to_be_started_again",),
    ),
    Fault(
        "a model that cannot be loaded is loaded again and again",
        "runtime/losses.py",
        "if instance.load_error is not None:",
        "if instance.load_error is instance:",
        (f"{INSTANCES}test_a_model_that_cannot_be_loaded_is_not_tried_again",),
    ),
    Fault(
        "a model that contradicts its configuration is served",
        FLEET,
        "check_against(config, message.signature)",
        "pass",
        (f"{INSTANCES}test_a_model_that_contradicts_its_configuration_is_not_served",),
    ),
    Fault(
        "the mappings of a dead worker are remembered",
        FLEET,
        "self._regions.instance_gone(instance)",
        "pass",
        (f"{INSTANCES}test_what_a_dead_worker_had_mapped_is_forgotten",),
    ),
    Fault(
        "a delay of a microsecond is one of a nanosecond",
        FLEET,
        "batching.max_queue_delay_us * 1000",
        "batching.max_queue_delay_us",
        (f"{INSTANCES}test_a_policy_is_the_configuration_in_the_schedulers_units",),
    ),
    Fault(
        "without a version the lowest is meant",
        "runtime/models.py",
        "in reversed(staying) if model.accepts",
        "in staying if model.accepts",
        (f"{INSTANCES}test_without_a_version_the_highest_that_accepts_requests_is_meant",),
    ),
)
