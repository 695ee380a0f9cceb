# SPDX-License-Identifier: Apache-2.0
"""Which plots there are, what is in each, and what is left to the tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_documents import BATCHES, offline, row, run

from penstock.clients.perf.run_file import Run
from penstock.clients.report.choosing import MOST_LINES, STAGES, plots_of
from penstock.clients.report.label_places import Box, free_places
from penstock.clients.report.levels import spread
from penstock.clients.report.plots import LinePlot, Plot, StackPlot
from penstock.clients.report.reading import numbered


def plots(*runs: Run) -> dict[str, Plot]:
    found = plots_of(numbered(runs))
    assert len({plot.name for plot in found}) == len(found)
    return {plot.name: plot for plot in found}


def lines_of(plot: Plot) -> LinePlot:
    assert isinstance(plot, LinePlot)
    return plot


def stacks_of(plot: Plot) -> StackPlot:
    assert isinstance(plot, StackPlot)
    return plot


def test_an_offline_run_has_the_plots_of_a_model_page() -> None:
    found = plots(run(offline()))
    assert list(found) == [
        "throughput-vs-batch", "throughput-vs-latency-by-batch", "latency-vs-batch-at-concurrency-1", "percentiles-vs-batch",
    ]  # fmt: skip
    throughput = lines_of(found["throughput-vs-batch"])
    assert (throughput.x.scale, throughput.x.ticks) == ("log2", BATCHES)
    (line,) = throughput.lines
    assert [(mark.x, mark.y) for mark in line.marks] == [(each.batch, each.inferences_per_s) for each in offline()]


def test_an_online_run_has_them_by_concurrency_and_an_open_loop_by_its_rate() -> None:
    online = plots(run([row(1, each) for each in (8, 16, 256)]))
    assert list(online) == [
        "throughput-vs-concurrency", "throughput-vs-latency-by-concurrency", "latency-vs-concurrency-at-batch-1",
        "percentiles-vs-concurrency",
    ]  # fmt: skip
    assert lines_of(online["throughput-vs-concurrency"]).x.ticks == (8, 16, 256)
    rates = plots(run([row(1, 3, each) for each in (50.0, 100.0, 120.5)], load="poisson"))
    assert [name.replace("rate", "concurrency") for name in rates] == list(online)
    assert [group.label for group in stacks_of(rates["latency-vs-rate-at-batch-1"]).groups] == ["50", "100", "120.5"]


def test_a_single_row_is_one_bar_and_no_curve() -> None:
    (plot,) = plots(run([row(4, 2)])).values()
    (group,) = stacks_of(plot).groups
    assert (group.label, len(group.bars)) == ("2", 1)


def test_bars_stack_up_to_the_mean_latency() -> None:
    rows = offline()
    groups = stacks_of(plots(run(rows))["latency-vs-batch-at-concurrency-1"]).groups
    assert [sum(bar.parts) for group in groups for bar in group.bars] == pytest.approx([each.avg_latency_ms for each in rows])
    assert [column.key for column in STAGES] == [
        "client_send_ms", "network_ms", "queue_ms", "compute_input_ms", "compute_infer_ms", "compute_output_ms", "client_recv_ms",
        "unaccounted_ms",
    ]  # fmt: skip


def test_what_rounding_left_over_is_no_bar_below_the_axis() -> None:
    (plot,) = plots(run([row(unaccounted_ms=-1e-6)])).values()
    assert min(stacks_of(plot).groups[0].bars[0].parts) == 0


def test_of_several_runs_each_has_its_colour_in_every_plot_and_its_number_at_its_bars() -> None:
    found = plots(run(offline((1, 8))), run(offline((1, 8, 64)), title="other"))
    assert [(line.colour, line.label) for line in lines_of(found["throughput-vs-batch"]).lines] == [
        (0, "1: digits, offline, local link"), (1, "2: other"),
    ]  # fmt: skip
    assert {line.colour for line in lines_of(found["percentiles-vs-batch"]).lines} == {0, 1}
    groups = stacks_of(found["latency-vs-batch-at-concurrency-1"]).groups
    assert [(group.label, [bar.label for bar in group.bars]) for group in groups] == [
        ("1", ["1", "2"]), ("8", ["1", "2"]), ("64", ["2"]),
    ]  # fmt: skip


def test_closed_and_open_loops_share_no_axis_of_load() -> None:
    found = plots(run([row(1, 8), row(1, 16)]), run([row(1, 8, 100.0), row(1, 9, 200.0)], load="poisson"))
    assert [len(lines_of(found[f"throughput-vs-{kind}"]).lines) for kind in ("concurrency", "rate")] == [1, 1]


def test_an_offline_and_an_online_run_side_by_side_make_no_plot_of_one_bar() -> None:
    # Given the two runs that measure a model as its page has it: they meet nowhere, but at batch 1
    offline_run, online_run = run(offline()), run([row(1, each) for each in (8, 16, 32)], title="online")
    # When they are reported together
    found = plots(offline_run, online_run)
    # Then each load has its plots where it varies, and nobody is told that a batch of 64 is "left out" over concurrencies
    assert [name for name in found if name.startswith("latency-vs")] == [
        "latency-vs-batch-at-concurrency-1", "latency-vs-concurrency-at-batch-1",
    ]  # fmt: skip
    assert [line.label for line in lines_of(found["throughput-vs-batch"]).lines] == ["1: digits, offline, local link"]
    over = lines_of(found["throughput-vs-concurrency"])
    assert over.title == "Throughput vs concurrency, at batch 1"
    assert [[mark.x for mark in line.marks] for line in over.lines] == [[1], [8, 16, 32]]
    assert not any(plot.note for plot in found.values())


def test_points_are_labelled_with_what_varies_and_carry_their_confidence() -> None:
    marks = lines_of(plots(run(offline((1, 64))))["throughput-vs-latency-by-batch"]).lines[0].marks
    assert [mark.label for mark in marks] == ["1", "64"]
    for mark, each in zip(marks, offline((1, 64)), strict=True):
        assert mark.interval == (each.inferences_per_s_low, each.inferences_per_s_high)
        assert mark.x == each.avg_latency_ms


def test_rows_that_are_not_stable_or_have_failures_say_so_in_every_plot() -> None:
    for plot in plots(run([row(1), row(2, stable=False), row(4, failed=3)])).values():
        shown = plot.lines[-1].marks if isinstance(plot, LinePlot) else [group.bars[0] for group in plot.groups]
        assert [(each.is_stable, each.has_failed) for each in shown] == [(True, False), (False, False), (True, True)]


def test_a_large_run_stays_readable_and_says_what_it_leaves_to_the_tables() -> None:
    many = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    found = plots(*[run(offline(BATCHES, many), title=str(each)) for each in range(3)])
    throughput = lines_of(found["throughput-vs-batch"])
    assert len(throughput.lines) <= MOST_LINES
    assert {line.label for line in throughput.lines} >= {"1: 0, concurrency 1", "3: 2, concurrency 1024"}
    assert throughput.note.startswith("Not shown here, but in the tables: concurrency 2, concurrency 4,")
    stacks = [name for name in found if name.startswith("latency-vs-batch-at")]
    assert stacks == [f"latency-vs-batch-at-concurrency-{each}" for each in (1, 32, 1024)]


def test_percentiles_are_where_most_rows_are() -> None:
    """An interrupted run may have begun its last concurrency only."""
    found = plots(run([*offline((1, 2, 4), (1,)), row(1, 8)], complete=False))
    assert lines_of(found["percentiles-vs-batch"]).title.endswith("at concurrency 1")


@given(st.integers(2, 9), st.integers(0, 40))
def test_what_is_chosen_evenly_has_both_ends_and_the_order(most: int, count: int) -> None:
    found = spread(range(count), most)
    assert len(found) == min(most, count)
    assert found == sorted(set(found))
    assert not count or (found[0], found[-1]) == (0, count - 1)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=25))
def test_labels_cover_neither_each_other_nor_a_point(points: list[tuple[float, float]]) -> None:
    area = Box(0, 0, 100, 100)
    found = [place for place in free_places(points, [(12.0, 7.0)] * len(points), area) if place is not None]
    boxes = [Box(x, y, x + 12, y + 7) for x, y in found]
    assert not [box for box in boxes if not area.holds(box)]
    assert not [(box, other) for place, box in enumerate(boxes) for other in boxes[:place] if box.meets(other)]
    assert not [box for box in boxes for x, y in points if box.meets(Box(x - 1, y - 1, x + 1, y + 1))]


def test_a_label_that_finds_no_room_is_left_out() -> None:
    found = free_places([(50, 50)] * 9, [(20.0, 8.0)] * 9, Box(0, 0, 100, 100))
    assert found[0] is not None
    assert found[-1] is None
