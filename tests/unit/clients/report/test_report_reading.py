# SPDX-License-Identifier: Apache-2.0
"""Which documents a report is made of, and what it calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from run_documents import run

from penstock.clients.perf.run_file import write_run
from penstock.clients.report.contents import contents_of
from penstock.clients.report.reading import LONGEST_LABEL, in_a_line, numbered, read_runs
from penstock.ipc.errors import CallerError


def test_runs_of_a_folder_come_by_the_names_of_their_files_and_folders_in_the_order_given(tmp_path: Path) -> None:
    # Given two folders, one with a folder within, and other JSON beside the runs
    for name in ("b/second.json", "b/deep/first.json", "a/third.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_run(run(title=name), tmp_path / name)
    (tmp_path / "a" / "table.json").write_text('{"rows": []}')
    (tmp_path / "a" / "list.json").write_text("[1]")
    (tmp_path / "a" / "none.json").write_text("not JSON")
    (tmp_path / "a" / "third.json.part").write_text("{")
    # When both are read, and a file of one is named again
    found = read_runs([tmp_path / "b", tmp_path / "a", tmp_path / "b" / "second.json"])
    # Then each run is there once
    assert [(each.number, each.run.title) for each in found] == [
        (1, "b/deep/first.json"), (2, "b/second.json"), (3, "a/third.json"),
    ]  # fmt: skip


def test_a_folder_without_a_run_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match=f"{tmp_path} holds no measurement: penstock perf MODEL --result-dir {tmp_path}"):
        read_runs([tmp_path])


def test_a_named_file_must_be_a_run(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(CallerError, match=r"x.json is no measurement of penstock perf"):
        read_runs([tmp_path / "x.json"])


@pytest.mark.parametrize(
    ("change", "said"),
    [({"format": "penstock perf run 2"}, "penstock perf run 2"), ({"extra": 1}, "extra"), ({"rows": [{"batch": 1}]}, "rows")],
)
def test_a_document_that_says_it_is_a_run_and_is_not_is_never_passed_over(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    write_run(run(), tmp_path / "r.json")
    document = {**json.loads((tmp_path / "r.json").read_text()), **change}
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(CallerError, match=f"r.json is no measurement of penstock perf: .*{said}"):
        read_runs([tmp_path])


@pytest.mark.parametrize("text", [lambda whole: whole[:700], lambda whole: whole.replace('"seconds": ', '"seconds": NaN')])
def test_nor_is_one_that_is_cut_off_or_no_json(tmp_path: Path, text: Callable[[str], str]) -> None:
    write_run(run(), tmp_path / "whole.json")
    (tmp_path / "broken.json").write_text(text((tmp_path / "whole.json").read_text()))
    with pytest.raises(CallerError, match=r"broken.json is no measurement of penstock perf: "):
        read_runs([tmp_path])


def test_a_run_of_a_later_format_says_which_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"format": "penstock perf run 2", "new": 1}')
    with pytest.raises(
        CallerError, match="it is a 'penstock perf run 2', and this version of penstock reads 'penstock perf run 1'"
    ):
        read_runs([tmp_path])


def test_one_run_is_called_by_its_title_and_several_by_their_numbers_too() -> None:
    long = "t" * 200
    (alone,) = numbered([run(title=long)])
    assert alone.label == "t" * (LONGEST_LABEL - 1) + "…"
    assert [each.label for each in numbered([run(title="same"), run(title="same")])] == ["1: same", "2: same"]


def test_text_of_a_document_keeps_nothing_that_controls() -> None:
    assert in_a_line("a\x1b[31m\nb\t\x00c\ufffe") == "a\ufffd[31m b \ufffdc\ufffd"


def test_runs_without_any_row_are_no_report() -> None:
    with pytest.raises(CallerError, match="no row was measured in 'empty'"):
        contents_of(numbered([run([], title="empty")]))
    assert contents_of(numbered([run([], title="empty"), run()])).plots
