# SPDX-License-Identifier: Apache-2.0
"""Triton's shared memory extension through a gateway, with Triton's own clients: whose regions are, and what becomes of them."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
import tritonclient.utils.shared_memory as shm
from gateways import RunningGateway, key_of
from running import Barrier, Held, Program, RunningBroker, add_model, eventually, is_alive, ready_pid
from tritonclient.utils import InferenceServerException, serialize_byte_tensor, serialized_byte_size

from penstock.ipc.local_sockets import own_addresses

LIBRARIES: dict[str, Any] = {"http": over_http, "grpc": over_grpc}
SHIPPED = Path(__file__).resolve().parents[2] / "model_repository"
NOBODY = 65534
TEXTS = """
name: "texts"
backend: "identity"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_STRING dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")


class World(NamedTuple):
    """A broker, its gateway, and what holds the batches of its model `gate`."""

    broker: RunningBroker
    gateway: RunningGateway
    barrier: Barrier


@contextmanager
def running(folder: Path, *options: str, of_gateway: tuple[str, ...] = ()) -> Iterator[World]:
    models = folder / "models"
    models.mkdir()
    (models / "simple").symlink_to(SHIPPED / "simple")
    (models / "texts" / "1").mkdir(parents=True)
    (models / "texts" / "config.pbtxt").write_text(TEXTS)
    with ExitStack() as held:
        barrier = held.enter_context(Barrier(folder / "barrier"))
        add_model(models, "gate", mode="barrier", barrier_path=barrier.path)
        broker = held.enter_context(RunningBroker(folder, models, *options))
        yield World(broker, held.enter_context(RunningGateway(folder, broker.addresses["local"], *of_gateway)), barrier)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture(params=LIBRARIES)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(world: World, protocol: str) -> Iterator[Any]:
    """Nothing is registered before and after."""
    with LIBRARIES[protocol].InferenceServerClient(getattr(world.gateway, protocol)) as made:
        yield made
        made.unregister_system_shared_memory()
        assert status(made) == []


@pytest.fixture
def segment() -> Iterator[Any]:
    """A segment of 8192 bytes under KEY, as Triton's helper makes it."""
    made = shm.create_shared_memory_region("mine", KEY, 8192)
    yield made
    shm.destroy_shared_memory_region(made)


KEY = key_of("mine")


def status(client: Any, name: str = "") -> list[dict[str, Any]]:
    """Its system regions, whatever the protocol."""
    if isinstance(client, over_http.InferenceServerClient):
        return list(client.get_system_shared_memory_status(name))
    found = client.get_system_shared_memory_status(name, as_json=True).get("regions", {})
    return sorted(
        (
            {
                "name": row["name"],
                "key": row["key"],
                "offset": int(row.get("offset", 0)),
                "byte_size": int(row["byte_size"]),
            }
            for row in found.values()
        ),
        key=lambda row: str(row["name"]),
    )


def tensors(library: Any, region: str, model: str = "gate", offset: int = 0) -> dict[str, Any]:
    """A request whose input lies at an offset of a region, and whose output 1024 bytes behind."""
    given = library.InferInput("x", [1, 2], "FP32")
    given.set_shared_memory(region, 8, offset)
    wanted = library.InferRequestedOutput("y")
    wanted.set_shared_memory(region, 8, offset + 1024)
    return {"model_name": model, "inputs": [given], "outputs": [wanted]}


def post(gateway: RunningGateway, path: str, body: Any) -> tuple[int, str]:
    """Status and error text of a POST."""
    connection = http.client.HTTPConnection(gateway.http)
    try:
        connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body))
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    return response.status, json.loads(content).get("error", "") if content else ""


class Meanwhile:
    """A request to `gate` in a region, made by a thread: its input at an offset, its output 1024 bytes behind."""

    def __init__(self, gateway: RunningGateway, region: str, offset: int = 0) -> None:
        self._gateway = gateway
        self._body = {"inputs": [self._tensor("x", region, offset)], "outputs": [self._tensor("y", region, offset + 1024)]}
        self.outcome: tuple[int, str] | Exception | None = None
        self.thread = threading.Thread(target=self._infer)
        self.thread.start()

    @staticmethod
    def _tensor(name: str, region: str, offset: int) -> dict[str, Any]:
        place = {"shared_memory_region": region, "shared_memory_offset": offset, "shared_memory_byte_size": 8}
        return {"name": name, "shape": [1, 2], "datatype": "FP32", "parameters": place}

    def _infer(self) -> None:
        try:
            self.outcome = post(self._gateway, "/v2/models/gate/infer", self._body)
        except (OSError, http.client.HTTPException) as error:
            self.outcome = error

    def ended(self) -> tuple[int, str] | Exception | None:
        """Status and error text, or what broke the connection; None: nothing in time."""
        self.thread.join(20)
        return self.outcome


