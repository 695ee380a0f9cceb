# SPDX-License-Identifier: Apache-2.0
"""What bench/peers makes of others' words: reports are read, plans made, answers computed and tables written as they must be."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
OF_BENCH = ("peers", "measurement", "models", "server")

ANALYZER_CSV = """Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
8,2810.73,103,929,604,276,802,120,0,2601,3813,4300,7045
"""


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of bench/peers, which is no package that is installed."""
    monkeypatch.syspath_prepend(str(BENCH))
    from peers import analyzer, environments, loads, processes, repositories, run, servers, table

    yield SimpleNamespace(
        analyzer=analyzer,
        environments=environments,
        loads=loads,
        processes=processes,
        repositories=repositories,
        run=run,
        servers=servers,
        table=table,
    )
    for name in [name for name in sys.modules if name.split(".")[0] in OF_BENCH]:
        del sys.modules[name]


# ---- reports -----------------------------------------------------------------------------------------------------------------


def test_perf_analyzers_report_is_read_in_rows_per_second_and_us(peers: Any) -> None:
    assert peers.loads.analyzer_figures(ANALYZER_CSV) == {
        "inferences_per_s": 2810.7, "queue_us": 604.0, "compute_input_us": 276.0, "compute_infer_us": 802.0,
        "compute_output_us": 120.0, "p50_us": 2601.0, "p99_us": 7045.0,
    }  # fmt: skip


@pytest.mark.parametrize("report", ["", ANALYZER_CSV.splitlines()[0], "a,b\n1,2\n", ANALYZER_CSV.replace("2810.73", "many")])
def test_a_report_without_its_row_is_an_error_that_shows_it(peers: Any, report: str) -> None:
    with pytest.raises(peers.processes.CommandError, match="no row as expected"):
        peers.loads.analyzer_figures(report)


def perf_row(**figures: float) -> dict[str, float]:
    names = ("queue", "compute_input", "compute_infer", "compute_output", "p50_latency", "p99_latency")
    return {"inferences_per_s": 16000.04, **{f"{name}_ms": 0.25 for name in names}, **figures}


def test_the_row_of_penstock_perf_is_found_among_what_it_says_while_it_measures(peers: Any) -> None:
    said = "batch 1: window 1: 16,000/s\n" + json.dumps({"rows": [perf_row(p99_latency_ms=1.5)]}, indent=1) + "\nmeasured\n"
    figures = peers.loads.perf_figures(said)
    assert (figures["inferences_per_s"], figures["p50_us"], figures["p99_us"]) == (16000.0, 250.0, 1500.0)


@pytest.mark.parametrize("said", ["", "nothing", '{\n"rows": []}', '{\n"rows": [{}]}', '{\n"row'])
def test_what_has_no_row_of_penstock_perf_is_an_error(peers: Any, said: str) -> None:
    with pytest.raises(peers.processes.CommandError, match="printed no row"):
        peers.loads.perf_figures(said)


# ---- what is asked -----------------------------------------------------------------------------------------------------------


def served(peers: Any, name: str, *links: str) -> Any:
    return peers.servers.Served(name, "1", 1, {link: f"127.0.0.1:{8000 + place}" for place, link in enumerate(links)})


def test_both_tools_ask_for_the_same_load_and_as_long(peers: Any) -> None:
    # Given the largest load of the real model
    point = peers.loads.Point("resnet50_shaped", 8, 8)
    side = peers.loads.Side(served(peers, "triton", "http", "grpc"), "grpc", "perf_analyzer")
    # When each tool is told of it
    theirs, ours = peers.loads.analyzer_arguments(side, point), peers.loads.perf_command(side, point)
    # Then rows, requests and windows are the same, and the address is that of the link
    said = {option: theirs[theirs.index(option) + 1] for option in ("-b", "--concurrency-range", "-r", "-u")}
    assert said == {"-b": "8", "--concurrency-range": "8:8", "-r": "3", "-u": "127.0.0.1:8001"}
    options = ("--batch-sizes", "--concurrency", "--max-trials", "--url", "--shared-memory")
    assert [ours[ours.index(option) + 1] for option in options] == ["8", "8", "3", "127.0.0.1:8001", "system"]
    # And 3 s are four times as long for a real model, and twice that for most rows, in three windows
    assert peers.loads.window_ms(point.seconds(3.0)) == "8000"
    # Shorter runs leave those with most rows their time, in which a batch takes seconds
    assert [point.seconds(asked) for asked in (0.5, 6.0)] == [24.0, 48.0]
    assert peers.loads.Point("resnet50_shaped", 1, 8).seconds(0.5) == 2.0


