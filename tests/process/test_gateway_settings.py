# SPDX-License-Identifier: Apache-2.0
"""Triton's logging and trace extensions as tritonclient uses them: what they answer, and what they do, in all gateways."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from gateways import RunningGateway
from running import Barrier, RunningBroker, add_model, eventually
from trace_reading import ReadTrace, read_traces
from tritonclient.utils import InferenceServerException

PROTOCOLS = {"http": over_http, "grpc": over_grpc}
AIO = {"http": over_http_aio, "grpc": over_grpc_aio}
LINE = re.compile(r'[IWEV]\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ \w+\.py:\d+\] "')
OUR_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ penstock\.")
WITHIN_S = 10.0

LOG = {
    "log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0, "log_format": "default",
}  # fmt: skip
TRACE = {"trace_level": ["OFF"], "trace_rate": "1000", "trace_count": "-1", "log_frequency": "0", "trace_mode": "triton"}


class Place(NamedTuple):
    """A broker with two gateways, and where its traces go."""

    broker: RunningBroker
    gateways: list[RunningGateway]
    traces: Path

    def parts(self) -> list[Path]:
        """The files of `log_frequency`, in order."""
        return sorted(self.traces.parent.glob(f"{self.traces.name}.*"), key=lambda path: int(path.suffix[1:]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("settings")
    repository = folder / "models"
    for name in ("echo", "other"):
        add_model(repository, name)
    add_model(repository, "held", mode="barrier", barrier_path=folder / "barrier.sock")
    traces = folder / "traces.json"
    traces.write_text("of an earlier broker")
    with ExitStack() as stack:
        broker = stack.enter_context(RunningBroker(folder, repository, "--trace-file", str(traces)))
        gateways = []
        for name in ("first", "second"):
            (folder / name).mkdir()
            gateways.append(stack.enter_context(RunningGateway(folder / name, broker.addresses["local"])))
        yield Place(broker, gateways, traces)


@pytest.fixture(autouse=True)
def _as_it_was(place: Place) -> Iterator[None]:
    """Nothing is traced, and no file is left; the log is as at the start but for its shape, which cannot be unset."""
    yield
    at_start = {name: value for name, value in LOG.items() if name != "log_file"}
    assert post(place.gateways[0].http, "/v2/logging", at_start) == (200, LOG)
    cleared = {"trace_level": ["OFF"], "trace_rate": None, "trace_count": None, "log_frequency": None}
    for path in ("/v2/trace/setting", *(f"/v2/models/{name}/trace/setting" for name in ("echo", "other"))):
        post(place.gateways[0].http, path, {**cleared, **({"trace_level": None} if "models" in path else {})})
    for path in (place.traces, *place.parts()):
        path.unlink(missing_ok=True)


def post(address: str, path: str, document: Any) -> tuple[int, Any]:
    return _call(address, "POST", path, json.dumps(document))


def get(address: str, path: str) -> tuple[int, Any]:
    return _call(address, "GET", path, None)


def _call(address: str, method: str, path: str, body: str | None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(address)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def infer(gateway: RunningGateway, protocol: str, model: str = "echo", count: int = 1, request_id: str = "") -> None:
    library: Any = PROTOCOLS[protocol]
    with library.InferenceServerClient(getattr(gateway, protocol)) as client:
        given = library.InferInput("x", [1, 2], "FP32")
        given.set_data_from_numpy(np.array([[1, 2.5]], np.float32))
        for _ in range(count):
            client.infer(model, [given], request_id=request_id)


def written(place: Place, count: int) -> list[ReadTrace]:
    """So many traces, and no more; a gateway writes them when the answer has left."""
    found: list[ReadTrace] = []

    def are_there() -> bool:
        paths = [path for path in (place.traces, *place.parts()) if path.exists()]
        found[:] = read_traces(*paths)
        return len(found) >= count

    eventually(are_there, WITHIN_S, f"{count} traces are written")
    assert len(found) == count
    return found


# --- what is answered --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clients_read_and_change_log_settings(place: Place, protocol: str) -> None:
    library: Any = PROTOCOLS[protocol]
    with library.InferenceServerClient(getattr(place.gateways[0], protocol)) as client:
        # Given what the server started with
        assert client.get_log_settings(**_json(protocol)) == _logged(protocol, LOG)
        # When a client changes some
        changed = {"log_info": False, "log_verbose_level": 2, "log_format": "ISO8601"}
        # Then all are answered, and the next who asks is told the same
        assert client.update_log_settings(changed, **_json(protocol)) == _logged(protocol, {**LOG, **changed})
        assert client.get_log_settings(**_json(protocol)) == _logged(protocol, {**LOG, **changed})
        # And the file is nobody's to change
        with pytest.raises(InferenceServerException, match="log file location can not be updated through network protocol"):
            client.update_log_settings({"log_file": "x"})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clients_read_and_change_trace_settings(place: Place, protocol: str) -> None:
    library: Any = PROTOCOLS[protocol]
    start = {**TRACE, "trace_file": str(place.traces)}
    with library.InferenceServerClient(getattr(place.gateways[0], protocol)) as client:
        assert _traced(client.get_trace_settings(**_json(protocol))) == start
        # When all models' are changed, and then one's
        all_models = {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "7"}
        assert _traced(client.update_trace_settings(settings=all_models, **_json(protocol))) == {**start, **all_models}
        own = client.update_trace_settings(
            model_name="echo", settings={"trace_rate": "3", "trace_count": "5"}, **_json(protocol)
        )
        # Then that one has its own where it was changed, and the others' where not
        assert _traced(own) == {**start, **all_models, "trace_rate": "3", "trace_count": "5"}
        assert _traced(client.get_trace_settings(model_name="other", **_json(protocol))) == {**start, **all_models}
        # And None gives it back
        own = client.update_trace_settings(
            model_name="echo", settings={"trace_rate": None, "trace_count": None}, **_json(protocol)
        )
        assert _traced(own) == {**start, **all_models}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_clients_on_an_event_loop_do_too(place: Place, protocol: str) -> None:
    library: Any = AIO[protocol]

    async def story() -> None:
        async with library.InferenceServerClient(getattr(place.gateways[1], protocol)) as client:
            logged = await client.update_log_settings({"log_warning": False}, **_json(protocol))
            assert (
                logged == _logged(protocol, {**LOG, "log_warning": False}) == await client.get_log_settings(**_json(protocol))
            )
            traced = await client.update_trace_settings(settings={"log_frequency": "4"}, **_json(protocol))
            assert _traced(traced)["log_frequency"] == "4"
            assert await client.get_trace_settings(model_name="echo", **_json(protocol)) == traced

    asyncio.run(story())


def _json(protocol: str) -> dict[str, bool]:
    return {"as_json": True} if protocol == "grpc" else {}


def _logged(protocol: str, settings: dict[str, Any]) -> Any:
    """As that protocol's client shows log settings."""
    if protocol == "http":
        return settings
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    return {"settings": {name: {kinds[type(value)]: value} for name, value in settings.items()}}


