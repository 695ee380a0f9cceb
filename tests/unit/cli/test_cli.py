# SPDX-License-Identifier: Apache-2.0
"""The commands without a broker: usage, exit codes, how documents are shown, what becomes of options. No process, no socket."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from penstock.clients import Classification, ModelInfo, TensorInfo
from penstock.clients.cli import COMMANDS, main
from penstock.clients.timeline.chrome_trace import chrome_trace, read_chrome_trace
from penstock.clients.timeline.records import trace_of
from penstock.ipc.errors import BrokerError, CallerError, Code, not_found
from penstock.ipc.messages import Copied, Explanation

STATUS = {
    "pid": 7, "addresses": ["unix:///run/p.sock"], "ready": False, "stopping": False, "regions": 2, "region_bytes": 3 << 20,
    "bad_messages": 1, "queued": {"digits/1": 4, "ranked/1": 5}, "queued_by_level": {"ranked/1": {"1": 2, "3": 3}},
    "cache": {"byte_size": 3 << 20, "capacity_bytes": 64 << 20, "entries": 5, "evictions": 2},
    "models": [
        {"name": "digits", "version": "1", "state": "READY", "reason": ""},
        {"name": "ranked", "version": "1", "state": "READY", "reason": ""},
        {"name": "broken", "version": "", "state": "UNAVAILABLE", "reason": "config.pbtxt:3: [odd] field"},
    ],
    "instances": [
        {"instance": "digits_0_0", "model": "digits", "version": 1, "state": "ready", "pid": 8, "regions_mapped": 2,
         "lanes": ["digits_0_0", "digits_0_1"], "gpu": {"ordinal": 1, "uuid": "GPU-1"},
         "cpus": [0, 1, 2, 6]}
    ],
    "gateways": [
        {"gateway": 0, "pid": 9, "state": "serving", "reason": "died (signal 9)", "restarts": 2, "session": 4, "in_flight": 3,
         "http": "127.0.0.1:8000", "grpc": ""}
    ],
    "sessions": [{"session": 1, "pid": None, "name": "me", "in_flight": 0, "regions": 2, "reply_backlog_bytes": 0}],
}  # fmt: skip

REGIONS = [
    {"name": "slots", "kind": "memfd", "byte_size": 2048, "offset": 0, "in_flight": 1, "closing": False,
     "gpu": "", "mapped_by": ["digits_0_0"], "pinned_by": [], "refused_by": {}, "session": 1, "pid": 99, "uid": None},
    {"name": "old", "kind": "system", "byte_size": 10, "offset": 0, "in_flight": 1, "closing": True, "gpu": "",
     "mapped_by": [], "pinned_by": [], "refused_by": {}, "session": None, "pid": None, "uid": None},
    {"name": "input_data", "kind": "system", "byte_size": 64, "offset": 0, "in_flight": 0, "closing": False, "gpu": "",
     "mapped_by": [], "pinned_by": [], "refused_by": {}, "session": None, "pid": None, "uid": 1000},
]  # fmt: skip
ON_GPUS = [
    {"name": "images", "kind": "memfd", "byte_size": 2048, "offset": 0, "in_flight": 1, "closing": False, "gpu": "",
     "mapped_by": ["a_0_0", "a_0_1"], "pinned_by": ["a_0_0"], "refused_by": {"a_0_1": "too much is pinned"}, "session": 1, "pid": 99, "uid": None},
    {"name": "there", "kind": "cuda", "byte_size": 2048, "offset": 0, "in_flight": 1, "closing": False, "gpu": "GPU-1",
     "mapped_by": ["a_0_0"], "pinned_by": [], "refused_by": {}, "session": 1, "pid": 99, "uid": None},
]  # fmt: skip

TIMES = {"p50": 1000, "p90": 1500, "p95": 1800, "p99": 2000, "count": 3, "sum": 3000, "buckets": {"1023": 3}}


def _leaf(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


STATISTICS = {
    "model_stats": [
        {
            "name": "digits", "version": "1", "last_inference": 0, "inference_count": 6, "execution_count": 2,
            "inference_stats": {
                "success": _leaf(3, 9_000_000), "fail": _leaf(1, 5), "queue": _leaf(3, 3000), "compute_input": _leaf(3, 30),
                "compute_infer": _leaf(3, 60_000), "compute_output": _leaf(3, 90), "cache_hit": _leaf(1, 10),
                "cache_miss": _leaf(2, 30),
            },
            "response_stats": {}, "batch_stats": [], "memory_usage": [],
        }
    ]
}  # fmt: skip

STAGES = [
    {
        "name": "digits", "version": "1", "batch_sizes": {"2": 1, "4": 1}, "closed": {"delay": 2},
        "histograms_ns": dict.fromkeys(("total", "queue", "compute_input", "compute_infer", "compute_output"), TIMES),
        "copies": {"gather": {"count": 2, "byte_size": 2048}},
    }
]  # fmt: skip

BATCH = {
    "batch": 1, "model": "m", "version": 1, "instance": "m_0_0", "rows": 1, "closed": "full", "sent_ns": 0, "started_ns": 0,
    "input_ns": 0, "infer_ns": 10**6, "output_ns": 0, "ended_ns": 10**6, "error": "", "requests": [[1, 1, 0]],
}  # fmt: skip

DOCUMENTS: dict[str, Any] = {"status": STATUS, "regions": REGIONS, "statistics": STATISTICS, "stages": STAGES}


class FakeResult:
    version = 1
    explain = Explanation("simple_0_0", 1, 1, "immediate", 1200, 5, 45_000, 7, [Copied("gather", 1, 64)])

    def __init__(self, outputs: Mapping[str, Any]) -> None:
        self.outputs = outputs


class FakeClient:
    """Answers from DOCUMENTS; what it was asked is written down."""

    def __init__(self) -> None:
        self.address: str | None = None
        self.asked: list[Any] = []
        self.outputs: dict[str, Any] = {}
        self.error: Exception | None = None

    def __call__(self, address: str | None = None, **_options: Any) -> FakeClient:
        self.address = address
        return self

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.asked.append("closed")

    def is_ready(self) -> bool:
        self.asked.append("is_ready")
        return True

    def status(self) -> Any:
        return self._document("status")

    def regions(self) -> Any:
        return self._document("regions")

    def forget_shared(self, name: str = "", *, uid: int) -> None:
        self.asked.append(("forget", name, uid))

    def statistics(self, model: str) -> Any:
        return self._document("statistics", model)

    def stages(self, model: str) -> Any:
        return self._document("stages", model)

    def _document(self, *asked: str) -> Any:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        return DOCUMENTS[asked[0]]

    def infer(self, model: str, inputs: Mapping[str, Any], **options: Any) -> FakeResult:
        self.asked.append((model, dict(inputs), options))
        if self.error is not None:
            raise self.error
        return FakeResult(self.outputs)

    def model(self, name: str, version: int) -> ModelInfo:
        outputs = tuple(TensorInfo(output, "FP32", (2,)) for output in self.outputs)
        return ModelInfo(name, version, 1, (1,), "", 4, (), outputs)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr("penstock.clients.client.Client", fake)
    return fake


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No address and no option from outside; log handlers as they were."""
    monkeypatch.delenv("PENSTOCK_ADDRESS", raising=False)
    monkeypatch.setenv("PENSTOCK_RUNTIME_DIR", str(tmp_path / "run"))
    logger = logging.getLogger("penstock")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def penstock(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_a_configuration_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.pbtxt"
    file.write_bytes(b"name: \xff")
    shown = penstock("load", "m", "--config", str(file))
    assert shown.exit_code == 1
    assert "config.pbtxt: 'utf-8' codec can't decode" in shown.output


# --- terminals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["models", "status"])
def test_a_terminal_without_the_characters_gets_others(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(
        client, "status", lambda: {**STATUS, "models": [{"name": "モデル", "version": "1", "state": "READY", "reason": ""}]}
    )
    shown = CliRunner(charset="latin-1").invoke(main, [command])
    assert shown.exit_code == 0, shown.exception
    assert "???/1" in shown.output


def test_json_is_utf_8_whatever_the_terminal_is(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        client, "status", lambda: {**STATUS, "models": [{"name": "モデル", "version": "1", "state": "READY", "reason": ""}]}
    )
    shown = CliRunner(charset="latin-1").invoke(main, ["models", "--json"])
    assert json.loads(shown.stdout_bytes)[0]["name"] == "モデル"


def test_a_timeline_for_a_terminal_that_has_no_blocks(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(chrome_trace(trace_of([BATCH]))))
    shown = CliRunner(charset="latin-1").invoke(main, ["timeline", str(file), "--width", "40"])
    assert shown.exit_code == 0, shown.exception
    assert "m_0_0   x1####" in shown.output


# --- recordings ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dying(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A broker that dies after one batch was recorded; what it was asked."""
    asked: list[Any] = []

    def query(what: str, *_model: str) -> Any:
        asked.append(what)
        if asked.count("trace") > 1:
            raise BrokerError("the broker is gone")
        return {"records": [BATCH], "dropped": 0, "more": False}

    monkeypatch.setattr(client, "query", query, raising=False)
    monkeypatch.setattr("penstock.clients.cli.trace_command.EVERY_S", 0.0)
    return asked


@pytest.mark.usefixtures("dying")
def test_what_was_recorded_until_the_broker_died_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    shown = penstock("trace", str(file))
    assert shown.exit_code == 1
    assert "the recording ended early: UNAVAILABLE: the broker is gone" in shown.output
    assert read_chrome_trace(json.loads(file.read_text())) == trace_of([BATCH])


def test_a_file_that_cannot_be_written_is_heard_of_before_anything_is_recorded(dying: list[Any], tmp_path: Path) -> None:
    shown = penstock("trace", str(tmp_path / "trace.json"), "--triton", str(tmp_path / "none" / "triton.json"))
    assert (shown.exit_code, dying) == (1, [])
    assert "triton.json: No such file or directory" in shown.output


# --- usage -------------------------------------------------------------------------------------------------------------------


def test_help_names_every_command_and_the_exit_codes() -> None:
    shown = penstock("--help")
    assert shown.exit_code == 0
    assert all(f"\n  {command} " in shown.output for command in COMMANDS)
    assert "\n    3  serve --strict" in shown.output


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_what_it_does_and_how_it_ends(command: str) -> None:
    shown = penstock(command, "--help")
    assert shown.exit_code == 0
    assert "Exit codes:\n    0  " in shown.output


@pytest.mark.parametrize("words", [["nonsense"], ["status", "--nonsense"], ["infer"], ["perf"], ["worker"], ["serve"]])
def test_wrong_usage_ends_with_2(words: list[str]) -> None:
    shown = penstock(*words)
    assert shown.exit_code == 2
    assert "Usage:" in shown.output


@pytest.mark.parametrize("command", [["status"], ["stats"], ["regions"], ["stop"], ["perf", "digits"], ["worker", "digits"]])
def test_no_broker_is_one_line_and_2(command: list[str], tmp_path: Path) -> None:
    option = "--connect" if command[0] == "worker" else "--address"
    shown = penstock(*command, option, f"unix://{tmp_path}/nobody.sock")
    assert shown.exit_code == 2
    assert shown.stderr.startswith("penstock: ") and shown.stderr.count("\n") == 1
    assert "nobody.sock" in shown.stderr


def test_an_address_that_makes_no_sense_is_2() -> None:
    shown = penstock("status", "--address", "http://localhost")
    assert shown.exit_code == 2
    assert "unknown scheme 'http'" in shown.stderr


def test_an_error_of_the_broker_is_one_line_and_1(client: FakeClient) -> None:
    # Given a broker that knows no such model
    client.error = not_found("Request for unknown model: 'x' is not found")
    # When its statistics are asked for
    shown = penstock("stats", "x")
    # Then it is said, without a traceback, and the client has been closed
    assert shown.exit_code == 1
    assert shown.stderr == "penstock: NOT_FOUND: Request for unknown model: 'x' is not found\n"
    assert client.asked[-1] == "closed"


def test_the_address_comes_from_the_option_or_else_from_the_environment(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    penstock("status")
    assert client.address is None
    monkeypatch.setenv("PENSTOCK_ADDRESS", "unix:///run/env.sock")
    penstock("status")
    assert client.address == "unix:///run/env.sock"
    penstock("status", "--address", "unix:///run/option.sock")
    assert client.address == "unix:///run/option.sock"


# --- documents ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "document"), [("status", STATUS), ("regions", REGIONS)])
def test_json_is_the_brokers_document(client: FakeClient, command: str, document: Any) -> None:
    shown = penstock(command, "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout) == document


def test_stats_json_is_tritons_document_and_the_stages(client: FakeClient) -> None:
    shown = penstock("stats", "digits", "--json")
    assert json.loads(shown.stdout) == {**STATISTICS, "stages": STAGES}
    assert client.asked[1:3] == [("statistics", "digits"), ("stages", "digits")]


def test_status_shows_models_with_reasons_workers_and_clients(client: FakeClient) -> None:
    shown = penstock("status").stdout
    assert "broker process 7: not ready; unix:///run/p.sock" in shown
    assert "2 regions, 3.0 MiB; 1 bad messages refused" in shown
    assert "response cache: 5 entries, 3.0 MiB of 64.0 MiB, 2 evicted" in shown
    assert "config.pbtxt:3: [odd] field" in shown, "brackets are no markup"
    assert any(line.split() == ["digits/1", "READY", "-", "4"] for line in shown.splitlines())
    assert any(line.split() == ["ranked/1", "READY", "-", "5", "(1:", "2,", "3:", "3)"] for line in shown.splitlines())
    assert any(
        line.split() == ["digits_0_0", "(2", "lanes)", "digits/1", "ready", "1", "0-2,6", "8", "2"]
        for line in shown.splitlines()
    )
    assert any(line.split() == ["1", "-", "me", "0", "2", "0"] for line in shown.splitlines())


def test_stats_shows_means_quantiles_batches_and_copies(client: FakeClient) -> None:
    shown = penstock("stats").stdout
    assert any(line.split()[:6] == ["digits/1", "3", "1", "6", "2", "33%"] for line in shown.splitlines())
    assert "3 ms" in shown, "the mean of the requests' times"
    assert any(line.split() == ["queue", "1", "us", "2", "us"] for line in shown.splitlines())
    assert "batches   1 of 4, 1 of 2" in shown
    assert "closed    delay 2" in shown
    assert "copied    gather 2 times, 2.0 KiB" in shown


def test_regions_shows_owner_and_state(client: FakeClient) -> None:
    lines = [line.split() for line in penstock("regions").stdout.splitlines()]
    assert ["slots", "memfd", "process", "99", "host", "digits_0_0", "-", "2.0", "KiB", "0", "1", "registered"] in lines
    assert ["old", "system", "-", "host", "-", "-", "10", "B", "0", "1", "closing"] in lines
    assert ["input_data", "system", "uid", "1000", "host", "-", "-", "64", "B", "0", "0", "registered"] in lines


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (("--forget", "input_data"), ("forget", "input_data", os.getuid())),
        (("--forget", "input_data", "--uid", "1000"), ("forget", "input_data", 1000)),
        (("--forget-all", "--uid", "0"), ("forget", "", 0)),
    ],
)
def test_regions_forgets_what_gateways_registered_for_a_user(
    client: FakeClient, options: tuple[str, ...], asked: tuple[str, str, int]
) -> None:
    assert penstock("regions", *options).stdout == "" and asked in client.asked


def test_regions_forgets_one_or_all(client: FakeClient) -> None:
    refused = penstock("regions", "--forget", "input_data", "--forget-all")
    assert refused.exit_code == 2 and "exclude each other" in refused.output and client.asked == []


def test_regions_shows_where_memory_is_pinned_and_which_gpu_it_is_on(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DOCUMENTS, "regions", ON_GPUS)
    shown = penstock("regions").stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["images", "memfd", "process", "99", "host", "a_0_0,", "a_0_1", "1/2", "2.0", "KiB", "0", "1", "registered"] in lines
    assert ["there", "cuda", "process", "99", "GPU-1", "a_0_0", "-", "2.0", "KiB", "0", "1", "registered"] in lines
    assert "images at a_0_1: too much is pinned" in shown


# --- infer -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def array_file(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.arange(16, dtype=np.int32)[np.newaxis])
    return tmp_path / "a.npy"


def test_infer_sends_files_as_they_are_and_shows_outputs(client: FakeClient, array_file: Path) -> None:
    client.outputs = {"OUTPUT0": np.array([[1, 2]], np.int32)}
    shown = penstock("infer", "simple", "--input", f"a=b={array_file}", "--output", "OUTPUT0")
    assert shown.exit_code == 0, shown.output
    model, inputs, options = client.asked[1]
    assert model == "simple" and list(inputs) == ["a=b"] and inputs["a=b"].dtype == np.int32
    assert options["outputs"] == ("OUTPUT0",)
    assert "OUTPUT0  int32[1, 2]\n[[1 2]]" in shown.stdout
    assert (
        "by simple/1 on simple_0_0: queued 1.2 us, computed 45 us, in a batch of 1 (immediate), 64 bytes copied" in shown.stdout
    )


def test_infer_asks_for_classes_of_every_output_or_of_those_that_are_named(client: FakeClient, array_file: Path) -> None:
    client.outputs = {"y": np.array([[b"0.500000:1:one", b"0.250000:0"]], object)}
    shown = penstock("infer", "simple", "--input", f"a={array_file}", "--classes", "2")
    penstock("infer", "simple", "--input", f"a={array_file}", "--classes", "1", "--output", "s")
    assert [asked[2]["outputs"] for asked in client.asked if asked != "closed" and asked[0] == "simple"] == [
        {"y": Classification(2)}, {"s": Classification(1)},
    ]  # fmt: skip
    assert "0.500000:1:one" in shown.stdout
    assert penstock("infer", "simple", "--input", f"a={array_file}", "--classes", "0").exit_code == 2


def test_infer_asks_for_a_priority_and_a_queue_timeout(client: FakeClient, array_file: Path) -> None:
    penstock("infer", "m", "--input", f"a={array_file}", "--priority", "2", "--queue-timeout-s", "0.5", "--timeout-s", "9")
    penstock("infer", "m", "--input", f"a={array_file}")
    asked = [each[2] for each in client.asked if each[0] == "m"]
    assert [(options["priority"], options["queue_timeout_s"]) for options in asked] == [(2, 0.5), (0, None)]
    assert [options["timeout_s"] for options in asked] == [9.0, 60.0]


@pytest.mark.parametrize("words", [("--priority", "-1"), ("--priority", "high"), ("--queue-timeout-s", "0")])
def test_infer_refuses_priorities_and_timeouts_that_cannot_be(array_file: Path, words: tuple[str, str]) -> None:
    assert penstock("infer", "m", "--input", f"a={array_file}", *words).exit_code == 2


def test_infer_json_holds_the_data_and_nan_is_null(client: FakeClient, array_file: Path) -> None:
    client.outputs = {"y": np.array([[1.5, np.nan]], np.float32), "s": np.array([[b"ab", b"\xff"]], object)}
    shown = json.loads(penstock("infer", "simple", "--input", f"a={array_file}", "--json").stdout)
    assert shown["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [[1.5, None]]},
        {"name": "s", "datatype": "BYTES", "shape": [1, 2], "data": [["ab", "\\xff"]]},
    ]
    assert shown["explain"]["closed"] == "immediate"


def test_infer_writes_a_file_per_output(client: FakeClient, array_file: Path, tmp_path: Path) -> None:
    client.outputs = {"a/b": np.array([1.0], np.float32), "s": np.array([b"ab", b"c"], object)}
    shown = penstock("infer", "m", "--input", f"a={array_file}", "--output-dir", str(tmp_path / "out"), "--json")
    files = {row["name"]: row["file"] for row in json.loads(shown.stdout)["outputs"]}
    assert files == {"a/b": f"{tmp_path}/out/a_b.npy", "s": f"{tmp_path}/out/s.npy"}
    assert np.load(files["a/b"]).dtype == np.float32
    assert np.load(files["s"]).tolist() == [b"ab", b"c"]


def test_infer_does_not_write_what_npy_would_change(client: FakeClient, array_file: Path, tmp_path: Path) -> None:
    client.outputs = {"s": np.array([b"ends in zero\0"], object)}
    shown = penstock("infer", "m", "--input", f"a={array_file}", "--output-dir", str(tmp_path / "out"))
    assert shown.exit_code == 1
    assert "output 's'" in shown.stderr


def test_infer_reads_no_pickles(client: FakeClient, tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{}], object), allow_pickle=True)
    shown = penstock("infer", "m", "--input", f"a={tmp_path}/evil.npy")
    assert shown.exit_code == 1
    assert "evil.npy" in shown.stderr and not client.asked


