# SPDX-License-Identifier: Apache-2.0
"""Inference over gRPC as Triton's clients see it: every datatype, regions, classes, streams, cancellation, clients that go away."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from gateways import RunningGateway, key_of
from running import Barrier, RunningBroker, add_model, eventually, resident_bytes
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException, shared_memory

from penstock.ipc.errors import CallerError
from penstock.ipc.tensors import ITEM_BYTES, serialize_bytes

DATATYPES = (*ITEM_BYTES, "BYTES")
WAIT_S = 20.0
TYPES = """
name: "types"
backend: "fake"
max_batch_size: 0
{tensors}
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""


class Served(NamedTuple):
    """A broker with its gateway, and the gate that holds the batches of the model `gate` until their socket is closed."""

    broker: RunningBroker
    gateway: RunningGateway
    gate: Barrier

    def in_flight(self) -> int:
        """Requests of all sessions that have no outcome."""
        with self.broker.client("local") as client:
            return sum(session["in_flight"] for session in client.status()["sessions"])

    def settled(self) -> int:
        """Waits until nothing is in flight, letting through what the worker has already got; returns how much that was."""
        passed = 0

        def is_over() -> bool:
            nonlocal passed
            if self.gate.is_somebody_there():
                self.gate.entered().sock.close()
                passed += 1
            return self.in_flight() == 0 and not self.gate.is_somebody_there()

        eventually(is_over, WAIT_S, "nothing is in flight")
        return passed


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("run")
    repository = folder / "models"
    add_model(repository, "echo")
    add_model(repository, "wide", max_batch_size=0, width=1 << 20)
    add_model(repository, "gate", mode="barrier", barrier_path=folder / "gate.sock", max_batch_size=1)
    tensors = [
        f'{kind} [ {{ name: "{letter}_{name}" data_type: TYPE_{"STRING" if name == "BYTES" else name} dims: [ -1 ] }} ]'
        for kind, letter in (("input", "x"), ("output", "y"))
        for name in DATATYPES
    ]
    (repository / "types" / "1").mkdir(parents=True)
    (repository / "types" / "config.pbtxt").write_text(TYPES.format(tensors="\n".join(tensors)))
    with (
        Barrier(folder / "gate.sock") as gate,
        RunningBroker(folder, repository) as broker,
        RunningGateway(folder, broker.addresses["local"]) as gateway,
    ):
        yield Served(broker, gateway, gate)


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(served.gateway.grpc) as client:
        yield client


