# SPDX-License-Identifier: Apache-2.0
"""Triton's model repository extension through a gateway: index, load and unload, and who may."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
from gateways import RunningGateway
from google.protobuf import json_format
from kserve_clients import FLAVORS, Asking, grpc_error, over_http, stub_of
from running import START_S, Barrier, Held, RunningBroker, add_model, eventually
from tritonclient.grpc import service_pb2

ONNX = Path(__file__).parents[2] / "model_repository" / "simple" / "1" / "model.onnx"
OVERRIDE = json.dumps({
    "backend": "fake",
    "max_batch_size": 2,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
})  # fmt: skip
FAILING = (
    ("nobody", "INTERNAL", "failed to load 'nobody', failed to poll from model repository: model not found in any"),
    ("unread", "INTERNAL", "failed to load 'unread', failed to poll from model repository: unread/config.pbtxt:1:1"),
    (
        "broken", "INVALID_ARGUMENT",
        "load failed for model 'broken': version 1 is at UNAVAILABLE state: Invalid argument: model 'broken': unknown mode",
    ),
    ("a..b", "INVALID_ARGUMENT", "invalid model name 'a..b', model name must not contain path traversal characters"),
)  # fmt: skip
"""Model -> what its load is answered over gRPC."""
POLLING = "explicit model load / unload is not allowed if polling is enabled"
NO_REPOSITORY = "'repository_name' specification is not supported"


def fill(models: Path, barrier_path: Path) -> None:
    """Models: echo, broken, which fails to load, unread, whose configuration is none, and late, which waits at its barrier."""
    add_model(models, "echo")
    add_model(models, "late", mode="barrier", at="load", barrier_path=barrier_path)
    add_model(models, "broken", mode="nonsense")
    add_model(models, "unread")
    (models / "unread" / "config.pbtxt").write_text("nonsense: 3")


EXPLICIT = ("--control-mode", "explicit", "--load-model", "echo", "--load-model", "broken")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """For what changes nothing: echo is loaded, and broken was tried."""
    folder = tmp_path_factory.mktemp("run")
    fill(folder / "models", folder / "nobody")
    with (
        RunningBroker(folder, folder / "models", *EXPLICIT) as broker,
        RunningGateway(folder, broker.addresses["local"]) as running,
    ):
        yield running


@pytest.fixture(params=FLAVORS)
def ask(request: pytest.FixtureRequest, gateway: RunningGateway) -> Asking:
    return Asking(request.param, gateway)


class Own(NamedTuple):
    """One test's own: what loads models starts workers, which end with the test."""

    pool: ThreadPoolExecutor
    barrier: Barrier
    broker: RunningBroker
    gateway: RunningGateway


@pytest.fixture
def own(tmp_path: Path, repository: Path) -> Iterator[Own]:
    """A call in the pool that nobody answers ends with the gateway."""
    fill(repository, tmp_path / "barrier.sock")
    with (
        ThreadPoolExecutor(2) as pool,
        Barrier(tmp_path / "barrier.sock") as barrier,
        RunningBroker(tmp_path, repository, *EXPLICIT) as broker,
        RunningGateway(tmp_path, broker.addresses["local"]) as running,
    ):
        yield Own(pool, barrier, broker, running)


def index(ask: Asking) -> dict[str, dict[str, str]]:
    """Name -> its row, without what does not apply."""
    found = ask("get_model_repository_index")
    if not ask.is_http:
        found = json_format.MessageToDict(found).get("models", [])
    return {row["name"]: row for row in found}


def load(gateway: RunningGateway, model: str, body: object = None) -> tuple[int, Any]:
    text = body if isinstance(body, str | bytes) else json.dumps(body or {})
    return over_http(gateway.http, "POST", f"/v2/repository/models/{model}/load", text)


# --- the index -------------------------------------------------------------------------------------------------------


def test_the_index(ask: Asking) -> None:
    """What is loaded has version and state, what failed its reason, and what was never loaded a name only."""
    rows = index(ask)
    assert rows["echo"] == {"name": "echo", "version": "1", "state": "READY"}
    assert rows["late"] == {"name": "late"}
    assert (rows["broken"]["state"], rows["broken"]["version"]) == ("UNAVAILABLE", "1")
    assert "unknown mode 'nonsense'" in rows["broken"]["reason"]