@pytest.mark.parametrize(
    ("said", "windows"),
    [
        ("perf_analyzer ended with 3: No valid requests recorded within time interval.", ["1333", "5333"]),
        ("perf_analyzer ended with 2: Failed to obtain stable measurement.", ["1333", "5333"]),
        ("perf_analyzer did not end within 160 s", ["1333"]),
    ],
)
def test_perf_analyzer_is_asked_once_more_where_its_windows_were_too_short(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, windows: list[str]
) -> None:
    # Given a perf_analyzer that always says this
    asked: list[tuple[str, float]] = []

    def fails(command: list[str], _log: Path, _pid: int, limit_s: float, _variables: Any) -> Any:
        asked.append((command[command.index("-p") + 1], limit_s))
        raise peers.processes.CommandError(said)

    monkeypatch.setattr(peers.loads, "loaded", fails)
    side = peers.loads.Side(served(peers, "triton", "http"), "http", "perf_analyzer")
    # When it is to measure for 4 s
    with pytest.raises(peers.processes.CommandError, match="perf_analyzer"):
        side.measured(peers.loads.Point("resnet50_shaped", 1, 8), 1.0, tmp_path)
    # Then it is asked for longer windows, in which something ends, and not where that would not help
    assert [window for window, _ in asked] == windows
    assert all(limit > 3 * int(window) / 1000 for window, limit in asked)


def test_loads_are_left_out_whose_rows_would_take_minutes(peers: Any) -> None:
    loads = {(point.model, point.batch, point.concurrency) for point in peers.run.points(peers.repositories.MODELS)}
    assert {("identity", 64, 64), ("resnet50_shaped", 8, 8), ("resnet50_shaped", 64, 1)} <= loads
    assert ("resnet50_shaped", 64, 8) not in loads
    assert len(loads) == 9 + 6


def test_perf_analyzer_takes_part_where_a_server_speaks_http(peers: Any) -> None:
    # Given a Penstock with a gateway and one without
    for links, count in ((("local", "zmq"), 2), (("local", "zmq", "http", "grpc"), 6)):
        sides = peers.run.sides_of(served(peers, "penstock", *links), has_analyzer=True)
        assert len(sides) == count
        assert {side.link for side in sides if side.tool == "perf_analyzer"} == set(links) & {"http", "grpc"}
    assert len(peers.run.sides_of(served(peers, "triton", "http", "grpc"), has_analyzer=False)) == 2


def test_mosec_is_asked_for_single_rows_of_the_identity_model_only(peers: Any) -> None:
    (side,) = peers.run.sides_of(served(peers, "mosec", "http"), has_analyzer=True)
    taken = [point for point in peers.run.points(peers.repositories.MODELS) if side.takes(point)]
    assert {(point.model, point.batch) for point in taken} == {("identity", 1)}


def test_the_configurations_differ_in_their_backend_only(peers: Any) -> None:
    for model in peers.repositories.MODELS:
        ours, theirs = (peers.repositories.configuration(model, server, 2).splitlines() for server in ("penstock", "triton"))
        assert [line for line in theirs if line not in ours] == ['backend: "python"']
        assert "dynamic_batching { max_queue_delay_microseconds: 0 }" in theirs
        assert "instance_group [ { count: 2 kind: KIND_CPU } ]" in theirs


# ---- what it costs -----------------------------------------------------------------------------------------------------------