def _traced(shown: Any) -> dict[str, Any]:
    """Trace settings as JSON has them, whichever client shows them."""
    if "settings" not in shown:
        return dict(shown)
    values = {name: setting["value"] for name, setting in shown["settings"].items()}
    return {name: value if name == "trace_level" else value[0] for name, value in values.items()}


@pytest.mark.parametrize(
    ("path", "document", "status", "text"),
    [
        ("/v2/logging", {"log_info": 1}, 500, "attempt to access JSON non-boolean as boolean"),
        ("/v2/logging", {"log_format": "x"}, 503, "invalid argument for --log_format, got: x"),
        ("/v2/logging", {"log_file": "x"}, 501, "log file location can not be updated through network protocol"),
        ("/v2/logging", {"log_verbose_level": 2**32}, 400, "such settings cannot be: Expected `int` <= 4294967295 - at `$.log_verbose_level`"),
        ("/v2/trace/setting", {"trace_rate": "x"}, 400, "Unable to parse 'trace_rate', got: x"),
        ("/v2/trace/setting", {"trace_rate": "0"}, 400, "Attempting to set invalid trace setting :sample rate must be non-zero"),
        ("/v2/trace/setting", {"trace_file": "x"}, 501, "trace file location can not be updated through network protocol"),
        ("/v2/trace/setting", {"trace_mode": "opentelemetry"}, 501, "trace mode 'opentelemetry' is not supported: traces go to files, mode 'triton'"),
        ("/v2/trace/setting", {"trace_level": ["OFF", "TENSORS"]}, 400, "Expect only one trace level 'OFF' is specified"),
        ("/v2/models/nix/trace/setting", {}, 400, "Request for unknown model : nix"),
        (f"/v2/models/{'n' * 257}/trace/setting", {}, 400, f"Request for unknown model : {'n' * 256}..."),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_triton_s_words(place: Place, path: str, document: Any, status: int, text: str) -> None:
    assert post(place.gateways[0].http, path, document) == (status, {"error": text})


def test_over_grpc_too(place: Place) -> None:
    with over_grpc.InferenceServerClient(place.gateways[0].grpc) as client:
        for call, status, text in (
            (
                lambda: client.update_log_settings({"log_file": "x"}), "UNIMPLEMENTED",
                "log file location can not be updated through network protocol",
            ),
            (lambda: client.update_log_settings({"log_format": "x"}), "INVALID_ARGUMENT", "invalid argument for log_format, got: x"),
            (lambda: client.get_trace_settings(model_name="nix"), "INVALID_ARGUMENT", "Request for unknown model : nix"),
            (
                lambda: client.update_trace_settings(settings={"trace_mode": "opentelemetry"}), "UNIMPLEMENTED",
                "trace mode 'opentelemetry' is not supported: traces go to files, mode 'triton'",
            ),
        ):  # fmt: skip
            with pytest.raises(InferenceServerException) as refused:
                call()
            assert (refused.value.status(), refused.value.message()) == (f"StatusCode.{status}", text)


# --- log lines ---------------------------------------------------------------------------------------------------------------


def test_all_gateways_and_the_broker_write_as_one_was_told(place: Place) -> None:
    first, second = place.gateways
    logs: tuple[Callable[[], str], ...] = (second.log, place.broker.log)
    before = [len(log()) for log in logs]
    # When the first gateway is told to log every request, in Triton's shape
    post(first.http, "/v2/logging", {"log_verbose_level": 1, "log_format": "default"})
    # Then the second does, and so does the broker
    infer(second, "http")
    infer(second, "grpc")
    with place.broker.client("local") as client:
        client.status()
    eventually(
        lambda: "ended: said goodbye" in place.broker.log()[before[1] :], WITHIN_S, "the broker logs the end of a session"
    )
    lines = [log()[size:].splitlines() for log, size in zip(logs, before, strict=True)]
    assert all(LINE.match(line) for found in lines for line in found), lines
    assert any(line.endswith('"HTTP request: POST /v2/models/echo/infer"') for line in lines[0])
    assert any(line.endswith('"gRPC request: ModelInfer"') for line in lines[0])
    # And when classes are switched off, they are silent
    post(second.http, "/v2/logging", {"log_verbose_level": 0, "log_info": False})
    after = [len(log()) for log in logs]
    infer(first, "http")
    with place.broker.client("local") as client:
        client.status()
    get(first.http, "/v2/logging")
    assert [log()[size:] for log, size in zip(logs, after, strict=True)] == ["", ""]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_that_goes_away_is_logged(place: Place, protocol: str) -> None:
    gateway = place.gateways[0]
    post(gateway.http, "/v2/logging", {"log_verbose_level": 1})
    before = len(gateway.log())
    # Given a request that is being executed
    with Barrier(place.broker.folder / "barrier.sock") as barrier:
        leave = {"http": _leave_over_http, "grpc": _leave_over_grpc}[protocol](gateway)
        held = barrier.entered()
        # When its client goes away
        leave()
        # Then the gateway notices, and says so
        eventually(
            lambda: "Cancellation notification received for " in gateway.log()[before:], WITHIN_S, "the cancellation is logged"
        )
        held.let_go()


def _leave_over_http(gateway: RunningGateway) -> Callable[[], None]:
    connection = http.client.HTTPConnection(gateway.http)
    inputs = [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]
    connection.request("POST", "/v2/models/held/infer", json.dumps({"inputs": inputs}))
    return connection.close


def _leave_over_grpc(gateway: RunningGateway) -> Callable[[], None]:
    client = over_grpc.InferenceServerClient(gateway.grpc)
    given = over_grpc.InferInput("x", [1, 2], "FP32")
    given.set_data_from_numpy(np.zeros((1, 2), np.float32))
    call = client.async_infer("held", [given], lambda result, error: None)

    def leave() -> None:
        call.cancel()
        client.close()

    return leave


def test_a_gateway_that_is_started_later_knows_what_the_others_do(place: Place, tmp_path: Path) -> None:
    # Given settings that were changed
    post(place.gateways[0].http, "/v2/logging", {"log_verbose_level": 1, "log_format": "ISO8601"})
    post(place.gateways[0].http, "/v2/models/echo/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    # When another gateway is started, killed, and started again
    for restart in range(2):
        gateway = RunningGateway(tmp_path, place.broker.addresses["local"])
        with ExitStack() as stack:
            stack.enter_context(gateway) if restart else gateway.__enter__()
            infer(gateway, "http")
            if not restart:
                written(place, 1)
                gateway.kill()
    # Then it logs and traces as they do, and what the killed one has written is still there
    assert re.search(r'^\S+Z I \d+ \w+\.py:\d+\] "HTTP request: POST /v2/models/echo/infer"$', gateway.log(), re.MULTILINE)
    assert [trace.number for trace in written(place, 2)] == sorted({trace.number for trace in written(place, 2)})


def test_log_lines_of_gateways_that_the_broker_starts_are_its_own(tmp_path: Path, repository: Path) -> None:
    # Given a broker with two gateways of its own
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository, "--http-port", "0", "--gateway-processes", "2") as broker:
        address = broker.said["http"].removeprefix("http://")
        assert all(OUR_LINE.match(line) for line in broker.log().splitlines())
        # When one is told to log requests in Triton's shape
        post(address, "/v2/logging", {"log_verbose_level": 1, "log_format": "default"})
        told = broker.log()
        # Then a request makes one line, whichever of them it reaches
        assert get(address, "/v2/logging")[0] == 200
        lines = broker.log()[len(told) :].splitlines()
        assert [line for line in lines if "HTTP request" in line] == lines != [], lines
        assert all(LINE.match(line) for line in lines), lines


# --- traces ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_sampled_request_has_all_its_timestamps_in_order(place: Place, protocol: str) -> None:
    gateway = place.gateways[0]
    post(gateway.http, "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "1"})
    infer(gateway, protocol, request_id="mine")
    (trace,) = written(place, 1)
    assert trace.about == {"id": trace.number, "model_name": "echo", "model_version": 1, "request_id": "mine"}
    assert trace.protocol == protocol
    receive, send = {"http": ("HTTP_RECV", "HTTP_SEND"), "grpc": ("GRPC_WAITREAD", "GRPC_SEND")}[protocol]
    assert list(trace.at) == [
        f"{receive}_START", f"{receive}_END", "REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END",
        "COMPUTE_OUTPUT_START", "COMPUTE_END", "INFER_RESPONSE_COMPLETE", "REQUEST_END", f"{send}_START", f"{send}_END",
    ]  # fmt: skip
    spans = trace.spans()
    assert spans["request"] > 0 and spans["send"] > 0


def test_two_gateways_sample_by_the_rate_and_together_no_more_than_the_count(place: Place) -> None:
    # Given that one request of two is to be traced, and five in all
    first, second = place.gateways
    post(first.http, "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "5"})
    # When both gateways have answered many
    infer(first, "http", count=6)
    assert len(written(place, 3)) == 3
    assert get(second.http, "/v2/trace/setting")[1]["trace_count"] == "2"
    infer(second, "grpc", count=6)
    infer(first, "grpc", count=6)
    # Then five are there, each with an id of its own, and the count has run out
    traces = written(place, 5)
    assert [trace.number for trace in traces] == list(range(traces[0].number, traces[0].number + 5))
    assert [trace.protocol for trace in traces] == ["http"] * 3 + ["grpc"] * 2
    assert get(first.http, "/v2/trace/setting")[1]["trace_count"] == "0"


def test_each_file_of_log_frequency_is_an_array_of_so_many(place: Place) -> None:
    first, second = place.gateways
    post(first.http, "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "log_frequency": "3"})
    for gateway in (first, second, first, second):
        infer(gateway, "http", count=2)
    written(place, 8)
    assert not place.traces.exists()
    assert [len(read_traces(path)) for path in place.parts()] == [3, 3, 2]


def test_a_model_s_own_settings_are_its_own(place: Place) -> None:
    gateway = place.gateways[0]
    post(gateway.http, "/v2/models/echo/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    infer(gateway, "http", "other")
    infer(gateway, "http", "echo")
    assert [trace.about["model_name"] for trace in written(place, 1)] == ["echo"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_are_told_by_name_type_shape_and_data(place: Place, protocol: str) -> None:
    gateway = place.gateways[0]
    post(gateway.http, "/v2/trace/setting", {"trace_level": ["TENSORS"], "trace_rate": "1"})
    infer(gateway, protocol)
    (trace,) = written(place, 1)
    shared = {"data": "1.0,2.5", "shape": "1,2", "dtype": "FP32"}
    assert trace.tensors == [
        ("TENSOR_QUEUE_INPUT", {"name": "x", **shared}), ("TENSOR_BACKEND_OUTPUT", {"name": "y", **shared}),
    ]  # fmt: skip
    assert not trace.at


def test_a_request_that_fails_is_traced_as_far_as_it_came(place: Place) -> None:
    gateway = place.gateways[0]
    post(gateway.http, "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    inputs = [{"name": "nix", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]
    assert post(gateway.http, "/v2/models/echo/infer", {"inputs": inputs})[0] == 400
    (trace,) = written(place, 1)
    assert list(trace.at) == [
        "HTTP_RECV_START",
        "HTTP_RECV_END",
        "REQUEST_START",
        "REQUEST_END",
        "HTTP_SEND_START",
        "HTTP_SEND_END",
    ]


def test_what_is_sampled_last_is_written_before_a_gateway_leaves(place: Place, tmp_path: Path) -> None:
    post(place.gateways[0].http, "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    with RunningGateway(tmp_path, place.broker.addresses["local"]) as gateway:
        infer(gateway, "http", count=20)
    assert len(read_traces(place.traces)) == 20


def test_a_file_that_cannot_be_written_is_said_once_and_requests_are_answered(place: Place) -> None:
    gateway = place.gateways[0]
    place.traces.mkdir()
    try:
        post(gateway.http, "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
        infer(gateway, "http", count=3)
        eventually(lambda: "traces cannot be written: " in gateway.log(), WITHIN_S, "that is logged")
    finally:
        place.traces.rmdir()
    infer(gateway, "http")
    assert "written: [Errno 21] Is a directory" in gateway.log() and gateway.log().count("traces cannot be written") == 1


def test_without_a_trace_file_nothing_can_be_traced(tmp_path: Path, repository: Path) -> None:
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository) as broker, RunningGateway(tmp_path, broker.addresses["local"]) as gateway:
        assert post(gateway.http, "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}) == (
            400, {"error": "Attempting to set invalid trace setting :trace file name is not given"},
        )  # fmt: skip
        assert get(gateway.http, "/v2/trace/setting") == (200, {**TRACE, "trace_file": ""})