def let_go(held: Held) -> None:
    """Lets a batch finish, and keeps nothing of it: the barrier lives on."""
    held.let_go()
    held.sock.close()


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(InferenceServerException) as refused:
        call(*arguments, **options)
    return str(refused.value.message())


# --- the examples of Triton's documentation ----------------------------------------------------------------------------------


class Simple:
    """`simple` with inputs and outputs in two segments, as simple_*_shm_client.py has it."""

    def __init__(self, library: Any) -> None:
        self.handles = [shm.create_shared_memory_region(name, f"{KEY}-{name}", 128) for name in ("input_data", "output_data")]
        first, second = np.arange(16, dtype=np.int32), np.ones(16, np.int32)
        shm.set_shared_memory_region(self.handles[0], [first, second])
        self.inputs = [library.InferInput(f"INPUT{at}", [1, 16], "INT32") for at in range(2)]
        self.outputs = [library.InferRequestedOutput(f"OUTPUT{at}") for at in range(2)]
        for at in range(2):
            self.inputs[at].set_shared_memory("input_data", 64, at * 64)
            self.outputs[at].set_shared_memory("output_data", 64, at * 64)
        self.expected = (first + second, first - second)

    @property
    def keys(self) -> dict[str, str]:
        return {name: f"{KEY}-{name}" for name in ("input_data", "output_data")}

    def check(self, result: Any) -> None:
        """The outputs are in their segment, and not in the answer."""
        for at, expected in enumerate(self.expected):
            found = shm.get_contents_as_numpy(self.handles[1], np.int32, [1, 16], at * 64)
            assert (found[0] == expected).all()
            output = result.get_output(f"OUTPUT{at}")
            shape = output["shape"] if isinstance(output, dict) else output.shape
            assert list(shape) == [1, 16]

    def close(self) -> None:
        for handle in self.handles:
            shm.destroy_shared_memory_region(handle)


def test_the_shared_memory_example_runs(client: Any, protocol: str) -> None:
    example = Simple(LIBRARIES[protocol])
    for name, key in example.keys.items():
        client.register_system_shared_memory(name, key, 128)
    assert status(client) == [{"name": name, "key": key, "offset": 0, "byte_size": 128} for name, key in example.keys.items()]
    example.check(client.infer("simple", example.inputs, outputs=example.outputs))
    client.unregister_system_shared_memory("input_data")
    assert [row["name"] for row in status(client)] == ["output_data"]
    client.unregister_system_shared_memory()
    assert status(client) == []
    example.close()


@pytest.mark.parametrize("library", [over_http_aio, over_grpc_aio], ids=["http", "grpc"])
def test_the_shared_memory_example_runs_in_an_event_loop(world: World, library: Any) -> None:
    address = world.gateway.http if library is over_http_aio else world.gateway.grpc
    example = Simple(library)

    async def story() -> None:
        async with library.InferenceServerClient(address) as client:
            for name, key in example.keys.items():
                await client.register_system_shared_memory(name, key, 128)
            example.check(await client.infer("simple", example.inputs, outputs=example.outputs))
            await client.unregister_system_shared_memory()

    asyncio.run(story())
    example.close()


def test_the_string_example_runs(client: Any, protocol: str, segment: Any) -> None:
    """Given text in shared memory, whose size the server cannot know, then as much as there is comes back into the place."""
    library = LIBRARIES[protocol]
    values = np.array([[b"none", b"", "zwölf".encode()]], object)
    content = serialize_byte_tensor(values)
    shm.set_shared_memory_region(segment, [content])
    size = serialized_byte_size(content)
    client.register_system_shared_memory("mine", KEY, 8192)
    given, wanted = library.InferInput("x", [1, 3], "BYTES"), library.InferRequestedOutput("y")
    given.set_shared_memory("mine", size)
    wanted.set_shared_memory("mine", 512, 4096)
    client.infer("texts", [given], outputs=[wanted])
    assert shm.get_contents_as_numpy(segment, np.object_, [1, 3], 4096).tolist() == values.tolist()
    wanted.set_shared_memory("mine", size - 1, 4096)
    assert f"should be at least {size} bytes to hold the results" in refusal(client.infer, "texts", [given], outputs=[wanted])


