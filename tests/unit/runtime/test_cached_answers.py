# SPDX-License-Identifier: Apache-2.0
"""Which requests the response cache answers, which not, what clients then find in their memory, and how it is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw, msgpack
from scripted import CONFIG, ScriptedBroker, ScriptedLink, link_of

from penstock.ipc.codec import encode
from penstock.ipc.messages import (
    Batch,
    Cancel,
    Failed,
    Infer,
    InputSlice,
    InputTensor,
    ItemOutput,
    ItemResult,
    Message,
    OutputPlace,
    OutputTensor,
    Result,
)
from penstock.ipc.regions import create_memfd
from penstock.runtime.cache_plans import cache_plan
from penstock.runtime.models import ModelTable, ServedModel
from penstock.runtime.regions import Region
from penstock.runtime.repository.configuration import parse_config
from penstock.runtime.sessions import Session

CACHED = (
    CONFIG.replace("dims: [ 2 ] } ]\ninstance", 'dims: [ 2 ] }, { name: "z" data_type: TYPE_FP32 dims: [ 2 ] } ]\ninstance')
    + "response_cache { enable: true }\n"
)
SHAPELESS = CACHED.replace('"echo"', '"free"').replace("dims: [ 2 ]", "dims: [ -1, -1 ]").replace("max_batch_size: 4", "")
X, Y, Z = b"input 12", b"output y", b"output z"
"""Eight bytes each: a row."""


class BringingLink(ScriptedLink):
    """Keeps what it is given to bring."""

    def __init__(self) -> None:
        super().__init__()
        self.brought: list[bytes] = []

    def put(self, message: Message, fds: Sequence[int] = (), parts: Sequence[bytes] = ()) -> None:
        self.brought += [os.pread(fd, 1000, 0) for fd in fds] + list(parts)
        super().put(message)


class Caching:
    """A broker whose model "echo" (outputs y and z) uses the cache, and one client."""

    def __init__(self, *configs: str, **settings: Any) -> None:
        self.broker = ScriptedBroker(*(configs or (CACHED,)), **settings)
        self.broker.start()
        self.client = self.new_client()
        self._count = 0

    def new_client(self, takes_fds: bool = True) -> Session:
        client = self.broker.client()
        client.link = BringingLink()
        client.takes_fds = takes_fds
        return client

    def write(self, content: bytes, offset: int, client: Session | None = None) -> None:
        (region,) = (client or self.client).regions
        os.pwrite(region.fd, content, offset)

    def read(self, offset: int, client: Session | None = None) -> bytes:
        (region,) = (client or self.client).regions
        return os.pread(region.fd, 8, offset)

    def ask(
        self, content: bytes = X, wanted: Sequence[str] = ("y",), *, placed: bool = True, client: Session | None = None,
        shape: Sequence[int] = (1, 2), model: str = "echo", at: int = 0, **fields: Any,
    ) -> int:  # fmt: skip
        """A request for outputs, y at 512 and z at 1024; its input is written at `at`."""
        self._count += 1
        self.write(content, at, client)
        inputs = [InputTensor("x", "FP32", list(shape), "r", at, len(content))]
        where = {"y": 512, "z": 1024}
        outputs = [OutputPlace(name, "r", where[name], 8) if placed else OutputPlace(name) for name in wanted]
        self.broker.say(client or self.client, Infer(self._count, model, Raw(encode(inputs)), Raw(encode(outputs)), **fields))
        return self._count

    def execute(self, **contents: bytes) -> None:
        """The worker executes one batch of one request, and writes placed outputs of the client's."""
        (batch,) = self.broker.batches()
        for name, content in contents.items():
            self.write(content, {"y": 512, "z": 1024}[name])
        self.broker.now_ns += 1000
        self.broker.finish(batch)

    def answers(self, client: Session | None = None) -> list[Any]:
        return link_of(client or self.client).take()

    def brought(self, client: Session | None = None) -> list[bytes]:
        link = link_of(client or self.client)
        assert isinstance(link, BringingLink)
        return link.brought

    def is_hit(self, *args: Any, **options: Any) -> bool:
        """Asks; whether no worker heard of it. A miss is executed, with 'y' and 'z' as above."""
        before = len(self.broker.processes[0].link.sent)
        number = self.ask(*args, **options)
        assert before == 0
        answered = [message.id for message in self.answers(options.get("client")) if isinstance(message, Result)]
        hit = answered == [number]
        batches = self.broker.batches()
        assert hit != bool(batches)
        for batch in batches:
            self.write(Y, 512)
            self.write(Z, 1024)
            self.broker.finish(batch)
        self.answers(options.get("client"))
        return hit

    @property
    def counted(self) -> dict[str, Any]:
        record = self.broker.core.models.find("echo", -1).record
        record.check_invariants()
        found: dict[str, Any] = record.statistics.to_json("echo", "1")
        return found

    def end(self) -> None:
        """Whatever is in flight ends with the workers."""
        core = self.broker.core
        for instance in list(core.fleet.instances.values()):
            core.worker_exited(instance)
        self.broker.end_sessions()
        assert len(core.regions) == 0


