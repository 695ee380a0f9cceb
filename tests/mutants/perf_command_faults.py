# SPDX-License-Identifier: Apache-2.0
"""Faults of `penstock perf` as a command: what is refused, what is kept of a run, what its tables say."""

from __future__ import annotations

from fault import Fault

ASKED = "clients/cli/perf_asked.py"
COMMAND = "clients/cli/perf_command.py"
PROGRESS = "clients/cli/perf_progress.py"
CONFIGURATION = "clients/perf/configuration.py"
KEEPING = "clients/perf/run_keeping.py"
RUN_FILE = "clients/perf/run_file.py"
TABLES = "clients/perf/run_tables.py"

OPTIONS = "tests/unit/cli/test_perf_asked.py::"
FILES = "tests/unit/clients/perf/test_run_tables.py::"
TABLE = "tests/unit/clients/perf/test_perf_configuration.py::"
RUNS = "tests/process/test_perf_runs.py::"

FAULTS = (
    Fault(
        "a file is written where it lies",
        RUN_FILE,
        'beside = path.with_name(path.name + ".part")',
        "beside = path",
        (f"{FILES}test_a_file_that_cannot_be_replaced_stays_as_it_was",),
    ),
    Fault(
        "a run passes for complete while it is measured",
        KEEPING,
        "self._run = msgspec.structs.replace(run, complete=False)",
        "self._run = run",
        (f"{FILES}test_files_say_at_any_time_what_is_known", f"{FILES}test_a_run_that_stops_says_why_and_stays_incomplete"),
    ),
    Fault(
        "files are written at the end only",
        KEEPING,
        "seconds=round(seconds, 1))\n        self._write()",
        "seconds=round(seconds, 1))\n        self.check_invariants()",
        (f"{FILES}test_files_say_at_any_time_what_is_known",),
    ),
    Fault(
        "nobody is told that a run takes the place of another",
        KEEPING,
        "if path.exists()]",
        "if not path.exists()]",
        (f"{FILES}test_a_run_that_takes_the_place_of_another_says_which_files_it_replaces",),
    ),
    Fault(
        "a limit that nothing is above",
        "clients/cli/perf_options.py",
        "if not isfinite(found):",
        "if found is None:",
        (f"{OPTIONS}test_what_makes_no_sense_is_wrong_usage_and_says_why",),
    ),
    Fault(
        "an interrupt loses the table",
        COMMAND,
        "        if kept.run.rows:\n",
        "        if kept.run.complete:\n",
        (f"{RUNS}test_interrupted_between_rows_it_keeps_them", f"{RUNS}test_a_broker_that_dies_costs_the_row_under_way"),
    ),
    Fault(
        "a failure in the middle loses what was measured",
        COMMAND,
        "    except PenstockError as error:\n        return CommandFailed(str(error))",
        "    except PenstockError as error:\n        raise CommandFailed(str(error)) from error",
        (f"{RUNS}test_a_broker_that_dies_costs_the_row_under_way",),
    ),
    Fault(
        "an open loop is offline as well",
        ASKED,
        'not _is_online(options) and options["request_rates"]',
        'False and options["request_rates"]',
        (f"{OPTIONS}test_what_makes_no_sense_is_wrong_usage_and_says_why",),
    ),
    Fault(
        "every process is allowed what all are",
        ASKED,
        'max_in_flight * options["processes"]',
        "max_in_flight",
        (f"{OPTIONS}test_by_default_no_more_at_once_than_the_server_allows_its_clients",),
    ),
    Fault(
        "an open loop prepares all that may be in flight",
        ASKED,
        "ceil(rate * STALL_S)), max_in_flight)",
        "max_in_flight), max_in_flight)",
        (f"{OPTIONS}test_an_open_loop_can_have_in_flight_what_comes_due_in_a_stall_of_two_seconds",),
    ),
    Fault(
        "a model that fell back to the CPU is accelerated",
        CONFIGURATION,
        'for kind in kinds or ("gpu", "cpu")',
        'for kind in ("gpu", "cpu")',
        (f"{TABLE}test_an_accelerator_of_gpus_is_none_where_the_model_fell_back_to_the_cpu",),
    ),
    Fault(
        "two instances on one GPU are two GPUs",
        CONFIGURATION,
        "for gpu in dict.fromkeys(served.instances or ()) if gpu",
        "for gpu in (served.instances or ()) if gpu",
        (f"{TABLE}test_a_plan_says_whether_graphs_are_captured",),
    ),
    Fault(
        "a search has found what it tried last",
        TABLES,
        "best = max(within, key=lambda row: row.request_rate or row.concurrency)",
        "best = within[-1]",
        (f"{FILES}test_a_search_has_found_the_most_load_of_each_batch_size_that_is_within_the_threshold",),
    ),
    Fault(
        "text of users ends a cell",
        TABLES,
        '.replace("|", "\\\\|")',
        '.replace("|", "|")',
        (f"{FILES}test_text_of_users_stays_in_its_cell",),
    ),
    Fault(
        "a row that was stable early takes all its windows",
        PROGRESS,
        "self.rows, self.windows = self.rows + 1, 0",
        "self.rows += 1",
        ("tests/unit/cli/test_perf_progress.py::test_every_row_takes_all_its_windows_at_most",),
    ),
)
