# SPDX-License-Identifier: Apache-2.0
"""Regions and instances on GPUs: who is told of what, who answers a Register, and when an Unregister is answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from scripted import CONFIG, ScriptedBroker, link_of

from penstock.ipc.codec import encode
from penstock.ipc.gpus import GpuInfo, Gpus
from penstock.ipc.messages import (
    Batch,
    Cancel,
    Done,
    Failed,
    Infer,
    InputTensor,
    Loaded,
    MapRegion,
    OutputPlace,
    Ready,
    RegionMapped,
    RegionUnmapped,
    Register,
    Released,
    Result,
    UnmapRegion,
    Unregister,
)

GPU = "GPU-00000000-0000-0000-0000-000000000001"
OTHER = "GPU-00000000-0000-0000-0000-000000000002"
HANDLE = b"h" * 64


class Scene:
    """A model with instances on GPUs, and a client with no region of its own."""

    def __init__(self, *gpus: str) -> None:
        self.broker = ScriptedBroker(CONFIG.replace("count: 1", f"count: {len(gpus)}"))
        for position, gpu in enumerate(gpus):
            self.put_on(position, gpu)
        self.broker.start()
        self.client = self.broker.client()
        for position in range(len(gpus)):
            self.heard(position)

    def put_on(self, position: int, gpu: str) -> None:
        """What placing an instance on a GPU does to it."""
        instance = self.broker.instance(position)
        instance.gpu = gpu
        instance.model.gpus.add(gpu)

    def say(self, *messages: Any) -> None:
        self.broker.say(self.client, *messages)

    def register(self, name: str = "c", message_id: int = 1, **fields: Any) -> None:
        given = {"byte_size": 1024, "handle": HANDLE, "uuid": GPU, **fields}
        self.say(Register(message_id, name, "cuda", **given))

    def heard(self, position: int, kind: type | None = None) -> list[Any]:
        """What a worker was told since the last time."""
        return self.broker.processes[position].link.take(kind)

    def answers(self) -> list[Any]:
        return link_of(self.client).take()

    def report(self, position: int, message: Any) -> None:
        self.broker.core.receive_from_worker(self.broker.instance(position), [message])
        self.broker.settle()

    def infer(self, region: str = "c", message_id: int = 70) -> None:
        inputs = [InputTensor("x", "FP32", [1, 2], region, 0, 8)]
        outputs = [OutputPlace("y", region, 256, 8)]
        self.say(Infer(message_id, "echo", msgspec.Raw(encode(inputs)), msgspec.Raw(encode(outputs))))

    def regions(self) -> dict[str, dict[str, Any]]:
        return {region.name: region.describe() for region in self.broker.core.regions}


@pytest.fixture
def scene() -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(*gpus: str) -> Scene:
        scenes.append(Scene(*gpus))
        return scenes[-1]

    yield make
    for each in scenes:
        each.broker.end_sessions()
        assert len(each.broker.core.regions) == 0


# --- registering -----------------------------------------------------------------------------------------------------------


def test_cuda_memory_is_registered_when_an_instance_has_opened_it(scene: Callable[..., Scene]) -> None:
    """Given two instances on the GPU, then one is asked first; when it has opened the memory, the client and the other hear it."""
    told = scene(GPU, GPU)
    told.register()
    (mapped,) = told.heard(0)
    assert mapped == MapRegion(mapped.region, 1024, handle=HANDLE, pid=told.client.peer.pid, report=True, fds=0)
    assert told.heard(1) == [] and told.answers() == []
    told.report(0, RegionMapped(mapped.region))
    assert told.answers() == [Done(1)]
    assert told.heard(1) == [mapped]
    assert told.regions()["c"]["mapped_by"] == ["echo_0_0", "echo_0_1"] and told.regions()["c"]["gpu"] == GPU


def test_cuda_memory_that_cannot_be_opened_is_not_registered(scene: Callable[..., Scene]) -> None:
    """Given a handle of nothing, when the instance says so, then so does the answer, and the name is free."""
    told = scene(GPU)
    told.register()
    (mapped,) = told.heard(0)
    told.report(0, RegionMapped(mapped.region, "INVALID_ARG", "no such memory", "caller"))
    assert told.answers() == [Failed("INVALID_ARG", "region 'c': no such memory", "caller", 1)]
    assert told.heard(0) == [UnmapRegion(mapped.region, report=True)]
    assert "c" not in told.regions()
    told.register(message_id=2)
    told.report(0, RegionMapped(told.heard(0)[0].region))
    assert told.answers() == [Done(2)]


def test_a_request_sent_before_the_answer_fails_with_the_region(scene: Callable[..., Scene]) -> None:
    """Given a request right behind its Register, then it goes out; when the handle is refused, its placement is forgotten."""
    told = scene(GPU)
    told.register()
    told.infer()
    mapped, batch = told.heard(0)
    told.report(0, RegionMapped(mapped.region, "INVALID_ARG", "no such memory", "caller"))
    assert told.client.bindings == {}
    told.broker.finish(batch, code="INVALID_ARG", message="no such memory", fault="caller")
    assert [type(answer) for answer in told.answers()] == [Failed, Failed]
    assert "c" not in told.regions()


@pytest.mark.parametrize("gpus", [(), (OTHER,)])
def test_cuda_memory_that_no_instance_can_try_is_taken_on_trust(scene: Callable[..., Scene], gpus: tuple[str, ...]) -> None:
    told = scene("", *gpus)
    told.register()
    assert told.answers() == [Done(1)]
    assert all(told.heard(position, MapRegion) == [] for position in range(1 + len(gpus)))


def test_an_instance_that_takes_its_tensors_from_host_memory_is_not_asked(scene: Callable[..., Scene]) -> None:
    """Given a model of text, which onnxruntime computes on the CPU wherever it is placed, beside one on the same GPU."""
    told = scene(GPU, GPU)
    told.broker.die(0)
    told.broker.wait(200)
    told.put_on(2, GPU)
    told.broker.core.receive_from_worker(told.broker.instance(2), [Loaded(pid=1), Ready(on_host=True)])
    told.broker.settle()
    assert told.heard(2, MapRegion) == []
    told.broker.die(1)
    told.register()
    assert told.answers() == [Done(1)] and told.heard(2, MapRegion) == []


def test_when_the_instance_that_tries_it_dies_another_does(scene: Callable[..., Scene]) -> None:
    """Given two instances, when both die before they answer, then the second was asked after the first, and then it is trusted."""
    told = scene(GPU, GPU)
    told.register()
    told.broker.die(0)
    assert told.answers() == []
    assert [type(message) for message in told.heard(1)] == [MapRegion]
    told.broker.die(1)
    assert told.answers() == [Done(1)]


def test_an_instance_that_got_it_with_a_batch_does_not_report_and_is_not_waited_for(scene: Callable[..., Scene]) -> None:
    """Given the second instance has mapped it for a request, when the first dies, then nobody is left to be asked."""
    told = scene(GPU, GPU)
    told.register()
    for message_id in range(70, 76):
        told.infer(message_id=message_id)
    mapped, first, second = told.heard(1)
    assert mapped.handle == HANDLE and not mapped.report
    told.broker.die(0)
    assert Done(1) in told.answers()
    told.broker.core.reception.end(told.client, "over")
    told.broker.finish(first, position=1)
    told.broker.finish(second, position=1)


@pytest.mark.parametrize(("fields", "text"), [
    ({"handle": b""}, "the handle of CUDA memory has 64 bytes (cudaIpcMemHandle_t), got 0"),
    ({"handle": b"h" * 63}, "has 64 bytes (cudaIpcMemHandle_t), got 63"),
    ({"handle": bytes(64)}, "the handle of CUDA memory is all zeros"),
    ({"byte_size": 0}, "byte_size must be at least 1, got 0"),
    ({"byte_size": 2**63 - 1, "offset": 1}, f"offset 1 + byte_size {2**63 - 1} is more than any memory has"),
    ({"key": "k"}, "a cuda region has no key, got 'k'"),
    ({"uuid": "GPU-1"}, "a GPU's uuid looks like GPU-01234567-89ab-cdef-0123-456789abcdef (nvidia-smi -L), got 'GPU-1'"),
    ({"uuid": GPU.replace("GPU", "MIG")}, "CUDA memory of a MIG instance (MIG-00000000-0000-0000-0000-000000000001) is not shared"),
    ({"uuid": "", "device_id": 3}, "there is no GPU of device_id 3 among those that the broker knows (none: this machine has no GPU)"),
])  # fmt: skip
def test_what_cannot_be_cuda_memory_is_refused_at_once(scene: Callable[..., Scene], fields: dict[str, Any], text: str) -> None:
    told = scene(GPU)
    told.register(**fields)
    (refused,) = told.answers()
    assert isinstance(refused, Failed) and refused.id == 1 and refused.fault == "caller"
    assert refused.message.startswith("region 'c': ") and text in refused.message
    assert "c" not in told.regions() and told.heard(0) == []


def test_under_wsl_cuda_memory_is_refused(scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.runtime.known_gpus.is_wsl", lambda: True)
    told = scene(GPU)
    told.register()
    (refused,) = told.answers()
    assert refused.code == "UNSUPPORTED" and "under WSL: use a memfd or system region" in refused.message


def test_other_memory_has_no_handle(scene: Callable[..., Scene]) -> None:
    told = scene(GPU)
    told.say(Register(1, "s", "system", 64, "key", handle=HANDLE))
    (refused,) = told.answers()
    assert refused.message == "region 's': a system region has neither a handle nor a GPU, which only CUDA memory has"


def gpus(*uuids: str) -> Gpus:
    return Gpus(tuple(GpuInfo(at, uuid, "H", 1 << 30, (9, 0), "0", False, False) for at, uuid in enumerate(uuids)))


def test_a_gpu_that_is_given_by_its_number_is_looked_up_first(scene: Callable[..., Scene]) -> None:
    """Given a survey that takes its time, then the Register waits for it, and goes to the GPU of that number."""
    told = scene(OTHER)
    told.broker.core.gpu_survey.found, told.broker.reads = None, False
    told.register(uuid="", device_id=1)
    assert told.answers() == [] and told.heard(0) == []
    told.broker.core.gpu_survey.found = gpus(GPU, OTHER)
    told.broker.read()
    told.broker.settle()
    told.report(0, RegionMapped(told.heard(0)[0].region))
    assert told.answers() == [Done(1)] and told.regions()["c"]["gpu"] == OTHER
    told.register("d", 2, uuid="", device_id=2)
    (refused,) = told.answers()
    assert refused.message.startswith(
        "region 'd': there is no GPU of device_id 2 among those that the broker knows (0 (H, GPU-"
    )


@pytest.mark.parametrize("name", ["c", ""])
def test_what_is_unregistered_before_the_survey_ended_is_not_registered_by_it(scene: Callable[..., Scene], name: str) -> None:
    """Given Register by number, Unregister, and Register of another in one frame, then the last alone is there in the end."""
    told = scene(GPU)
    told.broker.core.gpu_survey.found, told.broker.reads = None, False
    told.register(uuid="")
    told.say(Unregister(5, name))
    told.register("d", 6, uuid="")
    assert told.answers() == [Done(1), Done(5)]
    told.broker.core.gpu_survey.found = gpus(GPU)
    told.broker.read()
    told.broker.settle()
    (mapped,) = told.heard(0, MapRegion)
    told.report(0, RegionMapped(mapped.region))
    assert told.answers() == [Done(6)] and [name for name in told.regions() if name != "r"] == ["d"]


def test_a_client_that_has_left_before_the_survey_ended_registers_nothing(scene: Callable[..., Scene]) -> None:
    told = scene(GPU)
    told.broker.core.gpu_survey.found, told.broker.reads = None, False
    told.register(uuid="")
    told.broker.core.reception.end(told.client, "gone")
    told.broker.core.gpu_survey.found = gpus(GPU)
    told.broker.read()
    told.broker.settle()
    assert told.regions() == {} and told.heard(0, MapRegion) == []


# --- handed out ahead of requests ------------------------------------------------------------------------------------------


def test_host_memory_goes_to_every_instance_on_a_gpu_at_once(scene: Callable[..., Scene]) -> None:
    """Given instances on two GPUs and one on the CPU, then the first two get a new region; the last waits for a request."""
    told = scene(GPU, OTHER, "")
    told.broker.register(told.client, "more")
    mapped = [told.heard(position) for position in range(3)]
    assert [[message.report for message in messages] for messages in mapped] == [[True], [True], []]
    assert Done(900) in told.answers()


def test_an_instance_that_comes_later_gets_what_there_is_before_its_first_batch(scene: Callable[..., Scene]) -> None:
    """Given regions, a queue, and an instance that is restarted, then it gets all that concern it, once, and then the batch."""
    told = scene(GPU)
    told.register("here")
    told.register("there", 2, uuid=OTHER, handle=b"o" * 64)
    told.report(0, RegionMapped(told.heard(0)[0].region))
    told.broker.die(0)
    told.infer("here")
    told.broker.wait(200)
    told.put_on(1, GPU)
    told.broker.core.receive_from_worker(told.broker.instance(1), [Loaded(pid=1), Ready()])
    told.broker.settle()
    heard = [message for message in told.heard(1) if isinstance(message, (MapRegion, Batch))]
    assert [type(message) for message in heard] == [MapRegion, MapRegion, Batch]
    numbers = {region.name: region.number for region in told.broker.core.regions}
    assert [message.region for message in heard[:2]] == [numbers["r"], numbers["here"]]
    told.broker.finish(heard[2], position=1)


def test_what_an_instance_says_of_a_region_is_shown_and_logged(
    scene: Callable[..., Scene], caplog: pytest.LogCaptureFixture
) -> None:
    told = scene(GPU, GPU)
    (region,) = told.broker.core.regions
    with caplog.at_level(logging.WARNING):
        told.report(0, RegionMapped(region.number, pinned=True))
        told.report(1, RegionMapped(region.number, message="too much is pinned"))
    shown = told.regions()["r"]
    assert shown["pinned_by"] == ["echo_0_0"] and shown["refused_by"] == {"echo_0_1": "too much is pinned"}
    assert shown["mapped_by"] == ["echo_0_0", "echo_0_1"]
    assert "echo_0_1: region 'r' is not pinned: too much is pinned" in caplog.text
    told.report(1, RegionMapped(region.number, "INTERNAL", "no address space"))
    assert told.regions()["r"]["mapped_by"] == ["echo_0_0"]
    told.broker.die(1)
    assert told.regions()["r"]["refused_by"] == {}


def test_a_report_on_a_region_that_is_gone_is_no_news(scene: Callable[..., Scene]) -> None:
    told = scene(GPU)
    told.report(0, RegionMapped(99, pinned=True))
    told.report(0, RegionUnmapped(99))
    assert not told.broker.processes[0].killed


# --- given back ------------------------------------------------------------------------------------------------------------


def registered(told: Scene, name: str = "c", message_id: int = 1) -> int:
    """CUDA memory that the first instance has opened; its number."""
    told.register(name, message_id)
    number: int = told.heard(0, MapRegion)[0].region
    told.report(0, RegionMapped(number))
    assert told.answers() == [Done(message_id)]
    return number


def test_unregister_is_answered_when_no_instance_has_it_open(scene: Callable[..., Scene]) -> None:
    """Given two instances that have it open, then the answer, after which its exporter may free it, comes after both."""
    told = scene(GPU, GPU)
    number = registered(told)
    told.say(Unregister(5, "c"))
    assert told.heard(0) == [UnmapRegion(number, report=True)]
    told.report(0, RegionUnmapped(number))
    assert told.answers() == [] and "c" not in told.regions()
    told.report(1, RegionUnmapped(number))
    assert told.answers() == [Done(5)]


def test_unregister_waits_for_requests_that_use_it(scene: Callable[..., Scene]) -> None:
    """Given a request at a worker, then the name is free at once, the memory is closed after the request, and then comes Done."""
    told = scene(GPU)
    number = registered(told)
    told.infer()
    (batch,) = told.heard(0, Batch)
    told.say(Unregister(5, "c"))
    assert told.heard(0) == [] and told.answers() == []
    told.infer(message_id=71)
    assert [answer.code for answer in told.answers()] == ["NOT_FOUND"]
    told.broker.finish(batch)
    assert [type(answer) for answer in told.answers()] == [Result]
    assert told.heard(0) == [UnmapRegion(number, report=True)]
    told.report(0, RegionUnmapped(number))
    assert told.answers() == [Done(5)]


def test_an_instance_that_dies_has_closed_everything(scene: Callable[..., Scene]) -> None:
    told = scene(GPU)
    registered(told)
    told.say(Unregister(5, "c"))
    told.broker.die(0)
    assert told.answers() == [Done(5)]


def test_unregister_of_all_is_answered_with_the_last(scene: Callable[..., Scene]) -> None:
    told = scene(GPU)
    numbers = [registered(told, "c", 1), registered(told, "d", 2)]
    told.say(Unregister(5))
    for number in numbers:
        assert told.answers() == []
        told.report(0, RegionUnmapped(number))
    assert told.answers() == [Done(5)]


def test_memory_that_nobody_opened_is_closed_at_once(scene: Callable[..., Scene]) -> None:
    told = scene("")
    told.register()
    told.say(Unregister(5, "c"))
    assert told.answers() == [Done(1), Done(5)]


def test_a_region_that_is_unregistered_before_it_was_tried_is_answered_for_both(scene: Callable[..., Scene]) -> None:
    """Given Register and Unregister in one frame, then the first is answered by the instance, the second when it let go."""
    told = scene(GPU)
    told.register()
    told.say(Unregister(5, "c"))
    mapped, unmapped = told.heard(0)
    told.report(0, RegionMapped(mapped.region))
    told.report(0, RegionUnmapped(unmapped.region))
    assert told.answers() == [Done(1), Done(5)]


def test_a_client_that_dies_costs_its_own_requests_alone(scene: Callable[..., Scene]) -> None:
    """Given two clients' requests at a worker and in the queue, when one client dies, then its queue goes, the memory is
    closed after what was in flight, and the other client is served.
    """
    told = scene(GPU)
    number = registered(told)
    other = told.broker.client()
    told.heard(0)
    for message_id in range(70, 76):
        told.infer(message_id=message_id)
    batches = told.heard(0, Batch)
    told.broker.infer(other)
    told.broker.core.reception.end(told.client, "killed")
    told.broker.settle()
    assert UnmapRegion(number, report=True) not in told.heard(0)
    heard: list[Any] = []
    for batch in batches:
        told.broker.finish(batch)
        heard += told.heard(0)
    assert UnmapRegion(number, report=True) in heard
    (served,) = [message for message in heard if isinstance(message, Batch)]
    told.broker.finish(served)
    assert [type(message) for message in link_of(other).take()] == [Result]


def test_a_cancelled_request_keeps_the_memory_until_it_is_released(scene: Callable[..., Scene]) -> None:
    told = scene(GPU)
    number = registered(told)
    told.infer()
    (batch,) = told.heard(0, Batch)
    told.say(Cancel(70), Unregister(5, "c"))
    assert [type(answer) for answer in told.answers()] == [Failed] and told.heard(0) == []
    told.broker.finish(batch)
    assert told.heard(0) == [UnmapRegion(number, report=True)]
    told.report(0, RegionUnmapped(number))
    assert [type(answer) for answer in told.answers()] == [Released, Done]


# --- requests --------------------------------------------------------------------------------------------------------------


def test_a_request_says_which_gpu_it_needs(scene: Callable[..., Scene]) -> None:
    told = scene(GPU)
    registered(told)
    told.infer()
    (binding,) = told.client.bindings.values()
    assert binding.gpu == GPU
    told.broker.infer(told.client)
    assert sorted(each.gpu for each in told.client.bindings.values()) == ["", GPU]
    for batch in told.heard(0, Batch):
        told.broker.finish(batch)
    for batch in told.heard(0, Batch):
        told.broker.finish(batch)


def test_a_model_on_the_cpu_cannot_reach_cuda_memory(scene: Callable[..., Scene]) -> None:
    told = scene("")
    told.broker.core.models.find("echo", -1).gpus.clear()
    told.register()
    told.infer()
    refused = told.answers()[1]
    assert refused.code == "INVALID_ARG" and refused.message == (
        f"model 'echo' runs on the CPU and cannot reach region 'c', CUDA memory on {GPU}: use a memfd or system region, or give "
        "the model an instance_group of KIND_GPU"
    )


def test_the_regions_of_a_request_lie_on_one_gpu(scene: Callable[..., Scene]) -> None:
    told = scene(GPU)
    registered(told)
    told.register("far", 2, uuid=OTHER, handle=b"o" * 64)
    inputs = [InputTensor("x", "FP32", [1, 2], "c", 0, 8)]
    outputs = [OutputPlace("y", "far", 0, 8)]
    told.say(Infer(70, "echo", msgspec.Raw(encode(inputs)), msgspec.Raw(encode(outputs))))
    refused = told.answers()[1]
    assert refused.message == (
        f"model 'echo': region 'c' lies on {GPU}, region 'far' on {OTHER}: the CUDA regions of a request must lie on one GPU"
    )


TEXTS = CONFIG.replace('"echo"', '"texts"').replace("TYPE_FP32", "TYPE_STRING")


@pytest.mark.parametrize(("source", "target", "asker"), [("c", "r", "input 'x'"), ("r", "c", "output 'y'")])
def test_text_cannot_lie_in_cuda_memory(source: str, target: str, asker: str) -> None:
    told = Scene.__new__(Scene)
    told.broker = ScriptedBroker(TEXTS)
    told.put_on(0, GPU)
    told.broker.start()
    told.client = told.broker.client()
    told.heard(0)
    registered(told)
    inputs = [InputTensor("x", "BYTES", [1, 2], source, 0, 8)]
    outputs = [OutputPlace("y", target, 256, 8)]
    told.say(Infer(70, "texts", msgspec.Raw(encode(inputs)), msgspec.Raw(encode(outputs))))
    assert told.answers()[0].message.startswith(
        f"{asker} of model 'texts': BYTES cannot lie in CUDA memory, such as region 'c'"
    )
    told.broker.end_sessions()


def test_the_same_allocation_by_two_names_overlaps(scene: Callable[..., Scene]) -> None:
    """Given two regions of one handle, then an output may not be written over an input by the other's name."""
    told = scene(GPU)
    registered(told)
    told.register("again", 2, offset=4)
    told.report(0, RegionMapped(told.heard(0)[0].region))
    inputs = [InputTensor("x", "FP32", [1, 2], "c", 0, 8)]
    outputs = [OutputPlace("y", "again", 0, 8)]
    told.say(Infer(70, "echo", msgspec.Raw(encode(inputs)), msgspec.Raw(encode(outputs))))
    assert "output 'y' overlaps 'x' in memory (bytes 4 to 12 and 0 to 8)" in told.answers()[1].message


def test_what_lies_on_a_gpu_passes_the_response_cache_by(scene: Callable[..., Scene]) -> None:
    """Given a model with a cache, then a request in CUDA memory, which the broker cannot read, is executed each time."""
    broker = ScriptedBroker(CONFIG + "response_cache { enable: true }")
    told = Scene.__new__(Scene)
    told.broker = broker
    told.put_on(0, GPU)
    broker.start()
    told.client = broker.client()
    told.heard(0)
    registered(told)
    for message_id in (70, 71):
        told.infer(message_id=message_id)
        (batch,) = told.heard(0, Batch)
        broker.finish(batch)
    assert [type(answer) for answer in told.answers()] == [Result, Result]
    broker.end_sessions()