@pytest.fixture
def stub(served: Served) -> Iterator[Any]:
    with grpc.insecure_channel(served.gateway.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def rows(*values: float) -> list[Any]:
    """The input of a model of the fake backend: a row for each value."""
    given = triton.InferInput("x", [len(values), 2], "FP32")
    given.set_data_from_numpy(np.array([[value, -value] for value in values], np.float32))
    return [given]


def message(value: float, model: str = "echo", request_id: str = "", **fields: Any) -> Any:
    """The same as a message."""
    asked = pb.ModelInferRequest(model_name=model, id=request_id, **fields)
    asked.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    asked.raw_input_contents.append(np.array([value, -value], np.float32).tobytes())
    return asked


def value_of(response: Any) -> float:
    (content,) = response.raw_output_contents
    return float(np.frombuffer(content, np.float32)[0])


# --- tensors ------------------------------------------------------------------------------------------------------------------


def test_every_datatype_comes_back_as_it_went(stub: Any) -> None:
    asked = pb.ModelInferRequest(model_name="types")
    contents = [
        serialize_bytes([b"", "ä".encode(), b"x" * 100]) if name == "BYTES" else bytes(range(2, 2 + 3 * ITEM_BYTES[name]))
        for name in DATATYPES
    ]
    contents[DATATYPES.index("BOOL")] = b"\0\1\0"
    for name in DATATYPES:
        asked.inputs.add(name=f"x_{name}", datatype=name, shape=[3])
    asked.raw_input_contents.extend(contents)

    for _ in range(3):  # the first time, and once it is known how large the answer is
        answer = stub.ModelInfer(asked)

        assert [(output.name, output.datatype, list(output.shape)) for output in answer.outputs] == [
            (f"y_{name}", name, [3]) for name in DATATYPES
        ]
        assert list(answer.raw_output_contents) == contents


def test_answers_are_those_of_their_requests_however_many_there_are(client: Any) -> None:
    # Given many at once, whose answers come into memory that is used again and again
    told: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    for value in range(500):
        client.async_infer("echo", rows(value, -value), lambda result, error: told.put((result, error)), request_id=str(value))
    # Then none is another's
    for _ in range(500):
        result, error = told.get(timeout=WAIT_S)
        assert error is None
        value = float(result.get_response().id)
        assert result.as_numpy("y").tolist() == [[value, -value], [-value, value]]


def test_nothing_is_a_tensor_too(stub: Any) -> None:
    asked = pb.ModelInferRequest(model_name="types", raw_input_contents=[b""] * len(DATATYPES))
    for name in DATATYPES:
        asked.inputs.add(name=f"x_{name}", datatype=name, shape=[0])

    assert list(stub.ModelInfer(asked).raw_output_contents) == [b""] * len(DATATYPES)


def test_large_tensors_have_no_limit(client: Any) -> None:
    # Given more than gRPC takes where nobody says otherwise (4 MiB)
    given = triton.InferInput("x", [1 << 20], "FP32")
    values = np.arange(1 << 20, dtype=np.float32)
    given.set_data_from_numpy(values)

    assert np.array_equal(client.infer("wide", [given]).as_numpy("y"), values)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_requests_may_be_compressed(client: Any, algorithm: str) -> None:
    assert client.infer("echo", rows(3), compression_algorithm=algorithm).as_numpy("y")[0, 0] == 3


def test_tensors_in_regions_are_read_and_written_there(client: Any) -> None:
    region = shared_memory.create_shared_memory_region("grpc", key_of("grpc"), 128)
    try:
        client.register_system_shared_memory("grpc", key_of("grpc"), 128)
        shared_memory.set_shared_memory_region(region, [np.array([[7, -7]], np.float32)])
        given = triton.InferInput("x", [1, 2], "FP32")
        given.set_shared_memory("grpc", 8)
        wanted = triton.InferRequestedOutput("y")
        wanted.set_shared_memory("grpc", 8, 64)

        answer = client.infer("echo", [given], outputs=[wanted])

        assert list(answer.get_response().raw_output_contents) == [b""]  # clients index it by the output's position
        assert shared_memory.get_contents_as_numpy(region, np.float32, [1, 2], 64).tolist() == [[7, -7]]
        wanted.set_shared_memory("grpc", 4, 64)
        with pytest.raises(InferenceServerException) as refused:
            client.infer("echo", [given], outputs=[wanted])
        assert (refused.value.status(), refused.value.message()) == (
            "StatusCode.INTERNAL",
            "shared memory size specified with the request for output 'y' (4 bytes) should be at least 8 bytes to hold the results",
        )
    finally:
        client.unregister_system_shared_memory()
        shared_memory.destroy_shared_memory_region(region)


def test_an_output_is_classified(client: Any) -> None:
    answer = client.infer("echo", rows(5), outputs=[triton.InferRequestedOutput("y", class_count=1)])

    assert answer.as_numpy("y").tolist() == [[b"5.000000:0"]]


def test_what_is_asked_comes_back_with_the_answer(client: Any) -> None:
    answer = client.infer(
        "echo", rows(1), model_version="1", request_id="mine", priority=1, timeout=10_000_000, parameters={"a": 1}
    )

    response = answer.get_response()
    assert (response.model_name, response.model_version, response.id, dict(response.parameters)) == ("echo", "1", "mine", {})


# --- mistakes -----------------------------------------------------------------------------------------------------------------

NO_INPUT = (
    "[request id: 7] expected 1 inputs but got 0 inputs for model 'echo'. Got input(s) [], but missing required input(s) ['x']. "
    "Please provide all required input(s)."
)
MISTAKES: dict[str, tuple[Any, grpc.StatusCode, str]] = {
    "model": (message(1, "nix", "7"), grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'nix' is not found"),
    "long name": (
        message(1, "m" * 300), grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{'m' * 256}...' is not found",
    ),
    "version": (
        message(1, model_version="9"), grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'echo' version 9 is not found",
    ),
    "model before anything else": (
        pb.ModelInferRequest(model_name="nix", inputs=[{"name": "x"}]),
        grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'nix' is not found",
    ),
    "no input": (
        pb.ModelInferRequest(model_name="echo", id="7"), grpc.StatusCode.INVALID_ARGUMENT,
        NO_INPUT,
    ),
    "no data": (
        pb.ModelInferRequest(model_name="echo", inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}]),
        grpc.StatusCode.INVALID_ARGUMENT, "unable to find data for input tensor 'x' for model 'echo' in request.",
    ),
    "size": (
        pb.ModelInferRequest(
            model_name="echo", raw_input_contents=[b"1234"], inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}]
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "[request id: <id_unknown>] input byte size mismatch for input 'x' for model 'echo'. Expected 8, got 4",
    ),
    "region": (
        pb.ModelInferRequest(
            model_name="echo",
            inputs=[
                {
                    "name": "x", "datatype": "FP32", "shape": [1, 2],
                    "parameters": {"shared_memory_region": {"string_param": "nix"}, "shared_memory_byte_size": {"int64_param": 8}},
                }
            ],
        ),
        grpc.StatusCode.NOT_FOUND, "Unable to find shared memory region: 'nix'",
    ),
    "text": (
        pb.ModelInferRequest(
            model_name="types", raw_input_contents=[*([b""] * (len(DATATYPES) - 1)), b"\5\0\0\0ab"],
            inputs=[{"name": f"x_{name}", "datatype": name, "shape": [int(name == "BYTES")]} for name in DATATYPES],
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "incomplete string data for inference input 'x_BYTES', expecting string of length 5 but only 2 bytes available",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_tritons_status_and_words(served: Served, stub: Any, mistake: str) -> None:
    asked, status, said = MISTAKES[mistake]
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(asked)

    assert (refused.value.code(), refused.value.details()) == (status, said)
    assert served.in_flight() == 0
    assert value_of(stub.ModelInfer(message(1))) == 1


def test_what_is_no_message_and_no_method_is_said_so(served: Served) -> None:
    with grpc.insecure_channel(served.gateway.grpc) as channel:
        for method, status, said in (
            ("inference.GRPCInferenceService/ModelInfer", grpc.StatusCode.INTERNAL, "Unable to parse request"),
            ("inference.GRPCInferenceService/ServerLive", grpc.StatusCode.INTERNAL, "Unable to parse request"),
            ("inference.GRPCInferenceService/Nix", grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
            ("grpc.health.v1.Health/Watch", grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(f"/{method}")(b"\xff\xff")
            assert (refused.value.code(), refused.value.details()) == (status, said)


def test_the_health_service_says_that_it_serves(served: Served) -> None:
    with grpc.insecure_channel(served.gateway.grpc) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"") == b"\x08\x01"  # status: SERVING
        assert check(b"\n\x03nix") == b"\x08\x01"  # of whatever service, as in Triton


# --- streams ------------------------------------------------------------------------------------------------------------------


def test_a_stream_is_answered_in_the_order_of_its_requests(served: Served, stub: Any) -> None:
    asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
    answers = stub.ModelStreamInfer(iter(asked.get, None))
    # Given a request that takes long, and others behind it
    for value, model in enumerate(("gate", "echo", "nix", "echo")):
        asked.put(message(value, model, f"id {value}"))
    asked.put(None)
    held = served.gate.entered()
    # When it ends, after the others
    eventually(lambda: served.in_flight() == 1, WAIT_S, "only the first is being executed")
    held.sock.close()
    # Then they are answered in their order, the mistake among them
    found = list(answers)
    assert [answer.infer_response.id for answer in found] == ["id 0", "id 1", "id 2", "id 3"]
    assert [answer.error_message for answer in found] == ["", "", "Request for unknown model: 'nix' is not found", ""]
    assert [value_of(found[at].infer_response) for at in (0, 1, 3)] == [0, 1, 3]
    finals = [dict(answer.infer_response.parameters) for answer in found]
    assert [final["triton_final_response"].bool_param if final else None for final in finals] == [True, True, None, True]


def test_a_stream_that_wants_it_ends_with_its_first_error(stub: Any) -> None:
    answers = stub.ModelStreamInfer(iter([message(1), message(2, "nix"), message(3)]), metadata=[("triton_grpc_error", "true")])

    assert value_of(next(answers).infer_response) == 1
    with pytest.raises(grpc.RpcError) as ended:
        next(answers)
    assert (ended.value.code(), ended.value.details()) == (
        grpc.StatusCode.NOT_FOUND,
        "Request for unknown model: 'nix' is not found",
    )


def test_tritons_client_streams(client: Any) -> None:
    found: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.start_stream(lambda result, error: found.put((result, error)))
    for value in range(1000):  # far more than are in flight at once
        client.async_stream_infer("echo", rows(value), request_id=str(value), enable_empty_final_response=True)
    answers = [found.get(timeout=WAIT_S) for _ in range(1000)]
    client.stop_stream()

    assert all(error is None for _, error in answers)
    assert [result.as_numpy("y")[0, 0] for result, _ in answers] == list(range(1000))


def test_a_stream_whose_client_goes_away_leaves_nothing(served: Served, stub: Any) -> None:
    asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
    answers = stub.ModelStreamInfer(iter(asked.get, None))
    for value in range(20):
        asked.put(message(value, "gate"))
    held = served.gate.entered()
    eventually(lambda: served.in_flight() == 20, WAIT_S, "all of them are with the broker")
    # When it goes away
    answers.cancel()
    asked.put(None)
    # Then what waits is dropped at once, but for a batch that the worker has got ahead
    eventually(lambda: served.in_flight() <= 2, WAIT_S, "those that wait are dropped")
    held.sock.close()
    assert served.settled() <= 1
    assert value_of(stub.ModelInfer(message(5))) == 5


def test_a_stream_of_no_messages_says_so_and_goes_on(served: Served) -> None:
    with grpc.insecure_channel(served.gateway.grpc) as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        found = [
            pb.ModelStreamInferResponse.FromString(each) for each in stream(iter([b"\xff", message(2).SerializeToString()]))
        ]

    assert found[0].error_message == "Unable to parse request"
    assert value_of(found[1].infer_response) == 2


# --- cancellation -------------------------------------------------------------------------------------------------------------


def test_requests_whose_clients_cancel_are_dropped(served: Served, client: Any) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    calls = [client.async_infer("gate", rows(value), lambda result, error: told.put(error)) for value in range(9)]
    held = served.gate.entered()
    eventually(lambda: served.in_flight() == 9, WAIT_S, "all of them are with the broker")
    # When their client cancels them, one being executed and the others waiting
    for call in calls:
        call.cancel()
    assert all("Locally cancelled" in str(told.get(timeout=WAIT_S)) for _ in calls)
    # Then those that waited are not executed, but for what the worker had got when the others were cancelled
    eventually(lambda: served.in_flight() <= 2, WAIT_S, "those that wait are dropped")
    held.sock.close()
    assert served.settled() <= 1
    assert served.in_flight() == 0


def test_a_client_whose_time_is_up_leaves_nothing(served: Served, client: Any) -> None:
    with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
        client.infer("gate", rows(1), client_timeout=0.2)

    assert served.settled() <= 1


def test_clients_that_come_and_go_cost_no_memory(served: Served) -> None:
    def come_and_go(times: int) -> None:
        for _ in range(times):
            with grpc.insecure_channel(served.gateway.grpc) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                calls = [stub.ModelInfer.future(message(value, "gate")) for value in range(4)]
                stream = stub.ModelStreamInfer(iter([message(1, "echo"), message(2, "gate")]))
                next(stream)
                served.gate.entered().sock.close()
                for call in calls:
                    call.cancel()
                stream.cancel()
            served.settled()

    assert served.gateway.process is not None
    pid = served.gateway.process.pid
    come_and_go(10)
    before, shared = resident_bytes(pid), len(served.broker.memory())
    come_and_go(30)
    assert resident_bytes(pid) - before < 8 << 20
    assert len(served.broker.memory()) <= shared


def test_many_idle_connections_are_no_burden(served: Served, client: Any) -> None:
    import socket

    host, _, port = served.gateway.grpc.partition(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(500)]
    try:
        assert client.infer("echo", rows(9)).as_numpy("y")[0, 0] == 9
    finally:
        for connection in idle:
            connection.close()


# --- asyncio ------------------------------------------------------------------------------------------------------------------


def test_tritons_asyncio_client_infers_streams_and_cancels(served: Served) -> None:
    async def story() -> None:
        async with triton_aio.InferenceServerClient(served.gateway.grpc) as client:
            answers = await asyncio.gather(*(client.infer("echo", rows(value)) for value in range(100)))
            assert [answer.as_numpy("y")[0, 0] for answer in answers] == list(range(100))

            async def requests() -> Any:
                for value in range(5):
                    yield {"model_name": "echo", "inputs": rows(value)}

            streamed = [result.as_numpy("y")[0, 0] async for result, error in client.stream_infer(requests()) if error is None]
            assert streamed == [0, 1, 2, 3, 4]
            task = asyncio.create_task(client.infer("gate", rows(1)))
            held = await asyncio.to_thread(served.gate.entered)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            held.sock.close()

    asyncio.run(story())
    assert served.settled() == 0


# --- the end ------------------------------------------------------------------------------------------------------------------


def test_a_gateway_that_stops_answers_what_it_has_and_takes_no_more(tmp_path: Path, served: Served) -> None:
    with RunningGateway(tmp_path, served.broker.addresses["local"]) as gateway, grpc.insecure_channel(gateway.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        answers = stub.ModelStreamInfer(iter(asked.get, None))
        asked.put(message(4, "gate"))
        held = served.gate.entered()
        # When it is told to stop
        assert gateway.process is not None
        gateway.process.terminate()
        told: list[Any] = []

        def read() -> None:
            try:
                told.extend(value_of(answer.infer_response) for answer in answers)
            except grpc.RpcError as error:
                told.append((error.code(), error.details()))  # type: ignore[attr-defined]

        reader = threading.Thread(target=read)
        reader.start()
        held.sock.close()
        # Then the stream's request is answered, and the stream ends with the reason
        reader.join(WAIT_S)
        asked.put(None)
        assert told == [
            4.0,
            (grpc.StatusCode.UNAVAILABLE, "GRPC server is shutting down and has stopped accepting new requests."),
        ]


def test_that_errors_of_callers_are_no_news_to_the_log(served: Served) -> None:
    assert CallerError.__name__ not in served.gateway.log()
    assert "Traceback" not in served.gateway.log()