@pytest.mark.parametrize("text", ["a", "=file.npy", "a=missing.npy"])
def test_infer_explains_an_input_it_cannot_use(text: str) -> None:
    shown = penstock("infer", "m", "--input", text)
    assert shown.exit_code == 2
    assert "--input" in shown.stderr


def test_infer_tells_the_models_error(client: FakeClient, array_file: Path) -> None:
    client.error = CallerError("model 'm': input 'a' is FP32, given is int32 (INT32)")
    shown = penstock("infer", "m", "--input", f"a={array_file}")
    assert shown.exit_code == 1
    assert shown.stderr == "penstock: INVALID_ARG: model 'm': input 'a' is FP32, given is int32 (INT32)\n"


# --- serve and broker --------------------------------------------------------------------------------------------------------


class FakeGateways(NamedTuple):
    http: str = ""
    grpc: str = ""
    lost: Mapping[str, str] = {}


class FakeBroker:
    """Settles at once, then "runs" until the end of run()."""

    made: FakeBroker
    models: ClassVar[list[dict[str, str]]] = []
    error: ClassVar[Exception | None] = None

    def __init__(self, settings: Any, on_settled: Any) -> None:
        type(self).made = self
        self.settings = settings
        self.addresses = list(settings.addresses)
        self.stopped = False
        self._on_settled = on_settled

    def run(self) -> None:
        if self.error is not None:
            raise self.error
        self._on_settled(self)

    def index(self) -> list[dict[str, str]]:
        return self.models

    metrics = None
    gateways: ClassVar[FakeGateways] = FakeGateways()

    def stop(self) -> None:
        self.stopped = True


