# SPDX-License-Identifier: Apache-2.0
"""Faults of reports: what is hidden, what is taken for what it is not, what of a run becomes markup."""

from __future__ import annotations

from fault import Fault

READING = "clients/report/reading.py"
CHOOSING = "clients/report/choosing.py"
COMPARISON = "clients/report/comparison.py"
TABLES = "clients/report/tables.py"

RUNS = "tests/unit/clients/report/test_report_reading.py::"
PLOTS = "tests/unit/clients/report/test_choosing_plots.py::"
CELLS = "tests/unit/clients/report/test_report_tables.py::"
PAGES = "tests/unit/clients/report/test_report_pages.py::"

FAULTS = (
    Fault(
        "a run of another format is passed over",
        READING,
        '_FORMAT_NAME = FORMAT.rpartition(" ")[0]',
        "_FORMAT_NAME = FORMAT",
        (f"{RUNS}test_a_document_that_says_it_is_a_run_and_is_not_is_never_passed_over",),
    ),
    Fault(
        "a run that is cut off is passed over",
        "clients/perf/run_file.py",
        'return found[1].decode(errors="replace") if found else ""',
        'return ""',
        (f"{RUNS}test_nor_is_one_that_is_cut_off_or_no_json",),
    ),
    Fault(
        "what does not vary is plotted as if it did",
        CHOOSING,
        "return sorted(curves or values)",
        "return sorted(values)",
        (f"{PLOTS}test_an_offline_and_an_online_run_side_by_side_make_no_plot_of_one_bar",),
    ),
    Fault(
        "an open loop stands where so many were in flight",
        "clients/report/levels.py",
        'if row.request_rate is None else Level("rate", row.request_rate)',
        'if row.request_rate is None else Level("concurrency", row.concurrency)',
        (
            f"{PLOTS}test_closed_and_open_loops_share_no_axis_of_load",
            f"{CELLS}test_runs_with_nothing_in_common_are_not_compared",
        ),
    ),
    Fault(
        "differences within the confidence intervals count",
        COMPARISON,
        "after > before, are_stable and not do_overlap)",
        "after > before, are_stable)",
        (f"{CELLS}test_what_may_be_chance_is_neither_better_nor_worse",),
    ),
    Fault(
        "rows that are not stable are better or worse",
        COMPARISON,
        "are_stable = first.stable and other.stable",
        "are_stable = first.stable or other.stable",
        (f"{CELLS}test_a_row_that_is_not_stable_is_signed_in_a_comparison_too",),
    ),
    Fault(
        "failed requests are not signed",
        TABLES,
        '+ ("‡" if row.failed else "")',
        '+ ("‡" if row.failed and not row.stable else "")',
        (f"{CELLS}test_rows_that_are_not_stable_failed_or_have_notes_are_signed_in_every_table",),
    ),
    Fault(
        "an incomplete run passes for a complete one",
        "clients/report/attention.py",
        "if not run.complete:",
        "if not run.complete and not run.rows:",
        (f"{CELLS}test_what_a_reader_must_know_is_said_first_whatever_it_is",),
    ),
    Fault(
        "a large run loses its largest load",
        "clients/report/levels.py",
        "(len(found) - 1) / (most - 1)",
        "(len(found) - 1) / most",
        (f"{PLOTS}test_a_large_run_stays_readable_and_says_what_it_leaves_to_the_tables",),
    ),
    Fault(
        "what comes from a run is markup",
        "clients/report/page.py",
        "autoescape=True",
        "autoescape=False",
        (f"{PAGES}test_what_comes_from_a_run_is_never_markup",),
    ),
    Fault(
        "a bar in a cell ends it",
        "clients/report/markdown.py",
        r"""re.compile(r"([\\`*_\[\]#|~$])")""",
        r"""re.compile(r"([\\`*_\[\]#~$])")""",
        (f"{PAGES}test_a_cell_of_a_table_is_one_cell_whatever_is_in_it",),
    ),
    Fault(
        "drawings on a page share their names",
        "clients/report/drawing.py",
        """re.sub(r' id="', f' id="{plot.name}-', svg)""",
        """re.sub(r' id="', f' id="plot-', svg)""",
        (f"{PAGES}test_no_two_things_on_the_page_have_one_name_and_every_reference_leads_to_one",),
    ),
)