def test_the_index_of_what_is_ready(gateway: RunningGateway) -> None:
    ready = [{"name": "echo", "version": "1", "state": "READY"}]
    path = "/v2/repository/index"
    assert over_http(gateway.http, "POST", path, '{"ready": true}') == (200, ready)
    for body in ("", "{}", '{"ready": false}', '{"else": 1}'):
        assert len(over_http(gateway.http, "POST", path, body).content) == 4
    with stub_of(gateway.grpc) as stub:
        assert [row.name for row in stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(ready=True)).models] == ["echo"]


# --- loading and unloading -------------------------------------------------------------------------------------------


def test_a_model_is_unloaded_and_loaded(own: Own) -> None:
    for flavor in FLAVORS:
        ask = Asking(flavor, own.gateway)
        ask("unload_model", "echo", unload_dependents=True)
        assert not ask("is_model_ready", "echo")
        assert index(ask)["echo"] == {"name": "echo", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        ask("load_model", "echo")
        assert ask("is_model_ready", "echo")
        ask("unload_model", "nobody")


def test_a_configuration_comes_with_the_load(own: Own) -> None:
    """It is used, and a later load without one returns to what is on disk."""
    for flavor in FLAVORS:
        ask = Asking(flavor, own.gateway)
        sizes = []
        for options in ({"config": OVERRIDE}, {}):
            ask("load_model", "echo", **options)
            found = ask("get_model_config", "echo")
            sizes.append(found["max_batch_size"] if ask.is_http else found.config.max_batch_size)
        assert sizes == [2, 4]


def test_files_come_with_the_load(own: Own) -> None:
    """Given a file and a configuration, a model is loaded that is in no repository."""
    given = []
    for name in ("INPUT0", "INPUT1"):
        given.append(over_grpc.InferInput(name, [1, 16], "INT32"))
        given[-1].set_data_from_numpy(np.ones((1, 16), np.int32))
    for flavor in FLAVORS:
        ask = Asking(flavor, own.gateway)
        ask("load_model", "adder", config='{"backend": "onnxruntime"}', files={"file:1/model.onnx": ONNX.read_bytes()})
        assert (Asking("grpc", own.gateway)("infer", "adder", given).as_numpy("OUTPUT0") == 2).all()
        ask("unload_model", "adder")
        assert not ask("is_model_ready", "adder")


def test_a_load_that_fails_says_why(own: Own) -> None:
    """Triton's sentences, with what it says in its log only behind them; what was loaded before stays so."""
    for flavor in FLAVORS:
        ask = Asking(flavor, own.gateway)
        for model, code, words in FAILING:
            status, message = ask.refused("load_model", model)
            assert status == ({"INTERNAL": "500"}.get(code, "400") if ask.is_http else f"StatusCode.{code}")
            assert message.startswith(words)
        status, message = ask.refused("load_model", "echo", config='{"backend": "fake", "color": "red"}')
        assert status == ("400" if ask.is_http else "StatusCode.INVALID_ARGUMENT")
        assert message.startswith("Invalid config override: ") and 'no field named "color"' in message
        assert ask("is_model_ready", "echo")


BASE64 = "the content of load parameter 'file:1/a' must be base64: Incorrect padding"
NO_MEMBERS = "attempt to get members for non-object"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"parameters": "x"}, 500, NO_MEMBERS),
        ({"parameters": []}, 500, NO_MEMBERS),
        ({"parameters": {"config": {}}}, 500, "attempt to access JSON non-string as string"),
        ({"parameters": {"config": ""}}, 400, "Invalid config override: it is empty"),
        ({"parameters": {"color": "red"}}, 400, "unrecognized load parameter 'color'."),
        ({"parameters": {"config": OVERRIDE, "file:1/a": 3}}, 500, "attempt to access JSON non-string as string"),
        ({"parameters": {"config": OVERRIDE, "file:1/a": "eA="}}, 400, BASE64),
        ({"parameters": {"file:1/a": ""}}, 400, "Load parameter 'config' must be specified for model file override"),
        (
            {"parameters": {"config": OVERRIDE, "file:../a": ""}}, 400,
            "Invalid file parameter 'file:../a' with normalized path '../a' must stay within model directory.",
        ),
    ],
)  # fmt: skip
def test_a_load_over_http_that_is_none(gateway: RunningGateway, body: object, status: int, words: str) -> None:
    assert load(gateway, "echo", body) == (status, {"error": words})


