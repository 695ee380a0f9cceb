# SPDX-License-Identifier: Apache-2.0
"""Health, metadata, configuration and statistics through a gateway, as tritonclient's four clients and plain HTTP see them."""

from __future__ import annotations

import http.client
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
from gateways import RunningGateway
from google.protobuf import json_format, text_format
from kserve_clients import FLAVORS, Asking, grpc_error, over_http, stub_of
from running import START_S, Barrier, RunningBroker, add_model, eventually
from tritonclient.grpc import model_config_pb2, service_pb2

RICH = """
dynamic_batching { priority_levels: 3 default_priority_level: 2
  default_queue_policy { default_timeout_microseconds: 5000000000 max_queue_size: 9 }
  priority_queue_policy { key: 1 value { timeout_action: DELAY } } }
model_transaction_policy {} response_cache {} metric_tags { key: "team" value: "vision" }
"""
NO_VERSION = (
    "failed to get model version from specified version string 'x' (details: stol), version should be an integral value > 0"
)
BELOW_ZERO = "invalid model version specified '-1' , version should be an integral value > 0"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Models: echo, wide (no batch dimension), rich, three versions of many, and broken, which fails to load."""
    folder = tmp_path_factory.mktemp("run")
    models = folder / "models"
    add_model(models, "echo")
    add_model(models, "wide", max_batch_size=0)
    add_model(models, "rich", batching=RICH)
    add_model(models, "many", batching="version_policy { specific { versions: [ 1, 3 ] } }")
    for version in ("2", "3"):
        (models / "many" / version).mkdir()
    add_model(models, "broken", mode="nonsense")
    with RunningBroker(folder, models) as broker, RunningGateway(folder, broker.addresses["local"]) as running:
        yield running


@pytest.fixture(params=FLAVORS)
def ask(request: pytest.FixtureRequest, gateway: RunningGateway) -> Asking:
    return Asking(request.param, gateway)


# --- health ----------------------------------------------------------------------------------------------------------


def test_health(ask: Asking) -> None:
    """Given a model that failed to load, the server is live and not strictly ready; each model is, or is not."""
    assert ask("is_server_live") is True
    assert ask("is_server_ready") is False
    ready = {name: ask("is_model_ready", name) for name in ("echo", "many", "broken", "nobody")}
    assert ready == {"echo": True, "many": True, "broken": False, "nobody": False}
    assert [ask("is_model_ready", "many", version) for version in ("1", "2", "3")] == [True, False, True]


def test_readiness_may_be_loose(tmp_path: Path, repository: Path) -> None:
    """Given --no-strict-readiness, models do not matter; strictly, the server is ready once the failed one is unloaded."""
    add_model(repository, "echo")
    add_model(repository, "broken", mode="nonsense")
    options = ("--no-strict-readiness", "--server-id", "boxes")
    with RunningBroker(tmp_path, repository) as broker:
        local = broker.addresses["local"]
        with RunningGateway(tmp_path, local) as strict, RunningGateway(tmp_path, local, *options) as loose:
            for flavor in ("http", "grpc"):
                assert not Asking(flavor, strict)("is_server_ready")
                assert Asking(flavor, loose)("is_server_ready")
            with broker.client("local") as client:
                client.unload("broken")
            assert Asking("http", strict)("is_server_ready") and Asking("grpc", strict)("is_server_ready")
            assert Asking("http", loose)("get_server_metadata")["name"] == "boxes"
            assert Asking("grpc", loose)("get_server_metadata").name == "boxes"
            broker.stop()
            for flavor in ("http", "grpc"):
                assert Asking(flavor, loose)("is_server_live") and not Asking(flavor, loose)("is_server_ready")
                assert not Asking(flavor, loose)("is_model_ready", "echo")


def test_a_gateway_that_is_stopping_says_so(tmp_path: Path, repository: Path) -> None:
    """Given a request in flight, when the gateway is told to stop, a connection that is there gets 503, the request its answer."""
    with Barrier(tmp_path / "barrier.sock") as barrier:
        add_model(repository, "gate", mode="barrier", barrier_path=barrier.path)
        with (
            RunningBroker(tmp_path, repository) as broker,
            RunningGateway(tmp_path, broker.addresses["local"]) as running,
            ThreadPoolExecutor(1) as pool,
        ):
            given = over_grpc.InferInput("x", [1, 2], "FP32")
            given.set_data_from_numpy(np.ones((1, 2), np.float32))
            answer = pool.submit(Asking("grpc", running), "infer", "gate", [given])
            held = barrier.entered()
            kept = http.client.HTTPConnection(running.http, timeout=START_S)

            def said(path: str) -> tuple[int, bytes]:
                kept.request("GET", f"/v2/health/{path}")
                response = kept.getresponse()
                return response.status, response.read()

            assert said("live") == (200, b"")
            assert running.process is not None
            running.process.send_signal(signal.SIGTERM)
            exiting = (503, b'{"error":"Server exiting"}')
            eventually(lambda: said("live") == exiting, START_S, "it says that it is exiting")
            assert said("ready") == exiting
            kept.close()
            held.let_go()
            assert (answer.result(START_S).as_numpy("y") == 1).all()


# --- metadata --------------------------------------------------------------------------------------------------------


def test_server_metadata(ask: Asking) -> None:
    found = ask("get_server_metadata")
    extensions = found["extensions"] if ask.is_http else found.extensions
    assert (found["name"] if ask.is_http else found.name) == "triton"
    assert {"statistics", "model_repository(unload_dependents)", "system_shared_memory"} <= set(extensions)
    assert "sequence" not in extensions  # which this release does not have


def test_model_metadata(ask: Asking) -> None:
    """Given three versions of which two are served, those two are told, or the one that is asked for."""
    tensor = {"datatype": "FP32", "shape": [-1, 2]}
    for version, versions in (("", ["1", "3"]), ("3", ["3"])):
        expected = {
            "name": "many", "versions": versions, "platform": "fake",
            "inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}],
        }  # fmt: skip
        found = ask("get_model_metadata", "many", version)
        assert found == (expected if ask.is_http else json_format.ParseDict(expected, service_pb2.ModelMetadataResponse()))
    wide = ask("get_model_metadata", "wide")
    assert list((wide["inputs"][0]["shape"]) if ask.is_http else wide.inputs[0].shape) == [2]


UNKNOWN = [
    ("nobody", "", "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
    ("nobody", "1", "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
    ("n" * 300, "", "NOT_FOUND", f"Request for unknown model: '{'n' * 256}...' is not found"),
    ("many", "2", "NOT_FOUND", "Request for unknown model: 'many' version 2 is not found"),
    ("echo", "0", "NOT_FOUND", "Request for unknown model: 'echo' version 0 is not found"),
    ("broken", "", "NOT_FOUND", "Request for unknown model: 'broken' has no available versions"),
    ("broken", "1", "UNAVAILABLE", "Request for unknown model: 'broken' version 1 is not at ready state"),
    ("echo", "x", "INVALID_ARGUMENT", NO_VERSION),
    ("echo", "-1", "INVALID_ARGUMENT", BELOW_ZERO),
]
STATUS = {"NOT_FOUND": "404", "UNAVAILABLE": "503", "INVALID_ARGUMENT": "400"}


@pytest.mark.parametrize("method", ["get_model_metadata", "get_model_config"])
def test_what_cannot_be_had(ask: Asking, method: str) -> None:
    """Codes and sentences are Triton's to the letter."""
    for model, version, code, words in UNKNOWN:
        status = STATUS[code] if ask.is_http else f"StatusCode.{code}"
        assert ask.refused(method, model, version) == (status, words)