READY = {"name": "digits", "version": "1", "state": "READY", "reason": ""}
BROKEN = {"name": "broken", "version": "", "state": "UNAVAILABLE", "reason": "no config"}


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> type[FakeBroker]:
    class Fake(FakeBroker):
        models: ClassVar[list[dict[str, str]]] = [READY]

    monkeypatch.setattr("penstock.runtime.broker.Broker", Fake)
    return Fake


def test_serve_says_when_it_is_ready(broker: type[FakeBroker], tmp_path: Path) -> None:
    broker.models = [READY, BROKEN]
    shown = penstock("serve", str(tmp_path), "--address", "unix:///run/a.sock")
    assert shown.exit_code == 0, shown.output
    first, second = shown.stdout.splitlines()
    assert first.startswith("ready: unix:///run/a.sock; models digits/1; process ")
    assert second == "not loaded: broken (no config)"


def test_serve_json_says_it_in_one_object(broker: type[FakeBroker], tmp_path: Path) -> None:
    said = json.loads(penstock("serve", str(tmp_path), "--json").stdout)
    assert said["models"] == [READY]
    assert said["addresses"] == [f"unix://{tmp_path}/run/broker.sock", f"ipc://{tmp_path}/run/broker.zmq"]
    assert isinstance(said["pid"], int)