def test_bodies_that_are_no_json(gateway: RunningGateway) -> None:
    for path in ("index", "models/echo/load", "models/echo/unload"):
        status, content = over_http(gateway.http, "POST", f"/v2/repository/{path}", "{bad")
        assert status == 500
        assert content["error"].startswith("failed to parse the request JSON buffer: ")
    index_path, unload_path = "/v2/repository/index", "/v2/repository/models/nobody/unload"
    for body in ('{"ready": 1}', '{"ready": "x"}', '{"ready": null}'):
        wrong = {"error": "Invalid value for 'ready': expected a boolean"}
        assert over_http(gateway.http, "POST", index_path, body) == (400, wrong)
    wrong = {"error": "attempt to access JSON non-boolean as boolean"}
    body = '{"parameters": {"unload_dependents": "x"}}'
    assert over_http(gateway.http, "POST", unload_path, body) == (500, wrong)
    assert over_http(gateway.http, "POST", unload_path) == (200, "")


def test_parameters_over_grpc_that_are_none(gateway: RunningGateway) -> None:
    def parameters(**choices: dict[str, Any]) -> dict[str, Any]:
        names = {"file": "file:1/a"}
        return {names.get(name, name): service_pb2.ModelRepositoryParameter(**choice) for name, choice in choices.items()}

    with stub_of(gateway.grpc) as stub:

        def refused(words: str, call: Callable[..., Any], **choices: dict[str, Any]) -> None:
            request = {stub.RepositoryModelLoad: service_pb2.RepositoryModelLoadRequest}.get(
                call, service_pb2.RepositoryModelUnloadRequest
            )
            with grpc_error("INVALID_ARGUMENT", words):
                call(request(model_name="echo", parameters=parameters(**choices)))

        string = "invalid value type for load parameter 'config', expected string_param."
        for choice in ({"int64_param": 3}, {"bytes_param": b"{}"}, {}):
            refused(string, stub.RepositoryModelLoad, config=choice)
        given = {"string_param": OVERRIDE}
        for choice in ({"string_param": "x"}, {"bool_param": True}):
            refused(
                "invalid value type for load parameter 'file:1/a', expected bytes_param.",
                stub.RepositoryModelLoad, config=given, file=choice,
            )  # fmt: skip
        refused("unrecognized load parameter 'color'.", stub.RepositoryModelLoad, color={"string_param": "red"})
        refused(
            "invalid value type for 'unload_dependents' parameter, expected bool_param.",
            stub.RepositoryModelUnload, unload_dependents={"int64_param": 1},
        )  # fmt: skip
        with grpc_error("INVALID_ARGUMENT", "Model name cannot be empty. Please enter a valid name to deploy."):
            stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest())


def test_repositories_have_no_names(gateway: RunningGateway) -> None:
    for path in ("index", "models/echo/load", "models/echo/unload"):
        assert over_http(gateway.http, "POST", f"/v2/repository/mine/{path}") == (501, {"error": NO_REPOSITORY})
    with stub_of(gateway.grpc) as stub:
        for call, request in (
            (stub.RepositoryIndex, service_pb2.RepositoryIndexRequest),
            (stub.RepositoryModelLoad, service_pb2.RepositoryModelLoadRequest),
            (stub.RepositoryModelUnload, service_pb2.RepositoryModelUnloadRequest),
        ):
            with grpc_error("UNIMPLEMENTED", NO_REPOSITORY):
                call(request(repository_name="mine"))


# --- a load takes as long as it takes --------------------------------------------------------------------------------