def test_a_client_that_starts_up_does_not_count_as_load(peers: Any) -> None:
    # Given more fifths of a second of starting up, in which the client computes and the server idles, than of load
    usage = peers.processes.Usage
    samples = [usage(0.001, 1.0)] * 7 + [usage(0.9, 0.2), usage(0.8, 0.3), usage(1.0, 0.1)] + [usage(0.0, 0.6)]
    assert peers.processes.under_load(samples) == (0.9, 0.2)
    assert peers.processes.under_load([]) == (0.0, 0.0)


def test_processes_that_come_or_go_between_two_readings_count_for_neither(peers: Any) -> None:
    assert peers.processes.cores_used({1: 100, 2: 500}, {1: 150, 3: 900}, 100) == 0.5


# ---- what is built -----------------------------------------------------------------------------------------------------------


def test_an_environment_is_of_its_own_and_what_is_bare_brings_nothing_along(peers: Any, tmp_path: Path) -> None:
    environment = peers.environments.server_environment(tmp_path)
    venv, packages, bare = environment.commands()
    assert venv == [sys.executable, "-m", "venv", "--clear", str(tmp_path / "server")]
    assert packages[0] == bare[0] == str(tmp_path / "server" / "bin" / "python")
    assert packages[-2:] == ["numpy<2", f"onnxruntime=={version('onnxruntime')}"]
    assert bare[-2:] == ["--no-deps", "nvidia-pytriton==0.7.0"]


def test_what_is_built_is_left_and_another_version_is_built_again(peers: Any, tmp_path: Path) -> None:
    # Given an environment that is built
    built = peers.environments.Environment("one", ("a==1",), cache=tmp_path)
    built.folder.mkdir()
    built.stamp.touch()
    said: list[str] = []
    # When it is built again, then nothing is run
    built.build(said.append)
    assert said == ["one: is there (a==1)"]
    # And one of another version is not there
    assert not peers.environments.Environment("one", ("a==2",), cache=tmp_path).stamp.exists()


def test_a_wheel_without_a_stub_for_this_python_is_unavailable(peers: Any, tmp_path: Path) -> None:
    files = peers.environments.TritonFiles(peers.environments.server_environment(tmp_path))
    with pytest.raises(peers.environments.UnavailableError, match=r"no stub of the Python backend for Python 3\."):
        files.complete()