def test_serve_says_where_gateways_serve_and_which_was_given_up(broker: type[FakeBroker], tmp_path: Path) -> None:
    broker.gateways = FakeGateways("127.0.0.1:8000", "127.0.0.1:8001", {"gateway 1": "it crashed"})
    shown = penstock("serve", str(tmp_path))
    assert shown.stdout.splitlines()[1:] == ["http: 127.0.0.1:8000", "grpc: 127.0.0.1:8001", "given up: gateway 1 (it crashed)"]
    said = json.loads(penstock("serve", str(tmp_path), "--json").stdout)
    assert (said["http"], said["grpc"], said["metrics"]) == ("127.0.0.1:8000", "127.0.0.1:8001", "")
    strict = penstock("serve", str(tmp_path), "--strict")
    assert strict.exit_code == 3
    assert "gateway 1 (it crashed)" in strict.stderr


def test_options_of_gateways_become_settings(broker: type[FakeBroker], tmp_path: Path) -> None:
    penstock("serve", str(tmp_path), "--grpc-port", "0", "--gateway-processes", "3", "--http-max-input-size", "1000")
    spec = broker.made.settings.gateways
    assert (spec.processes, spec.http_port, spec.grpc_port, spec.told["http_max_input_size"]) == (3, -1, 0, 1000)
    penstock("serve", str(tmp_path), "--gateway-processes", "3")
    assert broker.made.settings.gateways is None