# --- configuration ---------------------------------------------------------------------------------------------------


def test_a_configuration_is_the_one_of_the_file_completed(gateway: RunningGateway, ask: Asking) -> None:
    """Given a config.pbtxt, what it says comes back, with Triton's defaults filled in: over gRPC equal as a message."""
    text = (gateway.folder / "models" / "rich" / "config.pbtxt").read_text()
    expected = text_format.Parse(text, model_config_pb2.ModelConfig())
    expected.version_policy.latest.num_versions = 1
    expected.optimization.input_pinned_memory.enable = True
    expected.optimization.output_pinned_memory.enable = True
    expected.dynamic_batching.preferred_batch_size.append(4)
    expected.instance_group[0].name = "rich_0"
    found = ask("get_model_config", "rich")
    if not ask.is_http:
        assert found.config == expected
        return
    assert json_format.ParseDict(found, model_config_pb2.ModelConfig()) == expected
    # all defaults are there, 64-bit integers are numbers, and what perf_analyzer looks into has what it looks for
    assert found["runtime"] == "" and found["model_warmup"] == [] and found["cc_model_filenames"] == {}
    assert found["dynamic_batching"]["default_queue_policy"]["default_timeout_microseconds"] == 5000000000
    assert found["dynamic_batching"]["priority_queue_policy"]["1"]["timeout_action"] == "DELAY"
    assert found["model_transaction_policy"] == {"decoupled": False} and found["response_cache"] == {"enable": False}
    assert "sequence_batching" not in found and "ensemble_scheduling" not in found