@pytest.fixture
def caching() -> Iterator[Caching]:
    made = Caching()
    yield made
    made.end()


def tensors(result: Result) -> list[OutputTensor]:
    return msgpack.decode(result.outputs, type=list[OutputTensor])


# --- hits --------------------------------------------------------------------------------------------------------------------


def test_the_same_request_again_is_answered_by_the_broker(caching: Caching) -> None:
    first = caching.ask(wanted=("y", "z"))
    caching.execute(y=Y, z=Z)
    (miss,) = caching.answers()
    caching.write(b"\0" * 8, 512)
    caching.write(b"\0" * 8, 1024)

    second = caching.ask(wanted=("y", "z"))

    (hit,) = caching.answers()
    assert (miss.id, hit.id) == (first, second)
    assert tensors(hit) == tensors(miss), "the reply is the same to the byte"
    assert (caching.read(512), caching.read(1024)) == (Y, Z)
    assert not caching.broker.batches()
    assert not caching.client.in_flight and all(region.in_flight == 0 for region in caching.client.regions)


def test_where_tensors_lie_and_who_asks_is_no_matter(caching: Caching) -> None:
    assert not caching.is_hit()
    assert caching.is_hit(at=2048)
    other = caching.new_client()
    assert caching.is_hit(client=other)
    assert caching.read(512, other) == Y


def test_a_hit_tells_how_it_was_served(caching: Caching) -> None:
    caching.is_hit()
    caching.ask(explain=True)
    (hit,) = caching.answers()
    assert (hit.explain.closed, hit.explain.instance, hit.explain.batch_size) == ("cached", "", 0)


@pytest.mark.parametrize("takes_fds", [True, False])
def test_outputs_without_a_place_come_along(caching: Caching, takes_fds: bool) -> None:
    client = caching.new_client(takes_fds)
    caching.is_hit(wanted=("y", "z"))

    caching.ask(wanted=("z", "y"), placed=False, client=client)

    (hit,) = caching.answers(client)
    assert [(tensor.name, tensor.region, tensor.byte_size) for tensor in tensors(hit)] == [("z", "", 8), ("y", "", 8)]
    if takes_fds:
        (memory,) = caching.brought(client)
        assert [memory[tensor.offset : tensor.offset + 8] for tensor in tensors(hit)] == [Z, Y]
    else:
        assert caching.brought(client) == [Z, Y]
    assert (hit.fds, hit.parts) == ((1, 0) if takes_fds else (0, 2))


def test_outputs_that_came_without_a_place_are_kept(caching: Caching) -> None:
    caching.ask(placed=False)
    (batch,) = caching.broker.batches()
    fd = create_memfd("unplaced", 128)
    os.pwrite(fd, Y, 64)
    caching.broker.processes[0].link.fds = [fd]
    caching.broker.finish(batch, items=[ItemResult(outputs=[ItemOutput(0, [1, 2], 8, 64)], fds=1)], fds=1)
    caching.answers()

    assert caching.is_hit()
    assert caching.read(512) == Y


# --- misses ------------------------------------------------------------------------------------------------------------------


def test_one_byte_makes_another_request(caching: Caching) -> None:
    assert not caching.is_hit(X)
    assert not caching.is_hit(X[:-1] + b"3")
    assert caching.is_hit(X)


def test_an_output_that_was_not_computed_then_is_a_miss_and_both_are_there_afterwards(caching: Caching) -> None:
    assert not caching.is_hit(wanted=("y",))
    assert not caching.is_hit(wanted=("z",))
    assert caching.is_hit(wanted=("z", "y"))


def test_shapes_are_part_of_the_request() -> None:
    caching = Caching(SHAPELESS)
    places = {"wanted": ("y",), "model": "free", "placed": False}
    for shape, is_there in (([1, 2], False), ([2, 1], False), ([1, 2], True)):
        number = caching.ask(shape=shape, **places)
        found = [message.id for message in caching.answers()] == [number]
        assert found == is_there
        for batch in caching.broker.batches():
            caching.broker.processes[0].link.fds = [create_memfd("unplaced", 8)]
            caching.broker.finish(batch, items=[ItemResult(outputs=[ItemOutput(0, shape, 8, 0)], fds=1)], fds=1)
            caching.answers()
    caching.end()


