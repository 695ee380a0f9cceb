# SPDX-License-Identifier: Apache-2.0
"""Inference over HTTP as Triton's clients make it: every datatype, as JSON and binary, compressed, in shared memory, and raw."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
import tritonclient.utils.shared_memory as shm
from gateways import RunningGateway, key_of
from running import RunningBroker
from tritonclient.utils import InferenceServerException

from penstock.ipc.tensors import DATATYPES, numpy_dtype

LENGTH = "Inference-Header-Content-Length"
LIMIT = 1 << 20
NUMPY_DATATYPES = sorted(DATATYPES - {"BF16"})  # those that tritonclient has numpy arrays of
JSON_DATATYPES = sorted(DATATYPES - {"FP16", "BF16"})


def add_identity(repository: Path, name: str, *datatypes: str, dims: str = "[ -1 ]") -> None:
    """Gives back what it gets: "x_FP32" as "y_FP32"; of two with the same datatype the second is "x_FP32_1"."""
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    lines = [f'name: "{name}" backend: "identity" max_batch_size: 0']
    for number, datatype in enumerate(datatypes):
        kind = "STRING" if datatype == "BYTES" else datatype
        tensor = datatype if datatypes.index(datatype) == number else f"{datatype}_{number}"
        lines += [
            f'{side} [ {{ name: "{prefix}_{tensor}" data_type: TYPE_{kind} dims: {dims} }} ]'
            for side, prefix in (("input", "x"), ("output", "y"))
        ]
    (folder / "config.pbtxt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """One for all stories: each begins with nothing and leaves nothing."""
    folder = tmp_path_factory.mktemp("http")
    repository = folder / "models"
    add_identity(repository, "all", *NUMPY_DATATYPES)
    add_identity(repository, "fp32", "FP32")
    add_identity(repository, "fp16", "FP16")
    add_identity(repository, "bf16", "BF16")
    add_identity(repository, "string", "BYTES", dims="[ 1 ]")
    add_identity(repository, "two", "FP32", "FP32")
    add_identity(repository, "a name", "FP32")
    options = ("--http-max-input-size", str(LIMIT), "--http-header-forward-pattern", "my-.*|timeout")
    restricted = ("--http-restricted-api", "statistics:admin=secret")
    with (
        RunningBroker(folder, repository) as broker,
        RunningGateway(folder, broker.addresses["local"], *options, *restricted) as running,
    ):
        yield running


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[Any]:
    with over_http.InferenceServerClient(gateway.http) as made:
        yield made


def sample(datatype: str) -> Any:
    """Some values of a datatype, its ends among them."""
    dtype = numpy_dtype(datatype)
    if datatype == "BYTES":
        return np.array([b"", b"a\0b", "é".encode(), b"x" * 300], np.object_)
    if dtype.kind in "iu":
        return np.array([np.iinfo(dtype).min, 0, 1, np.iinfo(dtype).max], dtype)
    return np.array([0, 1, 1, 0] if datatype == "BOOL" else [0.1, -2.5, 0, 1e4], dtype)


def given(values: Any, binary: bool = True, name: str = "x_FP32") -> Any:
    datatype = name.split("_")[1]
    tensor = over_http.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        found: str = json.loads(self.body)["error"]
        return found


def post(gateway: RunningGateway, body: Any, path: str = "/v2/models/fp32/infer", **headers: str) -> Answer:
    """A request without any client's help. `headers`: with _ for -."""
    connection = http.client.HTTPConnection(gateway.http, timeout=30)
    try:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, content, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def ones(**more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x_FP32", "datatype": "FP32", "shape": [2], "data": [1, 1]}], **more}


# --- datatypes ----------------------------------------------------------------------------------------------------------------


def test_binary_tensors_of_every_datatype_come_through(client: Any) -> None:
    # Given one of each
    values = {datatype: sample(datatype) for datatype in NUMPY_DATATYPES}
    # When they go through together
    answer = client.infer("all", [given(value, name=f"x_{datatype}") for datatype, value in values.items()])
    # Then each comes back
    for datatype, value in values.items():
        assert np.array_equal(answer.as_numpy(f"y_{datatype}"), value), datatype


def test_tensors_come_through_as_json_but_for_those_of_half_precision(client: Any) -> None:
    # Given one of each, as JSON where there is a form for it
    inputs = [given(sample(datatype), datatype == "FP16", f"x_{datatype}") for datatype in NUMPY_DATATYPES]
    # When they are asked for as JSON
    wanted = [over_http.InferRequestedOutput(f"y_{datatype}", binary_data=False) for datatype in JSON_DATATYPES]
    answer = client.infer("all", inputs, outputs=wanted)
    # Then each comes back
    for datatype in JSON_DATATYPES:
        found = answer.as_numpy(f"y_{datatype}")
        assert np.array_equal([text.encode() for text in found] if datatype == "BYTES" else found, sample(datatype)), datatype


def test_bf16_comes_through_as_the_bits_that_it_is(gateway: RunningGateway) -> None:
    # Given numbers of which the high halves are BF16's
    raw = (np.array([1, -2.5, 0], np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    tensor = {"name": "x_BF16", "datatype": "BF16", "shape": [3], "parameters": {"binary_data_size": 6}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    # When they go through
    answer = post(gateway, text + raw, "/v2/models/bf16/infer", Inference_Header_Content_Length=str(len(text)))
    # Then so they come back
    assert answer.body[int(answer.headers[LENGTH.lower()]) :] == raw


def test_half_precision_does_not_come_as_json(client: Any, gateway: RunningGateway) -> None:
    document = {"inputs": [{"name": "x_FP16", "datatype": "FP16", "shape": [1], "data": [1]}]}
    assert "receiving FP16 data via JSON is not supported" in post(gateway, document, "/v2/models/fp16/infer").error
    wanted = over_http.InferRequestedOutput("y_FP16", binary_data=False)
    with pytest.raises(InferenceServerException, match="sending FP16 data via JSON is not supported"):
        client.infer("fp16", [given(sample("FP16"), name="x_FP16")], outputs=[wanted])


def test_what_is_no_number_comes_through(client: Any) -> None:
    values = np.array([np.nan, np.inf, -np.inf], np.float32)
    wanted = over_http.InferRequestedOutput("y_FP32", binary_data=False)
    answer = client.infer("fp32", [given(values)], outputs=[wanted])
    assert np.array_equal(answer.as_numpy("y_FP32"), values, equal_nan=True)


def test_many_requests_at_once_come_through(gateway: RunningGateway) -> None:
    # Given a client with some connections, of gevent, and one of asyncio
    values = [np.full(1000, number, np.float32) for number in range(32)]
    with over_http.InferenceServerClient(gateway.http, concurrency=4) as client:
        asked = [client.async_infer("fp32", [given(value)]) for value in values]
        assert all(
            np.array_equal(found.get_result().as_numpy("y_FP32"), value) for found, value in zip(asked, values, strict=True)
        )

    async def ask_all() -> list[Any]:
        async with over_http_aio.InferenceServerClient(gateway.http) as client:
            return await asyncio.gather(*(client.infer("fp32", [given(value)]) for value in values))

    for found, value in zip(asyncio.run(ask_all()), values, strict=True):
        assert np.array_equal(found.as_numpy("y_FP32"), value)


# --- requests and responses ---------------------------------------------------------------------------------------------------


def test_an_id_comes_back_and_custom_parameters_are_taken(client: Any) -> None:
    answer = client.infer(
        "fp32", [given(sample("FP32"))], request_id="7 é", sequence_id=5, sequence_start=True, priority=2, timeout=10_000_000,
        parameters={"text": "x", "number": 1, "flag": True},
    )  # fmt: skip
    assert answer.get_response()["id"] == "7 é"


def test_some_outputs_are_binary_and_some_are_not(client: Any) -> None:
    names = ("FP32", "FP32_1")
    inputs = [given(np.full(2, number, np.float32), number == 0, f"x_{name}") for number, name in enumerate(names)]
    wanted = [over_http.InferRequestedOutput(f"y_{name}", binary_data=number == 1) for number, name in enumerate(names)]
    answer = client.infer("two", inputs, outputs=wanted)
    assert [answer.as_numpy(f"y_{name}").tolist() for name in names] == [[0, 0], [1, 1]]
    assert ["data" in output for output in answer.get_response()["outputs"]] == [True, False]


def test_an_output_may_be_classified(client: Any) -> None:
    wanted = over_http.InferRequestedOutput("y_FP32", class_count=2)
    answer = client.infer("fp32", [given(np.array([1, 3, 2], np.float32))], outputs=[wanted])
    assert answer.as_numpy("y_FP32").tolist() == [b"3.000000:1", b"2.000000:2"]


def test_tensors_in_shared_memory_are_only_named(client: Any) -> None:
    # Given a region with an input, and room for an output
    values = sample("FP32")
    region = shm.create_shared_memory_region("r", key_of("r"), 2 * values.nbytes)
    try:
        shm.set_shared_memory_region(region, [values])
        client.register_system_shared_memory("r", key_of("r"), 2 * values.nbytes)
        tensor = over_http.InferInput("x_FP32", list(values.shape), "FP32")
        tensor.set_shared_memory("r", values.nbytes)
        wanted = over_http.InferRequestedOutput("y_FP32")
        wanted.set_shared_memory("r", values.nbytes, values.nbytes)
        # When it is asked for
        answer = client.infer("fp32", [tensor], outputs=[wanted])
        # Then the output is there, and the response has a name for it and no more
        assert answer.get_response()["outputs"] == [{"name": "y_FP32", "datatype": "FP32", "shape": [4]}]
        assert np.array_equal(shm.get_contents_as_numpy(region, np.float32, [4], values.nbytes), values)
    finally:
        client.unregister_system_shared_memory()
        shm.destroy_shared_memory_region(region)


@pytest.mark.parametrize("name", ["a%20name", "fp32/versions/1", "fp%33%32"])
def test_names_may_be_escaped(gateway: RunningGateway, name: str) -> None:
    assert post(gateway, ones(), f"/v2/models/{name}/infer").status == 200


def test_a_header_is_forwarded_unless_it_is_reserved(gateway: RunningGateway) -> None:
    assert post(gateway, ones(), My_Header="1").status == 200
    refused = post(gateway, ones(), Timeout="1")
    assert (refused.status, refused.error) == (400, "Header 'Timeout' is reserved for Triton usage and cannot be forwarded.")


def test_a_restricted_endpoint_needs_its_header(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="This API is restricted, expecting header 'admin'") as caught:
        client.get_inference_statistics()
    assert caught.value.status() == "403"
    assert client.get_inference_statistics(headers={"admin": "secret"})["model_stats"]


# --- raw requests -------------------------------------------------------------------------------------------------------------


def raw(gateway: RunningGateway, model: str, body: bytes) -> Answer:
    return post(gateway, body, f"/v2/models/{model}/infer", Inference_Header_Content_Length="0")


def test_a_raw_request_is_answered_with_raw_bytes(gateway: RunningGateway) -> None:
    values = np.arange(8, dtype=np.float32).tobytes()
    answer = raw(gateway, "fp32", values)
    assert answer.body[int(answer.headers[LENGTH.lower()]) :] == values
    text = raw(gateway, "string", b"427")
    assert text.body[int(text.headers[LENGTH.lower()]) + 4 :] == b"427"


def test_a_raw_request_of_which_the_shape_is_not_known_is_refused(gateway: RunningGateway) -> None:
    assert "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in" in raw(gateway, "two", b"").error
    assert raw(gateway, "unknown", b"").error == "Request for unknown model: 'unknown' is not found"


# --- compression --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("elements", [4, 100_000])
def test_bodies_may_be_compressed_both_ways(client: Any, coding: str, elements: int) -> None:
    values = np.arange(elements, dtype=np.float32)
    answer = client.infer(
        "fp32", [given(values)], request_compression_algorithm=coding, response_compression_algorithm=coding
    )  # fmt: skip
    assert np.array_equal(answer.as_numpy("y_FP32"), values)


def test_a_response_is_compressed_as_the_client_prefers(gateway: RunningGateway) -> None:
    answer = post(gateway, ones(), Accept_Encoding="br, gzip;q=0.5, deflate;q=0.9")
    assert answer.headers["content-encoding"] == "deflate"
    assert json.loads(zlib.decompress(answer.body))["outputs"][0]["data"] == [1, 1]


def test_other_codings_are_refused_with_those_that_are_not(gateway: RunningGateway) -> None:
    answer = post(gateway, ones(), Content_Encoding="br")
    assert (answer.status, answer.error) == (501, "Unsupported compression type")
    assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_a_body_that_is_broken_or_a_bomb_is_refused(gateway: RunningGateway) -> None:
    broken = post(gateway, b"no gzip", Content_Encoding="gzip")
    assert (broken.status, broken.error[:35]) == (400, "failed to decompress the request bo")
    bomb = post(gateway, gzip.compress(bytes(64 * LIMIT)), Content_Encoding="gzip")
    assert (bomb.status, bomb.error[:21]) == (400, "request JSON size of ")
    assert post(gateway, ones()).status == 200


# --- what is wrong ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 500, "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
        (b"{}", 500, "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        (ones(id=1), 500, "Unable to parse 'id': attempt to access JSON non-string as string"),
        (ones(outputs=[{"name": "z"}]), 400, "unexpected inference output 'z' for model 'fp32'"),
        (ones(outputs=[{"name": "y_FP32"}, {"name": "y_FP32"}]), 400, "output 'y_FP32' already exists in request"),
        (ones(parameters={"triton_a": 1}), 400, "parameter keys starting with 'triton_' are reserved for Triton usage"),
        ({"inputs": ones()["inputs"] * 2}, 400, "[request id: <id_unknown>] input 'x_FP32' already exists in request"),
    ],
)
def test_a_wrong_request_is_answered_as_triton_does(gateway: RunningGateway, body: Any, status: int, said: str) -> None:
    answer = post(gateway, body)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert answer.error.startswith(said)
    assert post(gateway, ones()).status == 200


def test_a_model_that_is_not_there_is_missed_before_the_request_is_read(gateway: RunningGateway) -> None:
    answer = post(gateway, b"{", "/v2/models/unknown/infer")
    assert (answer.status, answer.error) == (404, "Request for unknown model: 'unknown' is not found")
