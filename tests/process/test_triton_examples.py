# SPDX-License-Identifier: Apache-2.0
"""What the example clients of Triton's documentation do, done on `penstock serve` with an unmodified tritonclient.

test_triton_clients.py calls every method; here they are put together as programs do.
"""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from gateways import key_of
from triton_libraries import LIBRARIES, Asked, Library, serving, tell
from tritonclient.utils import InferenceServerException, serialize_byte_tensor, shared_memory

ANSWERED_S = 30.0
FOUR = pytest.mark.parametrize("library", LIBRARIES.values(), ids=list(LIBRARIES))
NUMBERS = np.arange(16, dtype=np.int32).reshape(1, 16)


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with serving(tmp_path_factory.mktemp("penstock"), "simple", "digits") as found:
        yield found


class Region:
    """A segment of this process that the server knows while the block runs."""

    def __init__(self, asked: Asked, name: str, byte_size: int) -> None:
        self._asked, self.name, self.byte_size = asked, name, byte_size
        self.handle: Any = None

    async def __aenter__(self) -> Region:
        self.handle = shared_memory.create_shared_memory_region(self.name, key_of(self.name), self.byte_size)
        await self._asked("register_system_shared_memory", self.name, key_of(self.name), self.byte_size)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._asked("unregister_system_shared_memory", self.name)
        shared_memory.destroy_shared_memory_region(self.handle)

    def write(self, *arrays: Any) -> None:
        """One array behind the other."""
        shared_memory.set_shared_memory_region(self.handle, arrays)

    def read(self, datatype: Any, shape: tuple[int, ...], offset: int = 0) -> Any:
        """A copy of what lies there."""
        return np.array(shared_memory.get_contents_as_numpy(self.handle, datatype, shape, offset))


# ---- simple_http_infer_client, simple_grpc_infer_client, simple_http_aio_infer_client, simple_grpc_aio_infer_client ----------


@FOUR
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_sums_and_differences(ports: dict[str, str], library: Library, binary: bool) -> None:
    async def story(asked: Asked) -> None:
        # When both outputs are asked for, each in its way
        outputs = [asked.output("OUTPUT0", binary_data=binary), asked.output("OUTPUT1", binary_data=not binary)]
        result = await asked("infer", "simple", asked.simple(binary_data=binary), outputs=outputs, request_id="both")
        asked.check_simple(result)
        # And when one is, then the other does not come
        result = await asked("infer", "simple", asked.simple(3), outputs=outputs[:1])
        assert np.array_equal(result.as_numpy("OUTPUT0"), NUMBERS + 4)
        assert result.as_numpy("OUTPUT1") is None
        # And when none is named, then all come
        asked.check_simple(await asked("infer", "simple", asked.simple(5), model_version="1", headers={"x-test": "1"}), 5)

    tell(story, library, ports)