# --- what is refused ---------------------------------------------------------------------------------------------------------


NOT_UNSIGNED = "attempt to access JSON non-unsigned-integer as unsigned-integer"
SYSTEM_REFUSALS = [
    ({"byte_size": 64}, 400, "Shared memory register request has no 'key' field"),
    ({"key": KEY}, 400, "Shared memory register request has no 'byte_size' field"),
    ([1], 400, "Shared memory register request has no 'key' field"),
    ({"key": 5, "byte_size": 64}, 500, "attempt to access JSON non-string as string"),
    ({"key": KEY, "byte_size": "64"}, 500, NOT_UNSIGNED),
    ({"key": KEY, "byte_size": True}, 500, NOT_UNSIGNED),
    ({"key": KEY, "byte_size": 2**64}, 500, NOT_UNSIGNED),
    ({"key": KEY, "byte_size": 64, "offset": -1}, 500, NOT_UNSIGNED),
    (b"", 500, "failed to parse the request JSON buffer: The document is empty. at 0"),
    ({"key": f"{KEY}-none", "byte_size": 64}, 500, f"Unable to open shared memory region: '{KEY}-none'"),
    ({"key": "a/b", "byte_size": 64}, 500, "Unable to open shared memory region: 'a/b'"),
    ({"key": "", "byte_size": 64}, 500, "Unable to open shared memory region: ''"),
    ({"key": "//", "byte_size": 64}, 400, "cannot register shared memory region 'r' - invalid shm key '//'"),
    (
        {"key": "//triton_python_backend_shm_region_7", "byte_size": 64}, 400,
        (
            "cannot register shared memory region 'r' with key '//triton_python_backend_shm_region_7' as the key contains the "
            "reserved prefix 'triton_python_backend_shm_region_'"
        ),
    ),
    (
        {"key": KEY, "byte_size": 8193}, 400,
        (
            f"failed to register shared memory region 'r': invalid args: shared memory key '{KEY}' holds 8192 bytes, 8193 at "
            "offset 0 need more"
        ),
    ),
    (
        {"key": KEY, "byte_size": 2**63}, 400,
        f"failed to register shared memory region 'r': invalid args: {2**63} bytes at offset 0 are more than any segment holds",
    ),
]  # fmt: skip


@pytest.mark.usefixtures("segment")
@pytest.mark.parametrize(("body", "code", "text"), SYSTEM_REFUSALS)
def test_what_cannot_be_registered_is_refused_in_triton_s_words(world: World, body: Any, code: int, text: str) -> None:
    assert post(world.gateway, "/v2/systemsharedmemory/region/r/register", body) == (code, text)


CUDA = "/v2/cudasharedmemory/region/r/register"
HANDLE = {"b64": "aGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaGhoaA=="}


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({"device_id": 0}, 400, "Shared memory register request has no 'raw_handle' field"),
        ({"raw_handle": {}}, 500, "attempt to access non-existing object member 'b64'"),
        ({"raw_handle": {"b64": "@@"}}, 400, "'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t"),
        ({"raw_handle": {"b64": "aGFsbG8="}}, 400, "'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t"),
        ({"raw_handle": HANDLE, "byte_size": 64}, 500, "attempt to access non-existing object member 'device_id'"),
        ({"raw_handle": HANDLE, "device_id": 0}, 500, "attempt to access non-existing object member 'byte_size'"),
        (
            {"raw_handle": HANDLE, "device_id": 0, "byte_size": 64}, 400,
            "failed to register CUDA shared memory region: 'r', GPUs not supported",
        ),
    ],
)  # fmt: skip
def test_what_is_no_cuda_memory_is_refused_in_triton_s_words(world: World, body: Any, code: int, text: str) -> None:
    """On this machine no broker has a GPU: the tests of CUDA memory have a simulated one."""
    assert post(world.gateway, CUDA, body) == (code, text)