# --- statistics ------------------------------------------------------------------------------------------------------

DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


def infer(gateway: RunningGateway, model: str, rows: int) -> None:
    given = over_grpc.InferInput("x", [rows, 2], "FP32")
    given.set_data_from_numpy(np.ones((rows, 2), np.float32))
    Asking("grpc", gateway)("infer", model, [given])


def rows_of(ask: Asking, *arguments: str) -> list[dict[str, Any]]:
    """The rows, with numbers as numbers whatever the protocol: protobuf's JSON has texts for them."""
    found = ask("get_inference_statistics", *arguments)
    if ask.is_http:
        return list(found["model_stats"])
    document = json_format.MessageToDict(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)

    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: each if key in ("name", "version") else numbers(each) for key, each in value.items()}
        if isinstance(value, list):
            return [numbers(each) for each in value]
        return int(value)

    return [numbers(row) for row in document["model_stats"]]


def test_statistics_have_every_field(gateway: RunningGateway, ask: Asking) -> None:
    """Given requests of one and of three rows, each counts once, and every field is there, be it zero."""
    (before,) = rows_of(ask, "echo", "1")
    infer(gateway, "echo", 1)
    infer(gateway, "echo", 3)
    (after,) = rows_of(ask, "echo")
    assert after.keys() == {
        "name", "version", "last_inference", "inference_count", "execution_count", "inference_stats", "response_stats",
        "batch_stats", "memory_usage",
    }  # fmt: skip
    assert (after["name"], after["version"], after["response_stats"], after["memory_usage"]) == ("echo", "1", {}, [])
    assert after["last_inference"] >= before["last_inference"]
    assert after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] == 2
    assert tuple(after["inference_stats"]) == DURATIONS
    added = {name: after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"] for name in DURATIONS}
    assert added == {**dict.fromkeys(DURATIONS, 2), "fail": 0, "cache_hit": 0, "cache_miss": 0}
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert [row["batch_size"] for row in after["batch_stats"]] == [1, 3]
    assert all(row["compute_infer"].keys() == {"count", "ns"} for row in after["batch_stats"])


def test_statistics_of_whom(ask: Asking) -> None:
    """All models that are ready, all ready versions of one, or the one that is asked for."""

    def named(*arguments: str) -> list[str]:
        return [f"{row['name']}/{row['version']}" for row in rows_of(ask, *arguments)]

    assert named() == ["echo/1", "many/1", "many/3", "rich/1", "wide/1"]
    assert named("many") == ["many/1", "many/3"]
    assert named("many", "3") == ["many/3"]


def test_statistics_of_nobody(ask: Asking) -> None:
    status = "400" if ask.is_http else "StatusCode.INVALID_ARGUMENT"
    for model, version, words in (
        ("nobody", "", "requested model 'nobody' is not available"),
        ("broken", "", "requested model 'broken' is not available"),
        ("broken", "1", "requested model 'broken' is not available"),
        ("many", "2", "requested model version is not available for model 'many'"),
        ("many", "x", NO_VERSION),
    ):
        assert ask.refused("get_inference_statistics", model, version) == (status, words)


# --- what tritonclient does not show ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "content"),
    [
        ("/v2/health/live", 200, ""),
        ("/v2/health/ready", 400, ""),
        ("/v2/models/echo/ready", 200, ""),
        ("/v2/models/echo/versions/9/ready", 400, {"error": "Model version not ready"}),
        ("/v2/models/nobody/ready", 400, {"error": "Model version not ready"}),
        ("/v2/models/broken/ready", 400, {"error": "Model version not ready"}),
        ("/v2/models/echo/versions/x/ready", 400, {"error": NO_VERSION}),
        ("/v2/models/%FF%00", 404, {"error": "Request for unknown model: '\ufffd\0' is not found"}),
    ],
)
def test_over_plain_http(gateway: RunningGateway, path: str, status: int, content: object) -> None:
    assert over_http(gateway.http, "GET", path) == (status, content)


def test_over_the_plain_stub(gateway: RunningGateway) -> None:
    """No model is not the server, and every method says what a version is."""
    with stub_of(gateway.grpc) as stub:
        assert not stub.ModelReady(service_pb2.ModelReadyRequest(name="")).ready
        with grpc_error("INVALID_ARGUMENT", NO_VERSION):
            stub.ModelReady(service_pb2.ModelReadyRequest(name="echo", version="x"))
        with grpc_error("NOT_FOUND", "Request for unknown model: '' is not found"):
            stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=""))
        assert len(stub.ModelStatistics(service_pb2.ModelStatisticsRequest()).model_stats) == 5
