# SPDX-License-Identifier: Apache-2.0
"""The options of `penstock perf` together: what they come to, and what is refused by name before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from penstock.clients.cli import main
from penstock.clients.cli.perf_asked import check, plan_of, result_files, run_name
from penstock.clients.cli.perf_command import perf
from penstock.clients.models import ModelInfo, TensorInfo
from penstock.clients.perf.plan import Plan, Point
from penstock.ipc.errors import CallerError


def typed(*words: str) -> Result:
    return CliRunner().invoke(main, ["perf", "digits", *words])


def options(*words: str) -> dict[str, Any]:
    """As the command has them."""
    return perf.make_context("perf", ["digits", *words]).params


def model(max_batch_size: int = 64, dims: tuple[int, ...] = (2,)) -> ModelInfo:
    specs = (TensorInfo("x", "FP32", dims),)
    return ModelInfo("digits", -1, 1, (1,), "identity", max_batch_size, specs, specs)


def plan(*words: str, max_in_flight: int = 1000, **about: Any) -> Plan:
    asked = options(*words)
    check(asked)
    return plan_of(model(**about), "memfd", max_in_flight, asked)


# --- what they come to -------------------------------------------------------------------------------------------------------


def test_offline_is_every_batch_size_one_after_the_other() -> None:
    assert plan().points == tuple(Point(size, 1) for size in (1, 2, 4, 8, 16, 32, 64))
    assert plan("--batch-sizes", "4", "--concurrency", "1", "3").points == (Point(4, 1), Point(4, 3))


def test_online_is_requests_of_one_row_at_ever_more_at_once() -> None:
    found = plan("--evaluation-mode", "online")
    assert found.evaluation_mode == "online"
    assert found.points == tuple(Point(1, count) for count in (8, 16, 32, 64, 128, 256))


def test_by_default_no_more_at_once_than_the_server_allows_its_clients() -> None:
    assert [point.concurrency for point in plan("--evaluation-mode", "online", max_in_flight=40).points] == [8, 16, 32]
    assert [point.concurrency for point in plan("--evaluation-mode", "online", max_in_flight=5).points] == [5]
    words = ("--evaluation-mode", "online", "--processes", "2")
    assert [point.concurrency for point in plan(*words, max_in_flight=40).points] == [8, 16, 32, 64]
    with pytest.raises(CallerError, match=r"concurrency \[41\] cannot be"):
        plan("--evaluation-mode", "online", "--concurrency", "41", max_in_flight=40)


def test_a_request_rate_is_an_open_loop() -> None:
    found = plan("--evaluation-mode", "online", "--request-rate", "200", "12.5", "--distribution", "constant", max_in_flight=40)
    assert [(point.batch, point.request_rate) for point in found.points] == [(1, 200.0), (1, 12.5)]
    assert found.distribution == "constant"
    assert plan("--evaluation-mode", "online", "--request-rate", "9").distribution == "poisson"


def test_an_open_loop_can_have_in_flight_what_comes_due_in_a_stall_of_two_seconds() -> None:
    found = plan("--evaluation-mode", "online", "--request-rate", "2", "200.5", "900", max_in_flight=1000)
    assert [point.concurrency for point in found.points] == [64, 401, 1000]


def test_a_search_goes_from_the_smallest_to_the_largest() -> None:
    words = ("--evaluation-mode", "online", "--binary-search", "--latency-threshold-ms", "2.5")
    found = plan(*words)
    assert (found.search, found.latency_threshold_ms) == ("binary", 2.5)
    assert plan("--latency-threshold-ms", "2.5").search == "linear"


def test_variable_dims_are_asked_for_unless_files_have_them(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="say --shape x:1"):
        plan(dims=(-1,))
    assert plan("--shape", "x:7", dims=(-1,)).shapes == {"x": (7,)}
    (tmp_path / "d.json").touch()
    assert plan("--input-data", str(tmp_path / "d.json"), dims=(-1,)).input_data == str(tmp_path / "d.json")


def test_a_run_is_named_after_its_model_and_mode_unless_it_is_named() -> None:
    assert run_name("digits", options("--evaluation-mode", "online")) == "digits-online"
    assert run_name("digits", options("--name", "fp16")) == "fp16"


def test_files_are_those_of_the_directory_and_those_that_are_named_each_once() -> None:
    found = result_files("n", options("--result-dir", "d", "--result-path", "d/n.csv", "--result-path", "e/m.md"))
    assert found == [Path("d/n.json"), Path("d/n.csv"), Path("d/n.md"), Path("e/m.md")]
    assert result_files("n", options()) == []


def test_labels_are_split_at_the_first_equals_sign() -> None:
    found = options("--label", "Export format=ONNX", "--label", "Weights = a=b")
    assert found["labels"] == (("Export format", "ONNX"), ("Weights", "a=b"))


# --- what is refused ---------------------------------------------------------------------------------------------------------

ONLINE = ("--evaluation-mode", "online")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((*ONLINE, "--batch-sizes", "8"), "--batch-sizes is for --evaluation-mode offline"),
        (("--request-rate", "200"), "give --evaluation-mode online with it"),
        ((*ONLINE, "--request-rate", "200", "--concurrency", "8"), "--request-rate sends them by the clock: give one of them"),
        ((*ONLINE, "--distribution", "constant"), "give --request-rate with it"),
        ((*ONLINE, "--binary-search"), "give --latency-threshold-ms with it"),
        (("--binary-search", "--latency-threshold-ms", "5"), "--binary-search looks between two values"),
        ((*ONLINE, "--binary-search", "--latency-threshold-ms", "5", "--concurrency", "8", "8"), "looks between two values"),
        (("--name", "a\udcff"), "'a\\udcff' has characters that cannot be shown"),
        (("--label", "Precision=\x1b[31m"), "has characters that cannot be shown"),
        (("--latency-threshold-ms", "nan"), "'nan' is not a finite number"),
        (("--stability-percentage", "inf"), "'inf' is not a finite number"),
        (("--latency-threshold-ms", "0"), "0.0 is not in the range x>0"),
        (("--measurement-interval-ms", "5", "--measurement-request-count", "5"), "give one of them"),
        (("--serve", ".", "--address", "unix:///x"), "--serve measures a broker of its own: leave --address out"),
        (("--serve", ".", "--link", "http"), "--serve starts a broker, which is measured over --link local or zmq"),
        (("--link", "grpc", "--address", "unix:///x"), "--address is that of a broker"),
        (("--url", "localhost:8000"), "--url is for --link http and grpc"),
        (("--link", "zmq", "--url", "localhost:8000"), "--url is for --link http and grpc"),
        (("--label", "Precision"), "'Precision' is not \"Key=Value\""),
        (("--label", "=FP16"), "'=FP16' is not \"Key=Value\""),
        (("--name", "a/b"), "'a/b' is to name files"),
        (("--name", ".hidden"), "'.hidden' is to name files"),
        (("--result-path", "table.txt"), "'table.txt' ends with none of .csv, .json, .md"),
        (("--result-path", "table"), "'table' ends with none of"),
        (("--input-data", "nosuch"), "'nosuch' is neither random nor zero, nor a file or directory that is there"),
        (("--processes", "0"), "0 is not in the range x>=1"),
        (("--request-rate", "0"), "'0' is not a number above 0 and up to 1000000"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage_and_says_why(words: tuple[str, ...], text: str) -> None:
    shown = typed(*words)
    assert shown.exit_code == 2, shown.output
    assert text in " ".join(shown.output.split())


def test_the_environments_address_is_overruled_by_another_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Given an address in the environment; when another link is asked for; then only what else is wrong is said."""
    monkeypatch.setenv("PENSTOCK_ADDRESS", f"unix://{tmp_path}/nobody.sock")
    assert "--address is that of a broker" not in typed("--link", "http", "--shared-memory", "memfd").output


def test_a_directory_is_no_result_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    assert "is a directory" in typed("--result-path", str(tmp_path / "t.csv")).output


def test_help_has_the_options_in_groups() -> None:
    lines = typed("--help").output.splitlines()
    titles = [line for line in lines if line in {"Options:", "Load:", "Server:", "Inputs:", "Measuring:", "Results:"}]
    assert titles == ["Load:", "Server:", "Inputs:", "Measuring:", "Results:"]
    assert lines.index("Load:") < next(number for number, line in enumerate(lines) if "--request-rate R..." in line)
    # And none is left out
    shown = "\n".join(lines)
    assert [each.opts[-1] for each in perf.params if isinstance(each, click.Option) and each.opts[-1] not in shown] == []