@pytest.mark.parametrize("kind", ["system", "cuda"])
def test_a_region_needs_a_name(world: World, kind: str) -> None:
    text = f"'region name' is necessary to register {kind} shared memory region"
    assert post(world.gateway, f"/v2/{kind}sharedmemory/register", {"key": KEY, "byte_size": 1}) == (400, text)


def test_names_are_of_one_space_and_both_protocols_see_the_same(world: World, client: Any, segment: Any) -> None:
    """Given a region, then its name is taken for both kinds, and each protocol lists it; as system, and not as CUDA memory."""
    client.register_system_shared_memory("mine", "//" + KEY, 4096, 8)
    assert "shared memory region 'mine' already in manager" in refusal(client.register_system_shared_memory, "mine", KEY, 64)
    for name, library in LIBRARIES.items():
        with library.InferenceServerClient(getattr(world.gateway, name)) as other:
            assert status(other, "mine") == [{"name": "mine", "key": "//" + KEY, "offset": 8, "byte_size": 4096}]
            wrong = "The region named 'mine' is registered as system shared memory, not CUDA shared memory"
            assert wrong in refusal(other.get_cuda_shared_memory_status, "mine")
            assert "Unable to find system shared memory region: 'none'" in refusal(status, other, "none")
            assert "Unable to find cuda shared memory region: 'none'" in refusal(other.get_cuda_shared_memory_status, "none")
            other.unregister_cuda_shared_memory("mine")
            other.unregister_system_shared_memory("none")
    assert len(status(client)) == 1


def test_a_name_that_no_message_carries_is_not_there_and_cannot_be(client: Any, segment: Any) -> None:
    name = "n" * 257
    said = refusal(client.register_system_shared_memory, name, KEY, 64)
    assert f"region '{name[:256]}...': invalid args: its name has 257 characters, at most 256 are taken" in said
    client.unregister_system_shared_memory(name)
    client.unregister_cuda_shared_memory(name)
    assert f"Unable to find system shared memory region: '{name}'" in refusal(status, client, name)


@pytest.mark.parametrize(
    ("offset", "byte_size", "text"),
    [
        (8192, 64, "Invalid offset for shared memory region: 'mine'"),
        (2**63 - 1, 64, "Invalid offset for shared memory region: 'mine'"),
        (8140, 64, "Invalid offset + byte size for shared memory region: 'mine'"),
        (0, 2**63 - 1, "Invalid offset + byte size for shared memory region: 'mine'"),
    ],
)
def test_a_tensor_must_lie_in_its_region(
    client: Any, protocol: str, segment: Any, offset: int, byte_size: int, text: str
) -> None:
    library = LIBRARIES[protocol]
    client.register_system_shared_memory("mine", KEY, 8192)
    given = library.InferInput("x", [1, 2], "FP32")
    given.set_data_from_numpy(np.zeros((1, 2), np.float32))
    wanted = library.InferRequestedOutput("y")
    wanted.set_shared_memory("mine", byte_size, offset)
    assert refusal(client.infer, "gate", [given], outputs=[wanted]) == text
    given.set_shared_memory("mine", byte_size, offset)
    assert refusal(client.infer, "gate", [given]) == text


def test_sums_that_no_memory_has_are_refused_over_http(world: World, segment: Any) -> None:
    """Given numbers of 64 bits, which gRPC has not, then their sum does not come out small."""
    post(world.gateway, "/v2/systemsharedmemory/region/mine/register", {"key": KEY, "byte_size": 8192})

    def asked(offset: int, byte_size: int) -> tuple[int, str]:
        place = {"shared_memory_region": "mine", "shared_memory_offset": offset, "shared_memory_byte_size": byte_size}
        given = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": place}
        return post(world.gateway, "/v2/models/gate/infer", {"inputs": [given]})

    assert asked(32, 2**64 - 32) == (
        400,
        f"Integer overflow detected: byte_size ({2**64 - 32}) + offset (32) exceeds maximum value ({2**64 - 1}) for region 'mine'",
    )
    assert asked(2**64 - 1, 8) == (400, "Invalid offset for shared memory region: 'mine'")
    assert asked(0, 2**64 - 1) == (400, "Invalid offset + byte size for shared memory region: 'mine'")
    post(world.gateway, "/v2/systemsharedmemory/unregister", {})


