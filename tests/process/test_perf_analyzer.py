# SPDX-License-Identifier: Apache-2.0
"""The real perf_analyzer, let loose on `penstock serve`: it measures to the end, and its counts are those of our statistics.

It runs in an environment of its own (bench/peers/analyzer.py), which `make test` makes where the network gives it.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tritonclient.http
from running import eventually
from trace_reading import read_traces
from triton_libraries import PROTOCOLS, serving

BENCH = Path(__file__).resolve().parents[2] / "bench"
MEASURED_S = 60.0
LEVELS = (1, 6, 11, 16)
EDGES = 2
"""The edges of its windows and the moments at which it reads our statistics are not the same: so many times it may be wrong, and by
what is in flight, which is most of a window's requests on a machine that is busy."""
SHORT_WINDOWS = ("-p", "200", "-r", "3", "-s", "999")
"""ms of a window, windows of a level, percent by which they may differ: no level is measured twice on a machine that is busy.

Not --request-count: in 2.50 it waits for ever where a request is answered before it begins to count.
"""


class Analyzer:
    """perf_analyzer, as it is started: one at a time on this machine, since the names of its segments are always the same."""

    def __init__(self, program: Path, variables: dict[str, str]) -> None:
        self._program = program
        self._variables = variables

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs it to its end. What it said is in `stdout`, without its usage."""
        with alone_with("/dev/shm"):
            done = subprocess.run(
                [str(self._program), *arguments], env=self._variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, check=False, timeout=MEASURED_S,
            )  # fmt: skip
        done.stdout = done.stdout.partition("Usage: ")[0]
        return done


@contextmanager
def alone_with(folder: str) -> Iterator[None]:
    """Waits until no other run of these tests has the folder, whoever's it is."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@pytest.fixture(scope="module")