def test_a_place_that_is_too_small_is_left_to_the_worker_to_refuse() -> None:
    caching = Caching(SHAPELESS)
    caching.ask(model="free", placed=False)
    (batch,) = caching.broker.batches()
    caching.broker.processes[0].link.fds = [create_memfd("unplaced", 16)]
    caching.broker.finish(batch, items=[ItemResult(outputs=[ItemOutput(0, [1, 4], 16, 0)], fds=1)], fds=1)
    caching.answers()

    caching.ask(model="free")  # 8 bytes at 512

    assert len(caching.broker.batches()) == 1
    caching.end()


def test_equal_requests_in_flight_together_are_both_executed(caching: Caching) -> None:
    caching.ask()
    caching.ask()
    caching.write(Y, 512)
    for batch in caching.broker.batches():
        caching.broker.finish(batch)
    assert len(caching.answers()) == 2
    assert caching.counted["inference_stats"]["cache_miss"]["count"] == 2
    assert caching.is_hit()


def test_what_failed_or_was_cancelled_is_not_kept(caching: Caching) -> None:
    caching.ask()
    (batch,) = caching.broker.batches()
    caching.broker.finish(batch, message="no", code="INTERNAL")
    assert [type(message) for message in caching.answers()] == [Failed]
    cancelled = caching.ask()
    (batch,) = caching.broker.batches()
    caching.broker.say(caching.client, Cancel(cancelled))
    caching.broker.finish(batch)
    assert len(caching.answers()) == 2
    assert not caching.is_hit()
    assert caching.counted["inference_stats"]["cache_miss"]["count"] == 1, "a failure is no miss"


def test_inputs_that_change_while_the_model_runs_poison_nobody(caching: Caching) -> None:
    caching.ask(X)
    caching.write(b"another!", 0)
    caching.execute(y=Y)
    caching.answers()
    assert not caching.is_hit(X)
    assert not caching.is_hit(b"another!")


# --- bounds ------------------------------------------------------------------------------------------------------------------


def test_what_is_too_large_passes_the_cache_by() -> None:
    caching = Caching(cache_max_request_bytes=15)
    two = {"content": X * 2, "shape": (2, 2), "placed": False}
    for _ in range(2):
        number = caching.ask(**two)
        (batch,) = caching.broker.batches()
        caching.broker.processes[0].link.fds = [create_memfd("unplaced", 16)]
        caching.broker.finish(batch, items=[ItemResult(outputs=[ItemOutput(0, [2, 2], 16, 0)], fds=1)], fds=1)
        assert [message.id for message in caching.answers()] == [number]
    assert caching.counted["inference_stats"]["cache_miss"]["count"] == 0, "it was not looked up"
    assert not caching.is_hit(wanted=("y", "z")), "outputs of 16 bytes are too many too"
    assert not caching.is_hit(wanted=("y", "z"))
    assert caching.counted["inference_stats"]["cache_miss"]["count"] == 2, "though these were"
    caching.end()


def test_without_a_cache_nothing_is_looked_up() -> None:
    caching = Caching(cache_size_bytes=0)
    assert not caching.is_hit()
    assert not caching.is_hit()
    assert caching.counted["inference_stats"]["cache_miss"]["count"] == 0
    (binding,) = caching.client.bindings.values()
    assert binding.plan is None
    caching.end()


def test_a_model_that_does_not_ask_for_it_is_left_alone() -> None:
    caching = Caching(CACHED.replace("enable: true", "enable: false"))
    assert not caching.is_hit()
    assert not caching.is_hit()
    caching.end()


# --- memory that goes wrong --------------------------------------------------------------------------------------------------


class Truncated(Caching):
    """A client whose memory is a file that can be truncated, as a POSIX segment can."""

    def __init__(self) -> None:
        super().__init__()
        (region,) = self.client.regions
        fd = os.memfd_create("segment", os.MFD_CLOEXEC)
        os.ftruncate(fd, 4096)
        os.dup2(fd, region.fd)
        os.close(fd)

    def truncate(self, byte_size: int) -> None:
        (region,) = self.client.regions
        os.ftruncate(region.fd, byte_size)


def test_truncated_before_it_is_looked_up() -> None:
    caching = Truncated()
    caching.is_hit()
    caching.ask(at=2048)
    caching.answers()
    caching.truncate(0)
    caching._count += 1
    inputs, outputs = [InputTensor("x", "FP32", [1, 2], "r", 0, 8)], [OutputPlace("y", "r", 512, 8)]
    caching.broker.say(caching.client, Infer(caching._count, "echo", Raw(encode(inputs)), Raw(encode(outputs))))
    (batch,) = caching.broker.batches()
    caching.broker.finish(batch)  # as if it had found what it wanted: the worker knows better
    assert caching.counted["inference_stats"]["cache_miss"]["count"] == 1, "the first; this one was not looked up"
    caching.end()