@FOUR
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_both_ways(ports: dict[str, str], library: Library, algorithm: str) -> None:
    options = (
        {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
        if library.protocol == "http"
        else {"compression_algorithm": algorithm}
    )

    async def story(asked: Asked) -> None:
        asked.check_simple(await asked("infer", "simple", asked.simple(), **options))

    tell(story, library, ports)


@FOUR
def test_what_is_wrong_is_told_with_tritons_status(ports: dict[str, str], library: Library) -> None:
    http = library.protocol == "http"

    async def story(asked: Asked) -> None:
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'wrong' is not found") as caught:
            await asked("infer", "wrong", asked.simple())
        assert caught.value.status() == ("404" if http else "StatusCode.NOT_FOUND")
        with pytest.raises(InferenceServerException, match="expected 2 inputs but got 1 inputs for model 'simple'") as caught:
            await asked("infer", "simple", asked.simple()[:1])
        assert caught.value.status() == ("400" if http else "StatusCode.INVALID_ARGUMENT")
        with pytest.raises(InferenceServerException, match="this model fails"):
            await asked("infer", "failing", [asked.input("x", np.ones((1, 2), np.float32), "FP32")])
        asked.check_simple(await asked("infer", "simple", asked.simple()))  # and the next request is answered

    tell(story, library, ports)


# ---- simple_http_async_infer_client, simple_grpc_async_infer_client ----------------------------------------------------------


@pytest.mark.parametrize("name", ["http", "grpc"])
def test_a_hundred_requests_without_waiting(ports: dict[str, str], name: str) -> None:
    async def story(asked: Asked) -> None:
        if asked.library.protocol == "http":
            requests = [asked.client.async_infer("simple", asked.simple(first)) for first in range(100)]
            for first, request in enumerate(requests):
                asked.check_simple(request.get_result(timeout=ANSWERED_S), first)
            return
        queue: Queue[Any] = Queue()
        for first in range(100):
            asked.client.async_infer(
                "simple", asked.simple(first), lambda result, error: queue.put((result, error)), request_id=str(first)
            )
        found = [queue.get(timeout=ANSWERED_S) for _ in range(100)]
        assert [error for _, error in found if error] == []
        assert {int(result.get_response().id) for result, _ in found} == set(range(100))
        for result, _ in found:
            asked.check_simple(result, int(result.get_response().id))

    options = {"concurrency": 8} if name == "http" else {}
    tell(story, LIBRARIES[name], ports, **options)


# ---- simple_http_string_infer_client, simple_grpc_string_infer_client --------------------------------------------------------


@FOUR
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_strings(ports: dict[str, str], library: Library, binary: bool) -> None:
    words = np.array([["17", "", "Grüße", "五"]], object)
    given = np.array([[word.encode() for word in words[0]]], object)

    async def story(asked: Asked) -> None:
        result = await asked(
            "infer", "text", [asked.input("INPUT0", given, "BYTES", binary_data=binary)],
            outputs=[asked.output("OUTPUT0", binary_data=binary)],
        )  # fmt: skip
        found = result.as_numpy("OUTPUT0")
        assert found.shape == words.shape
        # JSON has texts, everything else the bytes themselves
        assert [value if isinstance(value, bytes) else value.encode() for value in found[0]] == list(given[0])

    tell(story, library, ports)


# ---- simple_http_shm_client, simple_grpc_shm_client --------------------------------------------------------------------------


@FOUR
def test_inputs_and_outputs_in_shared_memory(ports: dict[str, str], library: Library) -> None:
    async def story(asked: Asked) -> None:
        async with Region(asked, "of_inputs", 128) as inputs, Region(asked, "of_outputs", 128) as outputs:
            given = [asked.library.module.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
            wanted = [asked.output(name) for name in ("OUTPUT0", "OUTPUT1")]
            for position in range(2):
                given[position].set_shared_memory("of_inputs", 64, offset=64 * position)
                wanted[position].set_shared_memory("of_outputs", 64, offset=64 * position)
            # When the same request is made anew with other contents
            for first in (0, 100):
                numbers = NUMBERS + first
                inputs.write(numbers, np.ones((1, 16), np.int32))
                result = await asked("infer", "simple", given, outputs=wanted)
                # Then the outputs lie there, and none comes with the answer
                assert np.array_equal(outputs.read(np.int32, (1, 16)), numbers + 1)
                assert np.array_equal(outputs.read(np.int32, (1, 16), 64), numbers - 1)
                assert result.get_output("OUTPUT0") is not None
                assert _inline_bytes(result, library) == 0
            status = await asked("get_system_shared_memory_status")
            assert {"of_inputs", "of_outputs"} == _names(status)
        assert _names(await asked("get_system_shared_memory_status")) == set()

    tell(story, library, ports)


def _inline_bytes(result: Any, library: Library) -> int:
    """Of all outputs that came with an answer."""
    if library.protocol == "grpc":
        return sum(map(len, result.get_response().raw_output_contents))
    outputs = result.get_response()["outputs"]
    return sum(len(row.get("data", ())) + row.get("parameters", {}).get("binary_data_size", 0) for row in outputs)


def _names(status: Any) -> set[str]:
    return set(status.get("regions", {})) if isinstance(status, dict) else {row["name"] for row in status}


# ---- simple_http_shm_string_client, simple_grpc_shm_string_client ------------------------------------------------------------


@FOUR
def test_strings_in_shared_memory(ports: dict[str, str], library: Library) -> None:
    words = np.array([[str(number).encode() for number in range(16)]], object)

    async def story(asked: Asked) -> None:
        content = serialize_byte_tensor(words)
        byte_size = len(content.item())
        async with Region(asked, "of_words", byte_size) as inputs, Region(asked, "of_answers", 512) as outputs:
            inputs.write(content)
            given = asked.library.module.InferInput("INPUT0", [1, 16], "BYTES")
            given.set_shared_memory("of_words", byte_size)
            wanted = asked.output("OUTPUT0")
            wanted.set_shared_memory("of_answers", 512)
            await asked("infer", "text", [given], outputs=[wanted])
            assert list(outputs.read(np.object_, (1, 16))[0]) == list(words[0])

    tell(story, library, ports)


# ---- reuse_infer_objects_client ----------------------------------------------------------------------------------------------


@FOUR
def test_the_same_objects_inline_in_shared_memory_and_inline_again(ports: dict[str, str], library: Library) -> None:
    async def story(asked: Asked) -> None:
        given, wanted = asked.simple(), [asked.output("OUTPUT0"), asked.output("OUTPUT1")]
        asked.check_simple(await asked("infer", "simple", given, outputs=wanted))
        async with Region(asked, "reused_inputs", 128) as inputs, Region(asked, "reused_outputs", 128) as outputs:
            inputs.write(NUMBERS + 50, np.ones((1, 16), np.int32))
            for position in range(2):
                given[position].set_shared_memory("reused_inputs", 64, offset=64 * position)
                wanted[position].set_shared_memory("reused_outputs", 64, offset=64 * position)
            await asked("infer", "simple", given, outputs=wanted)
            assert np.array_equal(outputs.read(np.int32, (1, 16)), NUMBERS + 51)
        for position, values in enumerate((NUMBERS + 7, np.ones((1, 16), np.int32))):
            given[position].set_data_from_numpy(values)
            wanted[position].unset_shared_memory()
        asked.check_simple(await asked("infer", "simple", given, outputs=wanted), 7)

    tell(story, library, ports)


# ---- simple_grpc_keepalive_client, simple_grpc_custom_args_client ------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpc", "grpc.aio"])
def test_channels_with_keepalive_and_with_arguments(ports: dict[str, str], name: str) -> None:
    async def story(asked: Asked) -> None:
        asked.check_simple(await asked("infer", "simple", asked.simple()))

    options = tritonclient.grpc.KeepAliveOptions(
        keepalive_time_ms=2**31 - 1, keepalive_timeout_ms=20000, keepalive_permit_without_calls=False,
        http2_max_pings_without_data=2,
    )  # fmt: skip
    tell(story, LIBRARIES[name], ports, keepalive_options=options)
    tell(story, LIBRARIES[name], ports, channel_args=[("grpc.primary_user_agent", "a story")])


# ---- simple_grpc_explicit_int_content_client, grpc_client (the messages themselves) ------------------------------------------


def test_messages_without_the_client_library(ports: dict[str, str]) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(ports["grpc"]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=ANSWERED_S).live
        request = service_pb2.ModelInferRequest(model_name="simple", id="explicit")
        for name, values in (("INPUT0", range(16)), ("INPUT1", [1] * 16)):
            tensor = request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
            tensor.contents.int_contents.extend(values)
        answer = stub.ModelInfer(request, timeout=ANSWERED_S)
    assert (answer.id, answer.model_name, answer.model_version) == ("explicit", "simple", "1")
    sums = dict(zip((row.name for row in answer.outputs), answer.raw_output_contents, strict=True))["OUTPUT0"]
    assert np.frombuffer(sums, np.int32).tolist() == list(range(1, 17))


# ---- image_client, grpc_image_client -----------------------------------------------------------------------------------------


@FOUR
def test_the_best_classes_of_images(ports: dict[str, str], library: Library) -> None:
    images = np.random.default_rng(0).integers(0, 17, (3, 1, 8, 8)).astype(np.float32)

    async def story(asked: Asked) -> None:
        given = [asked.input("image", images, "FP32")]
        scores = (await asked("infer", "digits", given)).as_numpy("scores")
        result = await asked("infer", "digits", given, outputs=[asked.output("scores", class_count=3)])
        best = result.as_numpy("scores")
        assert best.shape == (3, 3)
        for row, classes in zip(scores, best, strict=True):
            found = [text.decode().split(":") for text in classes]
            assert [int(position) for _, position, _ in found] == list(np.argsort(-row, kind="stable")[:3])
            assert all(label for *_, label in found)

    tell(story, library, ports)