def analyzer() -> Iterator[Analyzer]:
    """Skips what needs perf_analyzer where it could not be made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        from peers.analyzer import AnalyzerFiles, analyzer_environment

        files = AnalyzerFiles(analyzer_environment())
        if not files.started.exists():
            pytest.skip("perf_analyzer is not there: `python bench/peers/analyzer.py` makes it, or says why it cannot")
        yield Analyzer(files.program, files.variables())
        for name in [name for name in sys.modules if name.split(".")[0] == "peers"]:
            del sys.modules[name]


class Counts(NamedTuple):
    """Of a model, as our statistics have them."""

    successes: int
    failures: int
    inferences: int


class Penstock:
    """`penstock serve` with both ports, and what it says of itself."""

    def __init__(self, ports: dict[str, str], client: Any, traces: Path) -> None:
        self.ports = ports
        self.traces = traces
        self.client = client

    def counts(self, model: str) -> Counts:
        """So far."""
        (found,) = self.client.get_inference_statistics(model)["model_stats"]
        outcomes = found["inference_stats"]
        return Counts(outcomes["success"]["count"], outcomes["fail"]["count"], found["inference_count"])

    def regions(self) -> list[Any]:
        """What is registered now."""
        return [*self.client.get_system_shared_memory_status(), *self.client.get_cuda_shared_memory_status()]


@pytest.fixture(scope="module")
def penstock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Penstock]:
    folder = tmp_path_factory.mktemp("penstock")
    with (
        serving(folder, "simple", "identity_fp32") as ports,
        tritonclient.http.InferenceServerClient(ports["http"]) as client,
    ):
        assert client.is_server_ready()  # its connection is made here, and is none that a test leaves behind
        yield Penstock(ports, client, folder / "traces.json")


class Report(NamedTuple):
    """What it said of one level of concurrency."""

    concurrency: int
    requests: int
    """Those that it counted in its windows."""
    inferences: int
    successes: int
    """Those that it found in our statistics between the edges of its windows."""


def reports(said: str) -> list[Report]:
    """One for each level."""
    found = []
    for part in said.split("Request concurrency: ")[1:]:
        client, _, server = part.partition("Server:")
        numbers = [
            re.search(pattern, text)
            for pattern, text in (
                (r"^(\d+)", client),
                (r"Request count: (\d+)", client),
                (r"Inference count: (\d+)", server),
                (r"Successful request count: (\d+)", server),
            )
        ]
        assert all(numbers), part
        found.append(Report(*(int(number[1]) for number in numbers if number)))
    return found


def arguments(penstock: Penstock, protocol: str, model: str, *more: str) -> list[str]:
    return ["-m", model, "-i", protocol, "-u", penstock.ports[protocol], *SHORT_WINDOWS, *more]


def measured(analyzer: Analyzer, penstock: Penstock, command: Sequence[str]) -> tuple[list[Report], Counts]:
    """Runs it on a model, from a state with no regions to one with none; what it says, and what our statistics counted."""
    model = command[command.index("-m") + 1]
    before = penstock.counts(model)
    done = analyzer(*command)
    assert done.returncode == 0, done.stdout
    assert "error" not in done.stdout.lower(), done.stdout
    after = penstock.counts(model)
    assert penstock.regions() == []
    return reports(done.stdout), Counts(*(new - old for new, old in zip(after, before, strict=True)))


def check(found: list[Report], counted: Counts, *levels: int, rows: int = 1) -> None:
    """Nothing failed, and what it counted in its windows, and what it read of us at their edges, are requests that we counted."""
    assert tuple(report.concurrency for report in found) == levels
    assert counted == Counts(counted.successes, 0, counted.successes * rows)
    assert sum(report.requests for report in found) <= counted.successes
    assert sum(report.successes for report in found) <= counted.successes
    for report in found:
        assert report.inferences == report.successes * rows
        assert report.requests <= EDGES * (report.successes + report.concurrency)
        assert report.successes <= EDGES * (report.requests + report.concurrency)


WAYS = {
    "http": (("--sync",), ("--async",)),
    "grpc": (("--sync",), ("--async",), ("--async", "--streaming")),
}


@pytest.mark.parametrize("memory", ["none", "system"])
@pytest.mark.parametrize(
    ("protocol", "way"), [pytest.param(name, way, id=f"{name}{''.join(way)}") for name, ways in WAYS.items() for way in ways]
)
def test_what_it_counts_is_what_our_statistics_count(
    analyzer: Analyzer, penstock: Penstock, protocol: str, way: tuple[str, ...], memory: str
) -> None:
    command = arguments(penstock, protocol, "simple", *way, "--shared-memory", memory, "--concurrency-range", "16")
    check(*measured(analyzer, penstock, command), 16)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_measures_one_level_of_concurrency_after_the_other(
    analyzer: Analyzer, penstock: Penstock, protocol: str, tmp_path: Path
) -> None:
    table = tmp_path / "report.csv"
    options = ("--shared-memory=system", "--concurrency-range", "1:16:5", "-f", str(table))
    check(*measured(analyzer, penstock, arguments(penstock, protocol, "simple", *options)), *LEVELS)
    with table.open() as lines:
        assert sorted(int(row["Concurrency"]) for row in csv.DictReader(lines)) == list(LEVELS)


INPUTS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "rows of four in one request": ("simple", ("-b", "4"), 4),
    "four rows in regions": ("simple", ("-b", "4", "--shared-memory", "system"), 4),
    "a shape that is chosen": ("identity_fp32", ("--shape", "INPUT0:17"), 1),
    "a shape that is chosen, in regions": ("identity_fp32", ("--shape", "INPUT0:1000", "--shared-memory", "system"), 1),
    "a model without a batch dimension": ("unbatched", ("--input-data", "random"), 1),
    "that in regions": ("unbatched", ("--input-data", "zero", "--shared-memory", "system"), 1),
    "strings of a length": ("text", ("--shape", "INPUT0:3", "--string-length", "20"), 1),
    "one string": ("text", ("--shape", "INPUT0:1", "--string-data", "to be or not to be"), 1),
    "strings in regions": ("text", ("--shape", "INPUT0:3", "--string-length", "20", "--shared-memory", "system"), 1),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", INPUTS)
def test_it_sends_inputs_of_every_kind(analyzer: Analyzer, penstock: Penstock, protocol: str, kind: str) -> None:
    model, options, rows = INPUTS[kind]
    command = arguments(penstock, protocol, model, *options, "--concurrency-range", "4")
    check(*measured(analyzer, penstock, command), 4, rows=rows)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_sends_what_a_file_says_and_finds_the_answers_that_the_file_expects(
    analyzer: Analyzer, penstock: Penstock, protocol: str, tmp_path: Path
) -> None:
    # Given a file with three requests, and what the model must answer to each
    ones, twos = [1] * 16, [2] * 16
    inputs = [(ones, ones), (twos, ones), (twos, twos)]
    answers = [
        {"OUTPUT0": [a + b for a, b in zip(*both, strict=True)], "OUTPUT1": [a - b for a, b in zip(*both, strict=True)]}
        for both in inputs
    ]
    file = tmp_path / "data.json"

    def write(expected: list[dict[str, list[int]]]) -> None:
        given = [{"INPUT0": first, "INPUT1": second} for first, second in inputs]
        file.write_text(json.dumps({"data": given, "validation_data": expected}))

    command = arguments(penstock, protocol, "simple", "--input-data", str(file))
    # When it sends them, then every answer is as expected
    write(answers)
    check(*measured(analyzer, penstock, command), 1)
    # And where the file expects another, it says so
    write([*answers[:2], {"OUTPUT0": ones, "OUTPUT1": ones}])
    done = analyzer(*command)
    assert done.returncode != 0
    assert "Output doesn't match expected output" in done.stdout


def test_it_sends_and_takes_json_where_it_is_told_to(analyzer: Analyzer, penstock: Penstock) -> None:
    formats = ("--input-tensor-format", "json", "--output-tensor-format", "json")
    check(*measured(analyzer, penstock, arguments(penstock, "http", "simple", *formats)), 1)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_it_sends_messages_that_are_compressed(analyzer: Analyzer, penstock: Penstock, algorithm: str) -> None:
    options = ("--grpc-compression-algorithm", algorithm, "--shape", "INPUT0:1000")
    check(*measured(analyzer, penstock, arguments(penstock, "grpc", "identity_fp32", *options)), 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_sends_at_a_rate(analyzer: Analyzer, penstock: Penstock, protocol: str) -> None:
    _, counted = measured(analyzer, penstock, arguments(penstock, protocol, "simple", "--request-rate-range", "100"))
    assert counted.successes > 0 == counted.failures


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_says_where_a_model_fails_and_leaves_nothing_registered(
    analyzer: Analyzer, penstock: Penstock, protocol: str
) -> None:
    # Given a model that fails, which our statistics count as well
    before = penstock.counts("failing")
    # When it is measured
    done = analyzer(*arguments(penstock, protocol, "failing", "--shared-memory", "system"))
    # Then perf_analyzer ends with the model's own words
    assert done.returncode != 0
    assert "this model fails" in done.stdout
    after = penstock.counts("failing")
    assert (after.successes - before.successes, after.failures > before.failures) == (0, True)
    eventually(lambda: penstock.regions() == [], 10, "nothing is registered")


@pytest.mark.parametrize(
    ("model", "said"), [("missing", "Request for unknown model: 'missing' is not found"), ("simple", "version 7 is not")]
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_is_not_there_is_told_in_tritons_words(
    analyzer: Analyzer, penstock: Penstock, protocol: str, model: str, said: str
) -> None:
    version = ("-x", "7") if model == "simple" else ()
    done = analyzer(*arguments(penstock, protocol, model, *version))
    assert done.returncode != 0
    assert said in done.stdout


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_has_requests_traced(analyzer: Analyzer, penstock: Penstock, protocol: str) -> None:
    # Given that it asks for the timestamps of every other request, three in all
    penstock.traces.unlink(missing_ok=True)
    options = ("--trace-level", "TIMESTAMPS", "--trace-rate", "2", "--trace-count", "3")
    # When it measures
    measured(analyzer, penstock, arguments(penstock, protocol, "simple", *options))
    # Then they are in the server's trace file
    eventually(lambda: penstock.traces.exists() and len(read_traces(penstock.traces)) == 3, 10.0, "three traces are written")
    assert all(trace.protocol == protocol and trace.spans()["infer"] > 0 for trace in read_traces(penstock.traces))
    penstock.client.update_trace_settings(settings={"trace_level": ["OFF"]})