def test_truncated_where_the_outputs_go() -> None:
    caching = Truncated()
    caching.is_hit()
    caching.truncate(512)
    caching.ask()
    assert len(caching.broker.batches()) == 1
    (region,) = caching.client.regions
    assert os.fstat(region.fd).st_size == 512, "the broker does not make it longer"
    caching.end()


def test_truncated_before_its_outputs_are_kept() -> None:
    caching = Truncated()
    caching.ask()
    (batch,) = caching.broker.batches()
    caching.truncate(512)
    caching.broker.finish(batch)
    assert [type(message) for message in caching.answers()] == [Result]
    caching.truncate(4096)
    assert not caching.is_hit()
    caching.end()


def test_a_hit_that_the_machine_does_not_allow_is_executed(caching: Caching, monkeypatch: pytest.MonkeyPatch) -> None:
    caching.is_hit()

    def refuse(_name: str, _byte_size: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("penstock.runtime.cached_answers.create_memfd", refuse)
    caching.ask(placed=False)
    assert len(caching.broker.batches()) == 1 and not caching.answers()


# --- counting ----------------------------------------------------------------------------------------------------------------


def test_hits_and_misses_are_counted_as_triton_counts_them(caching: Caching) -> None:
    caching.is_hit(X)
    for _ in range(3):
        assert caching.is_hit(X)

    given = caching.counted

    assert (given["inference_count"], given["execution_count"]) == (1, 1), "hits are no inferences"
    counts = {what: each["count"] for what, each in given["inference_stats"].items()}
    assert counts == {
        "success": 4, "fail": 0, "queue": 4, "compute_input": 1, "compute_infer": 1, "compute_output": 1,
        "cache_hit": 3, "cache_miss": 1,
    }  # fmt: skip
    assert given["batch_stats"][0]["compute_infer"] == {"count": 1, "ns": 20}


def test_the_times_of_hits_and_misses(caching: Caching, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a clock that moves by 1 us whenever it is read, each duration is how often it was read."""
    core = caching.broker.core

    def ticking() -> int:
        caching.broker.now_ns += 1000
        return caching.broker.now_ns

    monkeypatch.setattr(core, "clock", ticking)
    monkeypatch.setattr(core.answers, "_clock", ticking)
    caching.ask()
    (batch,) = caching.broker.batches()
    caching.broker.finish(batch)
    caching.answers()
    before = caching.counted["inference_stats"]
    assert before["cache_miss"] == {"count": 1, "ns": 2000}, "1 us to look it up, 1 to put it in"
    caching.ask()
    after = caching.counted["inference_stats"]
    assert after["cache_hit"] == {"count": 1, "ns": 1000}
    assert after["queue"]["ns"] - before["queue"]["ns"] == 1000, "from its arrival until it was looked up"
    assert after["success"]["ns"] - before["success"]["ns"] == 2000
    assert isinstance(batch, Batch)


# --- keys --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region(1, "r", "memfd", create_memfd("keys", 64), 0, 64, sealed=True)
    os.pwrite(made.fd, bytes(range(64)), 0)
    yield made
    os.close(made.fd)


def key(region: Region, model: ServedModel, **inputs: tuple[int, int]) -> bytes:
    """The key of a request whose inputs are these stretches of the region: (begin, size)."""
    tensors = [InputTensor(name, "UINT8", [size]) for name, (_, size) in inputs.items()]
    slices = [(region, InputSlice(1, begin, size, [size])) for begin, size in inputs.values()]
    found = cache_plan(model, tensors, slices, [], {}).key()
    assert found is not None and len(found) == 32
    return found


def test_a_key_is_of_names_and_bytes_whatever_the_order(region: Region) -> None:
    table = ModelTable()
    model = table.add(parse_config(CACHED, Path("config.pbtxt"), "echo"), 1, "")
    assert key(region, model, a=(0, 4), b=(4, 8)) == key(region, model, b=(4, 8), a=(0, 4))
    keys = {
        key(region, model, a=(0, 4), b=(4, 8)),
        key(region, model, a=(0, 4), c=(4, 8)),
        key(region, model, a=(0, 5), b=(5, 7)),  # the same bytes one after the other
        key(region, model, a=(4, 8), b=(0, 4)),
        key(region, model, a=(0, 4)),
        key(region, model, a=(0, 12)),
    }
    assert len(keys) == 6


def test_versions_and_loads_have_keys_of_their_own(region: Region) -> None:
    """Given the same version loaded again, then what the first load answered is never found."""
    table = ModelTable()
    config = parse_config(CACHED, Path("config.pbtxt"), "echo")
    models = [table.add(config, version, "") for version in (1, 1, 2)]
    assert len({key(region, model, a=(0, 4)) for model in models}) == 3