def unpacked(peers: Any, cache: Path) -> Any:
    """A server as the wheel unpacks it: the stub apart from the backend, nothing executable."""
    files = peers.environments.TritonFiles(peers.environments.server_environment(cache))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    names = (
        files.program,
        files.root / "python_backend_stubs" / python / files.stub.name,
        files.backends / "python" / "lib.so",
    )
    for path in (*names, files.libraries / "libb64-98cb.so.0d"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
        path.chmod(0o644)
    return files


def test_the_stub_comes_beside_its_backend_and_finds_the_packages_through_path(peers: Any, tmp_path: Path) -> None:
    files = unpacked(peers, tmp_path)
    files.complete()
    assert files.stub.read_bytes() == b"triton_python_backend_stub"
    assert all(path.stat().st_mode & 0o100 for path in (files.program, files.stub))
    variables = files.variables()
    assert variables["PATH"].startswith(f"{tmp_path / 'server' / 'bin'}:")
    assert variables["LD_LIBRARY_PATH"].split(":")[0] == str(files.libraries)
    assert not {"PYTHONPATH", "PYTHONHOME"} & variables.keys()


@pytest.fixture
def analyzer(peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """perf_analyzer as its wheels unpack it: it starts where its loader finds both libraries, and libb64 is not among them."""

    def lacks(files: Any) -> str:
        missing = [name for name in ("libcudart.so.12", "libb64.so.0d") if not (files.libraries / name).is_file()]
        return f"error while loading shared libraries: {missing[0]}" if missing else ""

    monkeypatch.setattr(peers.analyzer.AnalyzerFiles, "_lacks", lacks)
    environment = peers.analyzer.analyzer_environment(tmp_path)
    library = environment.packages / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.12"
    library.parent.mkdir(parents=True)
    library.write_text("libcudart")
    environment.stamp.touch()
    return peers.analyzer.AnalyzerFiles(environment)


def test_perf_analyzer_has_libb64_of_tritons_wheel_where_that_is_built(peers: Any, tmp_path: Path, analyzer: Any) -> None:
    unpacked(peers, tmp_path)
    analyzer.build(lambda _: None)
    found = {path.name: path.read_text() for path in analyzer.libraries.iterdir()}
    assert found == {"libb64.so.0d": "libb64-98cb.so.0d", "libcudart.so.12": "libcudart"}
    assert analyzer.started.exists()


def test_perf_analyzer_has_libb64_of_debians_package_elsewhere(
    peers: Any, monkeypatch: pytest.MonkeyPatch, analyzer: Any
) -> None:
    # Given an apt-get whose lists of packages were never fetched into their place, and are fetched into the folder
    asked: list[str] = []

    def run(command: list[str], folder: Path | None = None) -> None:
        asked.append(command[-2] if command[0] == "dpkg-deb" else " ".join(word for word in command[1:] if word.isalpha()))
        if command[0] == "dpkg-deb":
            library = Path(command[-1], "usr", "lib", "libb64.so.0d")
            library.parent.mkdir(parents=True)
            library.write_text("Debian's")
        elif asked.count("download") == 1 and "update" not in asked:
            raise peers.environments.UnavailableError("E: No packages found")
        elif "download" in command:
            assert folder is not None
            (folder / "libb64-0d_1.2_amd64.deb").touch()

    monkeypatch.setattr(peers.analyzer, "run", run)
    monkeypatch.setattr(peers.analyzer.shutil, "which", lambda name: name)
    # When perf_analyzer is made, then twice
    for _ in range(2):
        analyzer.build(lambda _: None)
    # Then it has the package's library, and is made once
    assert (analyzer.libraries / "libb64.so.0d").read_text() == "Debian's"
    assert [Path(word).name for word in asked] == ["download", "update", "download", "libb64-0d_1.2_amd64.deb"]


def test_perf_analyzer_that_cannot_be_made_is_unavailable_with_the_reason(
    peers: Any, monkeypatch: pytest.MonkeyPatch, analyzer: Any
) -> None:
    monkeypatch.setattr(peers.analyzer.shutil, "which", lambda _: None)
    with pytest.raises(peers.environments.UnavailableError, match=r"libb64\.so\.0d is not installed, and there is no apt-get"):
        analyzer.build(lambda _: None)
    monkeypatch.setattr(peers.analyzer.AnalyzerFiles, "_lacks", lambda _: "libssl.so.3: cannot open shared object file")
    with pytest.raises(peers.environments.UnavailableError, match=r"does not start: libssl\.so\.3: cannot open"):
        analyzer.build(lambda _: None)
    assert not analyzer.started.exists()


# ---- Triton's models ---------------------------------------------------------------------------------------------------------


class FakeTensor:
    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array


@pytest.fixture
def python_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model's class by the name of its file, with a stand-in for the module that Triton's backend brings."""
    utils = ModuleType("triton_python_backend_utils")
    vars(utils).update(
        Tensor=FakeTensor,
        InferenceResponse=lambda output_tensors: output_tensors,
        get_input_tensor_by_name=lambda request, name: FakeTensor(name, request[name]),
    )
    monkeypatch.setitem(sys.modules, utils.__name__, utils)

    def found(name: str) -> Any:
        content: dict[str, Any] = {"__name__": name}
        exec((BENCH / "peers" / "triton_models" / f"{name}.py").read_text(encoding="utf-8"), content)
        return content["TritonPythonModel"]

    return found


def test_the_identity_model_answers_ten_floats_of_each_row_to_each_request(python_model: Any) -> None:
    images = [np.random.default_rng(rows).random((rows, 3, 224, 224), np.float32) for rows in (1, 3)]
    responses = python_model("identity")().execute([{"image": image} for image in images])
    for image, (scores,) in zip(images, responses, strict=True):
        assert scores.name == "scores"
        assert np.array_equal(scores.array, image.reshape(len(image), -1)[:, :10])
        assert scores.array.flags.owndata and scores.array.flags.c_contiguous


def test_requests_of_a_batch_are_executed_at_once_and_answered_apart(python_model: Any) -> None:
    # Given a session that says how often it was run
    batches: list[int] = []

    def run(wanted: list[str], feeds: dict[str, Any]) -> list[Any]:
        assert wanted == ["scores"]
        batches.append(len(feeds["image"]))
        return [feeds["image"].sum(axis=1, keepdims=True)]

    model = python_model("resnet50_shaped")()
    model.session = SimpleNamespace(run=run)
    # When a batch of three requests comes
    images = [np.full((rows, 4), rows, np.float32) for rows in (2, 1, 3)]
    responses = model.execute([{"image": image} for image in images])
    # Then it is one execution, and each has its own rows
    assert batches == [6]
    assert [scores.array.tolist() for (scores,) in responses] == [[[8.0]] * 2, [[4.0]], [[12.0]] * 3]


# ---- the table ---------------------------------------------------------------------------------------------------------------


def row(
    server: str, link: str, rate: float, p50: float = 500.0, p99: float = 900.0, tool: str = "penstock perf"
) -> dict[str, Any]:
    load = {"model": "identity", "batch": 1, "concurrency": 8}
    figures = {"inferences_per_s": rate, "p50_us": p50, "p99_us": p99}
    return {**load, "server": server, "link": link, "tool": tool, **figures, "rounds": [figures]}


def test_a_line_for_each_load_has_the_better_tool_and_the_better_server(peers: Any) -> None:
    rows = [
        row("penstock", "local", 16000.0, 470.0),
        row("triton", "http", 2000.0, 3900.0),
        row("triton", "http", 3200.0, 2500.0, 2600.0, tool="perf_analyzer"),
    ]
    heads, _, line = peers.table.side_by_side(rows).splitlines()
    assert heads == "| model | rows x requests | Penstock, local | Triton, HTTP | faster |"
    assert line == "| identity | 1 x 8 | 16,000/s, 0.47 ms | 3,200/s, 2.50 ms | Penstock, 5.0 x |"


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ((100.0, 500.0, 900.0), (150.0, 500.0, 900.0), "**Triton, 1.5 x**"),
        ((100.0, 500.0, 900.0), (104.0, 500.0, 900.0), "even"),
        ((3000.0, 500.0, 900.0), (100.0, 250.0, 900.0), "Penstock, 30 x; **p50: Triton, 2.0 x**"),
        ((100.0, 500.0, 2700.0), (100.0, 500.0, 900.0), "even; **p99: Triton, 3.0 x**"),
    ],
)
def test_where_triton_is_better_the_row_says_so(peers: Any, ours: Any, theirs: Any, said: str) -> None:
    assert peers.table.verdict([row("penstock", "local", *ours), row("triton", "grpc", *theirs)]) == said


def test_a_side_that_was_not_measured_is_compared_with_nothing(peers: Any) -> None:
    assert peers.table.verdict([row("penstock", "local", 100.0), row("mosec", "http", 5.0)]) == "-"


def test_the_heading_says_what_is_not_in_the_table(peers: Any) -> None:
    report = {
        "machine": {"cores": 2, "date": "2026-11-21", "packages": {}}, "versions": {"triton": "2.51.0"}, "rounds": 3,
        "seconds": 3.0, "instances": 1, "idle_percent_of_a_core": {"triton": 0.1}, "complete": False, "left_out": ["mosec: why"],
    }  # fmt: skip
    said = peers.table.heading(report)
    assert "date 2026-11-21" in said
    assert "broken off" in said
    assert "Left out: mosec: why." in said


def test_every_figure_comes_with_the_spread_of_its_rounds(peers: Any) -> None:
    measured = row("triton", "http", 100.0) | {"rounds": [{"inferences_per_s": rate} for rate in (90.0, 120.0)]}
    line = peers.table.everything([measured]).splitlines()[2]
    assert line.startswith("| identity | 1 | 8 | triton | http | penstock perf | 100.0 | 90.0 | 120.0 | 500.0 |")