def test_gateways_without_their_packages_are_refused_before_anything_is_started(
    broker: type[FakeBroker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.clients.cli.gateway_options.find_spec", lambda _name: None)
    for command in (("serve", str(tmp_path), "--http-port", "0"), ("gateway", "--http-port", "0")):
        shown = penstock(*command)
        assert shown.exit_code == 2
        assert "pip install 'penstock[gateway]'" in shown.stderr
        assert len(shown.stderr.splitlines()) == 1
    assert penstock("serve", str(tmp_path)).exit_code == 0


def test_options_become_settings(broker: type[FakeBroker], tmp_path: Path) -> None:
    shown = penstock(
        "serve", str(tmp_path), "--address", "unix:///a", "--address", "tcp://127.0.0.1:0", "--max-in-flight", "5",
        "--max-execution-s", "0", "--fallback", "cpu", "--isolate-system-regions",
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    settings = broker.made.settings
    assert settings.addresses == ("unix:///a", "tcp://127.0.0.1:0")
    assert settings.repositories == (str(tmp_path),)
    assert (settings.max_in_flight, settings.max_execution_s) == (5, 0.0)
    assert settings.gpu_fallback and settings.isolate_system_regions and settings.spawn_workers


def test_host_policies_are_checked_before_anything_is_served(broker: type[FakeBroker], tmp_path: Path) -> None:
    shown = penstock("serve", str(tmp_path), "--host-policy", "cpu,cores=1")
    assert shown.exit_code == 2
    assert "--host-policy 'cpu,cores=1': unknown key 'cores'; known are cpu-cores, numa-node" in shown.stderr


def test_each_option_has_an_environment_variable_and_the_flag_wins(
    broker: type[FakeBroker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_DRAIN_S", "1.5")
    monkeypatch.setenv("PENSTOCK_FALLBACK", "cpu")
    monkeypatch.setenv("PENSTOCK_ADDRESS", "unix:///a ipc:///b")
    penstock("broker", str(tmp_path), "--fallback", "none")
    settings = broker.made.settings
    assert settings.drain_s == 1.5
    assert not settings.gpu_fallback and not settings.spawn_workers
    assert settings.addresses == ("unix:///a", "ipc:///b")
    monkeypatch.setenv("PENSTOCK_DRAIN_S", "soon")
    assert penstock("serve", str(tmp_path)).exit_code == 2


def test_defaults_are_those_of_the_settings(broker: type[FakeBroker], tmp_path: Path) -> None:
    from penstock.runtime.settings import Settings

    penstock("serve", str(tmp_path), "--address", "unix:///a")
    assert broker.made.settings == Settings(repositories=(str(tmp_path),), addresses=("unix:///a",))


def test_strict_stops_a_broker_that_could_not_load_everything(broker: type[FakeBroker], tmp_path: Path) -> None:
    broker.models = [READY, BROKEN]
    shown = penstock("serve", str(tmp_path), "--strict")
    assert shown.exit_code == 3
    assert broker.made.stopped
    assert shown.stdout == ""
    assert "broken (no config)" in shown.stderr
    broker.models = [READY]
    assert penstock("serve", str(tmp_path), "--strict").exit_code == 0


def test_an_address_that_cannot_be_bound_is_2(broker: type[FakeBroker], tmp_path: Path) -> None:
    broker.error = BrokerError("address /a is in use by process 12", Code.ALREADY_EXISTS)
    shown = penstock("serve", str(tmp_path))
    assert shown.exit_code == 2
    assert shown.stderr == "penstock: ALREADY_EXISTS: address /a is in use by process 12\n"


def test_log_lines_carry_utc_level_and_name(capsys: pytest.CaptureFixture[str]) -> None:
    from penstock.clients.cli.logs import log_to_stderr

    log_to_stderr("info")
    record = logging.makeLogRecord(
        {"created": 0.123, "msecs": 123.0, "levelname": "INFO", "levelno": 20, "name": "penstock.fleet", "msg": "ok"}
    )
    logging.getLogger("penstock").handlers[-1].handle(record)
    assert capsys.readouterr().err == "1970-01-01T00:00:00.123Z INFO penstock.fleet: ok\n"


# --- numbers and pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ns", "text"), [(None, "-"), (870, "870 ns"), (42_123, "42.1 us"), (3_080_000, "3.08 ms"), (1.5e9, "1.50 s")]
)
def test_durations_have_the_unit_that_fits(ns: float | None, text: str) -> None:
    from penstock.clients.cli.rendering import duration

    assert duration(ns) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")])
def test_sizes_have_the_unit_that_fits(size: int, text: str) -> None:
    from penstock.clients.cli.rendering import memory

    assert memory(size) == text


def test_scans_are_drawn_side_by_side_as_far_as_they_fit() -> None:
    from penstock.clients.cli.digit_drawing import draw

    images = np.zeros((3, 8, 8), np.uint8)
    images[0, 0] = [16, 12, 8, 4, 0, 0, 0, 0]
    images[1, 0] = 16
    lines = draw(images, ["one", "two", "three"], columns=40)
    assert lines[0] == "██▓▓▒▒░░           " + "█" * 16
    assert len(lines) == 9
    assert lines[8].split() == ["one", "two"]
    assert draw(images, ["one", "two", "three"], columns=5)[8].split() == ["one"]


def test_the_demo_counts_wrong_and_missing_answers() -> None:
    # Given two rounds of four images, answered rightly but for one score that is off and one that was never written
    from penstock.clients.cli.demo_report import figures_of
    from penstock.clients.cli.demo_run import Answers, Outcome

    direct = np.eye(4, 10, dtype=np.float32)
    answers = [
        Answers(np.stack([direct[number : number + 1]] * 2), np.full((2, 1), 1000 * (number + 1), np.int64), 100, 2_000_100)
        for number in range(4)
    ]
    answers[1].scores[0, 0, 1] += 2e-5
    answers[2].scores[1, 0, :] = np.nan
    statistics = {"batch_stats": [{"batch_size": 2, "compute_infer": {"count": 4}}]}
    stages = {"copies": {"gather": {"count": 4, "byte_size": 64}}, "closed": {"delay": 4}}
    labels = np.array([0, 1, 2, 9], np.uint8)
    # When the figures are taken
    figures = figures_of(Outcome(np.zeros((4, 8, 8), np.uint8), labels, direct, answers, statistics, stages, []))
    # Then each is counted once
    assert (figures.images, figures.mismatches) == (8, 2)
    assert figures.accuracy == 5 / 8, "the last label is wrong in both rounds, and what is missing is no answer"
    assert figures.requests_per_s == 8 / 0.002
    assert (figures.p50_us, figures.batch_sizes) == (2.5, {2: 4})
    assert not figures.is_good


def test_every_command_is_a_click_command_of_its_own_name() -> None:
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None and command.name == name