def test_a_load_is_waited_for(own: Own) -> None:
    """Given a model that loads slowly, the client hears of the end of the load, and the gateway serves others meanwhile."""
    for flavor in ("http.aio", "grpc"):  # tritonclient.http keeps an event loop for each thread that has used it
        ask = Asking(flavor, own.gateway)
        loading = own.pool.submit(ask, "load_model", "late")
        held = own.barrier.entered()
        assert index(ask)["late"]["state"] == "LOADING" and ask("is_model_ready", "echo")
        assert not ask("is_model_ready", "late") and not loading.done()
        held.let_go()
        loading.result(START_S)
        assert ask("is_model_ready", "late")
        ask("unload_model", "late")


def test_a_client_that_goes_away_does_not_end_its_load(own: Own) -> None:
    for go_away in (_over_http, _over_grpc):
        held = go_away(own)
        ask = Asking("http", own.gateway)
        assert index(ask)["late"]["state"] == "LOADING"
        held.let_go()
        eventually(lambda ask=ask: ask("is_model_ready", "late"), START_S, "it is loaded all the same")  # type: ignore[misc]
        ask("unload_model", "late")


def _over_http(own: Own) -> Held:
    connection = http.client.HTTPConnection(own.gateway.http, timeout=START_S)
    connection.request("POST", "/v2/repository/models/late/load", "{}")
    held = own.barrier.entered()
    connection.close()
    return held


def _over_grpc(own: Own) -> Held:
    with stub_of(own.gateway.grpc) as stub:
        call = stub.RepositoryModelLoad.future(service_pb2.RepositoryModelLoadRequest(model_name="late"))
        held = own.barrier.entered()
        call.cancel()
    return held


def test_what_no_message_carries_costs_nobody_else_anything(own: Own) -> None:
    """Given a load under way, when somebody sends an enormous configuration, that is refused, and the load ends well."""
    loading = own.pool.submit(Asking("grpc", own.gateway), "load_model", "late")
    held = own.barrier.entered()
    for flavor in ("http", "grpc"):
        ask = Asking(flavor, own.gateway)
        assert "at most 1048576 are taken" in ask.refused("load_model", "echo", config="{" * (5 << 20))[1]
        assert f"failed to load '{'n' * 256}...'" in ask.refused("load_model", "n" * 5000)[1]
    held.let_go()
    loading.result(START_S)


# --- who may, and where ----------------------------------------------------------------------------------------------

AS_NOBODY = """
import encodings.idna, http.client, os, sys
os.setuid(65534)
connection = http.client.HTTPConnection(sys.argv[1], timeout=30)
connection.request("POST", f"/v2/repository/models/echo/{sys.argv[2]}", "{}")
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""


def as_nobody(gateway: RunningGateway, what: str) -> str:
    """What another user of this machine is answered."""
    command = [sys.executable, "-c", AS_NOBODY, gateway.http, what]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_S)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make requests as another user")
def test_another_user_may_load_only_where_anyone_may(own: Own) -> None:
    ask = Asking("http", own.gateway)
    for what in ("load", "unload"):
        said = as_nobody(own.gateway, what)
        assert said.startswith("501 ") and "--gateway-model-control anyone" in said
        assert "only uid 0 may load and unload models, and uid 65534 asks" in said
    assert ask("is_model_ready", "echo")
    with RunningGateway(own.broker.folder, own.broker.addresses["local"], "--gateway-model-control", "anyone") as public:
        assert as_nobody(public, "unload") == "200"
        assert not ask("is_model_ready", "echo")
        assert as_nobody(public, "load") == "200"
    assert ask("is_model_ready", "echo")


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_where_nobody_may_load(tmp_path: Path, repository: Path, mode: str) -> None:
    add_model(repository, "echo")
    with (
        RunningBroker(tmp_path, repository, "--control-mode", mode) as broker,
        RunningGateway(tmp_path, broker.addresses["local"]) as running,
    ):
        for flavor, status in (("http", "503"), ("grpc", "StatusCode.UNAVAILABLE")):
            for method in ("load_model", "unload_model"):
                assert Asking(flavor, running).refused(method, "echo") == (status, POLLING)
        assert Asking("http", running)("is_model_ready", "echo")
