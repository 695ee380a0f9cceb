# SPDX-License-Identifier: Apache-2.0
"""Faults of placement: kinds and GPUs, lanes, what is bound to a GPU, the survey."""

from __future__ import annotations

from fault import Fault

PLACEMENT = "runtime/repository/placement.py"
SPREAD = "runtime/scheduling/spread.py"
KINDS = "tests/unit/repository/test_placement.py::"
BOUND = "tests/unit/scheduling/test_spread.py::"
LANES = "tests/unit/scheduling/test_lanes.py::"
SURVEY = "tests/contract/test_gpu_survey.py::"
SERVED = "tests/unit/runtime/test_gpu_instances.py::"

FAULTS = (
    Fault(
        "a backend whose package is for the CPU is put on a GPU",
        PLACEMENT,
        "and bool(placing.gpus().found) and backend in placing.gpus().backends",
        "and bool(placing.gpus().found)",
        (f"{KINDS}test_a_group_gets_the_kind_that_triton_would_give_it",),
    ),
    Fault(
        "with fallback a GPU that is there is not used",
        PLACEMENT,
        "use is not GpuUse.ONLY and not placing.gpus().found:",
        "use is not GpuUse.ONLY:",
        (f"{KINDS}test_with_fallback_a_gpu_that_is_there_is_used",),
    ),
    Fault(
        "lanes are shared across GPUs",
        PLACEMENT,
        "worker = filling.get(seat.gpu, [])",
        "worker = filling.get(0, [])",
        (f"{KINDS}test_lanes_are_instances_of_one_group_on_one_gpu_that_share_a_worker",),
    ),
    Fault(
        "a model that moves to other GPUs is resized in place",
        "runtime/repository/changes.py",
        "if before.source.config.devices != after.source.config.devices:",
        "if before.source.config.devices == set():",
        (f"{SERVED}test_a_model_whose_devices_change_is_loaded_anew",),
    ),
    Fault(
        "a worker sees all GPUs",
        "runtime/arrivals.py",
        'return {} if plan.gpu == NO_GPU else {"CUDA_VISIBLE_DEVICES": plan.uuid}',
        'return {} if plan.gpu == NO_GPU else {"CUDA_VISIBLE_DEVICES": "0,1"}',
        (f"{SERVED}test_a_worker_is_told_its_gpu_and_sees_no_other",),
    ),
    Fault(
        "what may have been begun on a GPU is executed again",
        "runtime/scheduling/instances.py",
        "return min(1, len(self.batches)) if self.gpu == NO_GPU else len(self.batches)",
        "return min(1, len(self.batches))",
        (f"{LANES}test_when_a_worker_on_a_gpu_dies_all_that_it_was_sent_fails_once",),
    ),
    Fault(
        "the lanes of a worker that is killed go on getting batches",
        "runtime/scheduling/dispatcher.py",
        "for number in instance.lanes if number in self.instances]:",
        "for number in (instance.number,)]:",
        (f"{LANES}test_a_lane_that_runs_too_long_costs_its_worker_the_life",),
    ),
    Fault(
        "a worker is told to go when its first lane is empty",
        "runtime/departures.py",
        "if instance.vacant == instance.lanes:",
        "if instance.vacant == 1:",
        (f"{SERVED}test_a_worker_that_is_not_wanted_is_told_to_go_when_all_its_lanes_are_empty",),
    ),
    Fault(
        "a bound request goes wherever there is room",
        SPREAD,
        "for instance in instances.values() if instance.gpu == gpu)",
        "for instance in instances.values() if instance)",
        (f"{BOUND}test_a_bound_request_goes_to_its_gpu_though_another_is_idle",),
    ),
    Fault(
        "the queue of a GPU is never behind the common one",
        SPREAD,
        "                self._turns.append(gpu)",
        "                self._turns.insert(0, gpu)",
        (f"{BOUND}test_a_flood_of_one_queue_does_not_starve_another",),
    ),
    Fault(
        "what may go anywhere takes the GPU that others wait for",
        SPREAD,
        "                if instance.gpu not in self.wanted:",
        "                if instance.gpu in self.wanted:",
        (f"{BOUND}test_what_may_go_anywhere_leaves_an_idle_gpu_to_those_who_need_it",),
    ),
    Fault(
        "what is bound to a lost GPU waits for ever",
        "runtime/losses.py",
        "            if not self._launches.expects(model, names):",
        "            if not self._launches.expects(model) and not names:",
        (f"{SERVED}test_memory_on_a_gpu_whose_instances_were_given_up_is_refused_with_the_reason",),
    ),
    Fault(
        "a survey that failed is the last word",
        "runtime/gpu_survey.py",
        "            return self._failure\n        self.found",
        "            gpus = self._failure\n        self.found",
        (f"{SURVEY}test_a_survey_that_fails_is_a_reason_and_is_tried_again",),
    ),
    Fault(
        "a survey is waited for when the broker leaves",
        "runtime/gpu_survey.py",
        "            child.send_signal(signal.SIGKILL)",
        "            child.poll()",
        (f"{SURVEY}test_a_broker_that_leaves_waits_for_no_driver",),
    ),
    Fault(
        "a GPU is not lost with an instance that is not wanted any more",
        "runtime/losses.py",
        '"no instance is left")\n            self.gpus_lost(model)',
        '"no instance is left")\n            pass',
        (f"{SERVED}test_a_gpu_that_a_smaller_model_leaves_to_an_instance_that_was_given_up_is_lost",),
    ),
    Fault(
        "a GPU is not lost with an instance that was attached by hand",
        "runtime/losses.py",
        "            self._perhaps_down(instance.model, reason)\n            self.gpus_lost(instance.model)",
        "            self._perhaps_down(instance.model, reason)\n            pass",
        (f"{SERVED}test_a_gpu_whose_only_instance_was_attached_by_hand_is_lost_with_it",),
    ),
    Fault(
        "an instance is started again where the configuration of the moment has the first",
        "runtime/arrivals.py",
        "plan = launch.plan",
        "plan = launch.model.config.worker_of(launch.name)",
        (f"{SERVED}test_a_worker_that_crashes_while_its_model_changes_its_size_comes_back_to_its_own_gpu",),
    ),
    Fault(
        "a survey that fails is made again at once",
        "runtime/gpu_survey.py",
        "self._failure_until = 2 * self._clock() - began",
        "self._failure_until = self._clock()",
        (f"{SURVEY}test_a_failure_stands_for_as_long_as_it_took",),
    ),
    Fault(
        "a region that was unregistered is registered when the survey ends",
        "runtime/registrations.py",
        "            self._waiting.remove(entry)\n            self._core.reception.send(session,",
        "            pass\n            self._core.reception.send(session,",
        (
            "tests/unit/runtime/test_device_regions.py::test_what_is_unregistered_before_the_survey_ended_is_not_registered_by_it",
        ),
    ),
)
