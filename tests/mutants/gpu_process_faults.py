# SPDX-License-Identifier: Apache-2.0
"""Faults of what surrounds workers on a GPU: who shares one, the MPS daemon and its keeper, and what the doctor says."""

from __future__ import annotations

from fault import Fault

DAEMON = "runtime/mps/daemon.py"
KEEPER = "runtime/mps/keeper.py"
ARRIVALS = "runtime/arrivals.py"
DOCTOR = "clients/cli/checks/gpu.py"

PAPER = "tests/unit/runtime/test_mps_daemon.py::"
FLEET = "tests/unit/runtime/test_mps_in_the_fleet.py::"
KEPT = "tests/process/test_mps_keeper.py::"
CHECK = "tests/unit/cli/checks/test_checks.py::"

FAULTS = (
    Fault(
        "a worker that is alone on its GPU gets MPS",
        DAEMON,
        "(sharing > 1 and self.state is not MpsState.LOST)",
        "(sharing > 0 and self.state is not MpsState.LOST)",
        (f"{PAPER}test_a_worker_alone_on_its_gpu_and_one_on_the_cpu_need_no_daemon",),
    ),
    Fault(
        "the user's own daemon is passed over",
        DAEMON,
        "is_ours = self.state is not MpsState.THEIRS",
        "is_ours = True",
        (f"{PAPER}test_a_daemon_of_the_users_own_is_used_and_not_touched",),
    ),
    Fault(
        "workers whose daemon died find out with their next batch",
        DAEMON,
        "users, self._users = self._users, set()",
        "users, self._users = set(), set()",
        (f"{PAPER}test_a_daemon_that_dies_takes_its_users_along_and_comes_back_with_back_off",),
    ),
    Fault(
        "a daemon that died is started again at once",
        DAEMON,
        "self.due_ns = now_ns + delay_ns",
        "self.due_ns = now_ns",
        (f"{PAPER}test_a_daemon_that_dies_takes_its_users_along_and_comes_back_with_back_off",),
    ),
    Fault(
        "with on a model loads without MPS",
        DAEMON,
        "        if self._mode is MpsMode.AUTO:\n            instance.send(order)",
        "        if self._mode is not MpsMode.OFF:\n            instance.send(order)",
        (f"{PAPER}test_where_none_can_be_had_on_loads_nothing_and_says_why",),
    ),
    Fault(
        "a worker that was killed while it waited is told to load",
        DAEMON,
        "            if not instance.is_ending:\n                tell(instance, order)",
        "            if instance:\n                tell(instance, order)",
        (f"{PAPER}test_a_worker_that_ended_while_it_waited_is_told_nothing",),
    ),
    Fault(
        "a worker without MPS counts as having it",
        DAEMON,
        "        if has_mps or instance not in self._users:\n",
        "        if has_mps is not None or instance not in self._users:\n",
        (f"{PAPER}test_a_worker_that_expected_a_daemon_and_has_none_is_named",),
    ),
    Fault(
        "workers of other models do not share",
        ARRIVALS,
        "others = sum(each.gpu == plan.uuid and each.model.label != model.label for",
        "others = sum(each.gpu == plan.uuid and each.model.label == model.label for",
        (f"{FLEET}test_a_worker_of_another_model_on_the_same_gpu_counts",),
    ),
    Fault(
        "a worker shares its GPU with the one that it replaces",
        ARRIVALS,
        "each.model.label != model.label for",
        "each.model is not model for",
        (f"{FLEET}test_a_worker_that_replaces_another_does_not_share_with_it_but_one_of_another_version_does",),
    ),
    Fault(
        "the end of the MPS daemon is a crash of its workers",
        DAEMON,
        "                instance.blameless = True\n",
        "                pass\n",
        (f"{FLEET}test_a_daemon_that_dies_again_and_again_is_done_without_and_costs_no_model",),
    ),
    Fault(
        "with on a worker serves that does not reach the daemon",
        DAEMON,
        "if self._mode is MpsMode.ON and instance.gpu:",
        "if self._mode is MpsMode.OFF and instance.gpu:",
        (f"{PAPER}test_with_on_a_worker_that_does_not_reach_the_daemon_is_not_loaded",),
    ),
    Fault(
        "workers on other GPUs share",
        ARRIVALS,
        "sum(each.uuid == plan.uuid for each in model.config.workers())",
        "sum(each.gpu != NO_GPU for each in model.config.workers())",
        (f"{FLEET}test_one_worker_on_each_gpu_and_workers_on_the_cpu_share_nothing",),
    ),
    Fault(
        "a server outlives its daemon",
        KEEPER,
        "while found := children(os.getpid()):",
        "while found := children(os.getpid())[:0]:",
        (f"{KEPT}test_a_daemon_that_dies_is_reported_and_its_server_ended",),
    ),
    Fault(
        "the daemon sees fewer GPUs than the workers",
        KEEPER,
        'if name != "CUDA_VISIBLE_DEVICES"',
        'if name != ""',
        (f"{KEPT}test_a_daemon_answers_and_goes_with_everything_when_the_broker_is_gone",),
    ),
    Fault(
        "the doctor takes a program for a daemon",
        DOCTOR,
        '    if answer["is_used"]:',
        '    if answer["program"]:',
        (f"{CHECK}test_what_is_found_has_a_verdict_and_what_is_wrong_a_consequence_and_a_fix",),
    ),
    Fault(
        "the doctor is content with slow pinning",
        DOCTOR,
        "if per_gb > SLOW_PINNING_S_PER_GB:",
        "if per_gb > 100 * SLOW_PINNING_S_PER_GB:",
        (f"{CHECK}test_what_is_found_has_a_verdict_and_what_is_wrong_a_consequence_and_a_fix",),
    ),
    Fault(
        "the doctor waits for a driver that hangs",
        DOCTOR,
        "process.communicate(timeout=limit_s)",
        "process.communicate(timeout=60 * limit_s)",
        (f"{CHECK}test_a_question_that_is_not_answered_in_time_is_ended_and_is_a_finding",),
    ),
)
