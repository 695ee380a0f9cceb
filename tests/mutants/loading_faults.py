# SPDX-License-Identifier: Apache-2.0
"""Faults of loading and unloading: what serves meanwhile, who is waited for, what is loaded again, what is left behind."""

from __future__ import annotations

from fault import Fault

LOADS = "runtime/loads.py"
ROLLOUTS = "runtime/rollouts.py"
DEPARTURES = "runtime/departures.py"
CHANGES = "runtime/repository/changes.py"

STORY = "tests/unit/runtime/test_loads.py::"
CHANGE = "tests/unit/repository/test_changes.py::"
JOB = "tests/unit/repository/test_jobs.py::"
FLEET = "tests/unit/runtime/test_fleet.py::"
SCHEDULER = "tests/unit/scheduling/test_scheduler.py::"

FAULTS = (
    Fault(
        "the new is put in the place of the old before it is up",
        ROLLOUTS,
        "        if not self.is_beside:\n            self._generations.clear",
        "        if self.is_beside:\n            self._generations.clear",
        (f"{STORY}test_the_old_serves_until_all_of_the_new_is_up",),
    ),
    Fault(
        "the first version that is up is enough for the switch",
        ROLLOUTS,
        "return not any(model.awaited for model in",
        "return any(model.accepts for model in",
        (f"{STORY}test_versions_that_are_loaded_again_change_over_together",),
    ),
    Fault(
        "half of a model takes the place of a whole one",
        ROLLOUTS,
        "if model.state is ModelState.UNAVAILABLE or (self.is_beside and model.lost)",
        "if model.state is ModelState.UNAVAILABLE",
        (f"{STORY}test_a_load_that_fails_keeps_the_old",),
    ),
    Fault(
        "instances that came with a change that failed stay",
        ROLLOUTS,
        "self._fleet.departures.release(model, added)",
        "self._fleet.departures.release(model, set())",
        (f"{STORY}test_an_instance_that_cannot_be_added_leaves_the_others_as_they_were",),
    ),
    Fault(
        "a model that was given up counts as loaded",
        LOADS,
        "if current and all(model.accepts for model in current) else None",
        "if current else None",
        (f"{STORY}test_what_has_not_changed_is_not_loaded_again_unless_it_was_given_up",),
    ),
    Fault(
        "an unload waits for loads that may never end",
        LOADS,
        "            if load.order is not None:\n                self._abort",
        "            if load.order is self:\n                self._abort",
        (f"{STORY}test_an_unload_ends_the_loads_before_it_and_their_workers",),
    ),
    Fault(
        "an unload is over while workers are there",
        LOADS,
        "if load.is_over or self._models.generations(load.name):",
        "if load.is_over:",
        (f"{STORY}test_an_unload_is_over_when_the_last_worker_has_left",),
    ),
    Fault(
        "placements are remembered beyond a switch",
        LOADS,
        '"""Requests that ask for no version may have to go to this one."""\n        self._switched()',
        '"""Requests that ask for no version may have to go to this one."""\n        self._settings',
        (f"{STORY}test_a_placement_is_forgotten_when_a_higher_version_is_up",),
    ),
    Fault(
        "a worker that is loading is left alone when its model is unloaded",
        DEPARTURES,
        "for instance in [instance for instance in model.instances if instance.is_loading]:",
        "for instance in [instance for instance in model.instances if instance.load_error]:",
        (f"{STORY}test_an_unload_ends_the_loads_before_it_and_their_workers",),
    ),
    Fault(
        "who does not leave is waited for for ever",
        DEPARTURES,
        "self._patience.set(instance.number, self._clock() + self._kill_ns)",
        "self._patience.cancel(instance.number)",
        (f"{STORY}test_a_worker_that_does_not_leave_in_time_is_killed",),
    ),
    Fault(
        "an instance that is to leave is sent more",
        "runtime/scheduling/instances.py",
        "if not (instance.leaving or instance.killed):\n            self._leave(instance)",
        "if not (instance.leaving or instance.killed):\n            self.open += 0",
        (f"{SCHEDULER}test_an_instance_that_is_sent_away_finishes_what_it_has_and_gets_no_more",),
    ),
    Fault(
        "an instance of another setting is taken for the same",
        CHANGES,
        "return any(old[name] != new[name] for name in old.keys() & new.keys())",
        "return any(old[name] != old[name] for name in old.keys() & new.keys())",
        (f"{CHANGE}test_an_instance_of_the_same_name_with_other_settings_is_another_one",),
    ),
    Fault(
        "more instances load at once than are allowed",
        "runtime/launches.py",
        "self._waiting and loading < self._at_once",
        "self._waiting and loading <= self._at_once",
        (f"{STORY}test_no_more_instances_load_at_once_than_are_allowed",),
    ),
    Fault(
        "files that came with a load stay when it is over",
        "runtime/repository/origins.py",
        "if self._private is not None and not TRANSITIONS[moment]:",
        "if self._private is not None and moment is Moment.LOAD:",
        (f"{JOB}test_files_that_come_along_lie_in_a_directory_of_their_own_until_the_end",),
    ),
    Fault(
        "what waits is handed over before an instance's end is told",
        "runtime/core.py",
        "if type(event) is not InstanceGone:",
        "if event is not None:",
        (f"{FLEET}test_a_request_read_just_before_its_worker_died_goes_to_another",),
    ),
    Fault(
        "a worker that is being killed goes on with its start",
        "runtime/instances.py",
        "return self.state is InstanceState.STOPPING or bool(self.verdict)",
        "return self.state is InstanceState.STOPPING",
        (f"{STORY}test_a_worker_that_is_being_killed_starts_no_others",),
    ),
    Fault(
        "versions that were not found stay",
        ROLLOUTS,
        "if model.version not in self.opened.source.versions:",
        "if self._change.kept and model.version not in self.opened.source.versions:",
        (f"{STORY}test_a_version_that_is_not_there_any_more_goes_though_another_is_unavailable",),
    ),
    Fault(
        "an instance that was not wanted is nobody's last",
        "runtime/fleet.py",
        "self._losses.released(model)",
        "pass",
        (f"{STORY}test_a_model_whose_last_instance_is_not_wanted_any_more_is_unavailable",),
    ),
    Fault(
        "a survey goes on while the broker stops",
        "runtime/core.py",
        "self.surveys.abandon()",
        "self.surveys.check_invariants()",
        ("tests/unit/runtime/test_surveys.py::test_what_a_survey_finds_while_the_broker_stops_is_not_loaded",),
    ),
)