def test_a_region_that_nobody_registered_is_not_found(client: Any, protocol: str) -> None:
    library = LIBRARIES[protocol]
    assert refusal(client.infer, **tensors(library, "none")) == "Unable to find shared memory region: 'none'"


# --- how long they are there -------------------------------------------------------------------------------------------------


def test_a_region_in_use_is_unregistered_with_its_last_request(world: World, client: Any, segment: Any) -> None:
    """Given a request that is being executed, when its region is unregistered, then it stays listed and usable until then."""
    client.register_system_shared_memory("mine", KEY, 8192)
    shm.set_shared_memory_region(segment, [np.array([[3, 4]], np.float32)])
    request = Meanwhile(world.gateway, "mine")
    held = world.barrier.entered()
    client.unregister_system_shared_memory("mine")
    client.unregister_system_shared_memory("")
    assert [row["name"] for row in status(client, "mine")] == ["mine"]
    assert "already in manager" in refusal(client.register_system_shared_memory, "mine", KEY, 64)
    let_go(held)
    assert request.ended() == (200, "")
    assert shm.get_contents_as_numpy(segment, np.float32, [1, 2], 1024).tolist() == [[3, 4]]
    eventually(lambda: status(client) == [], 5, "the region is gone")
    client.register_system_shared_memory("mine", KEY, 64)


def test_regions_outlive_their_gateway_and_who_registered_them(tmp_path: Path, world: World, segment: Any) -> None:
    """Given requests in flight in a region, when the gateway is killed, then each has an outcome, and the next one goes on."""
    address = world.broker.addresses["local"]
    folder = tmp_path / "first"
    folder.mkdir()
    first = RunningGateway(folder, address).__enter__()
    with over_http.InferenceServerClient(first.http) as client:
        client.register_system_shared_memory("mine", KEY, 8192)
    requests = [Meanwhile(first, "mine", at * 64) for at in range(4)]
    held = world.barrier.entered()
    first.kill()
    assert all(isinstance(request.ended(), Exception) for request in requests)
    let_go(held)
    with RunningGateway(tmp_path, address) as second, over_grpc.InferenceServerClient(second.grpc) as client:
        assert [row["name"] for row in status(client)] == ["mine"]
        shm.set_shared_memory_region(segment, [np.array([[5, 6]], np.float32)])
        request = Meanwhile(second, "mine")
        _pass_until_ended(world.barrier, request.thread)
        assert request.ended() == (200, "")
        assert shm.get_contents_as_numpy(segment, np.float32, [1, 2], 1024).tolist() == [[5, 6]]
        with world.broker.client("local") as owner:
            (row,) = (row for row in owner.regions() if row["name"] == "mine")
            assert (row["uid"], row["in_flight"], row["pid"]) == (os.geteuid(), 0, None)
            owner.forget_shared("mine", uid=os.geteuid())
        assert status(client) == []


def _pass_until_ended(barrier: Barrier, thread: threading.Thread) -> None:
    """Lets batches go until a thread has its answer: some may be of requests whose gateway is gone."""

    def is_over() -> bool:
        if barrier.is_somebody_there():
            let_go(barrier.entered())
        return not thread.is_alive()

    eventually(is_over, 20, "it has its answer")


def test_a_gateway_may_refuse_client_shared_memory(tmp_path: Path, world: World, segment: Any, protocol: str) -> None:
    refused = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
    with (
        RunningGateway(tmp_path, world.broker.addresses["local"], "--no-allow-client-shm") as gateway,
        LIBRARIES[protocol].InferenceServerClient(getattr(gateway, protocol)) as client,
    ):
        assert refusal(client.register_system_shared_memory, "mine", KEY, 64) == refused
        assert refusal(client.register_cuda_shared_memory, "mine", b"aGFsbG8=", 0, 64) == refused
        assert refusal(client.unregister_system_shared_memory) == refused
        assert status(client) == []


@pytest.mark.parametrize("isolated", [False, True])
def test_a_segment_that_shrinks_under_a_running_batch(tmp_path: Path, isolated: bool) -> None:
    """As test_memory_faults.py has it for our clients: a typed error, and the worker restarted, or, isolated, nothing else."""
    options = ("--isolate-system-regions",) if isolated else ()
    handle = shm.create_shared_memory_region("mine", KEY, 8192)
    with running(tmp_path, *options) as world, world.broker.client("local") as watcher:
        with over_http.InferenceServerClient(world.gateway.http) as client:
            client.register_system_shared_memory("mine", KEY, 8192)
        request = Meanwhile(world.gateway, "mine", 4096)
        held = world.barrier.entered()
        pid = ready_pid(watcher, "gate")
        os.truncate(f"/dev/shm/{KEY}", 0)
        let_go(held)
        outcome = request.ended()
        assert isinstance(outcome, tuple)
        code, text = outcome
        assert code == (400 if isolated else 500) and ("region shrank" if isolated else "worker died (signal 7") in text
        eventually(lambda: ready_pid(watcher, "gate") != 0, 20, "the model has a worker")
        assert is_alive(pid) == isolated and (ready_pid(watcher, "gate") == pid) == isolated
    os.truncate(f"/dev/shm/{KEY}", 8192)
    shm.destroy_shared_memory_region(handle)


# --- whose they are ----------------------------------------------------------------------------------------------------------


@needs_root
def test_another_user_has_no_part_in_them(world: World, client: Any, protocol: str, segment: Any) -> None:
    """Given root's region, then nobody can neither register its segment, nor name, see or unregister it; of its own it may."""
    client.register_system_shared_memory("mine", KEY, 8192)
    with Program("shares_as_another", protocol, getattr(world.gateway, protocol), str(NOBODY), KEY, "mine") as other:
        said = {word: other.say()[word] for word in ("register", "infer", "status", "unregister", "own", "listed")}
    assert said["register"].startswith("failed to register shared memory region 'theirs': invalid args")
    assert f"'{KEY}' does not belong to uid {NOBODY}" in said["register"]
    assert said["infer"] == "Unable to find shared memory region: 'mine'"
    assert (said["status"], said["unregister"], said["own"], said["listed"]) == ([], "", "", ["mine"])
    assert [row["name"] for row in status(client)] == ["mine"]
    with world.broker.client("local") as owner:
        assert sorted(row["uid"] for row in owner.regions() if row["uid"] is not None) == [0, NOBODY]
        owner.forget_shared(uid=NOBODY)
    assert [row["byte_size"] for row in status(client)] == [8192]


def test_each_address_of_the_machine_serves_its_users(tmp_path: Path, world: World, segment: Any) -> None:
    """Given a gateway on all addresses, then programs register by each of them; those of whom gRPC does not say enough send
    their tensors inline.
    """
    options = ("--http-host", "0.0.0.0", "--grpc-host", "0.0.0.0")
    with RunningGateway(tmp_path, world.broker.addresses["local"], *options) as gateway:
        http_port, grpc_port = (address.rpartition(":")[2] for address in (gateway.http, gateway.grpc))
        for host in own_addresses():
            with over_grpc.InferenceServerClient(f"[{host}]:{grpc_port}" if ":" in host else f"{host}:{grpc_port}") as client:
                client.register_system_shared_memory("mine", KEY, 8192)
                client.unregister_system_shared_memory("mine")
        with over_http.InferenceServerClient(f"127.0.0.2:{http_port}") as client:
            client.register_system_shared_memory("mine", KEY, 8192)
        with over_grpc.InferenceServerClient(f"127.0.0.2:{grpc_port}") as client:
            why = "it is not known which user of this machine asks"
            assert why in refusal(client.register_system_shared_memory, "other", KEY, 8192)
            assert refusal(client.infer, **tensors(over_grpc, "mine")).startswith("Unable to find shared memory region: 'mine'")
            assert status(client) == []
            client.unregister_system_shared_memory()
            given = [over_grpc.InferInput(f"INPUT{at}", [1, 16], "INT32") for at in range(2)]
            for each in given:
                each.set_data_from_numpy(np.ones((1, 16), np.int32))
            assert (client.infer("simple", given).as_numpy("OUTPUT0") == 2).all()
        with over_http.InferenceServerClient(f"127.0.0.1:{http_port}") as client:
            assert [row["name"] for row in status(client)] == ["mine"]
            client.unregister_system_shared_memory()
