# SPDX-License-Identifier: Apache-2.0
"""Slots: one request at a time, given back once, and prepared once per layout."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from penstock.clients.arena import Arena, Broker
from penstock.clients.asking import Asked
from penstock.clients.buffers import SharedSlot, SingleUse, SlotPool
from penstock.clients.models import ModelInfo, TensorInfo, layout_of_batch
from penstock.clients.pending import Entry
from penstock.clients.regions import MemfdRegion, Region
from penstock.ipc.codec import encode
from penstock.ipc.errors import BrokerError, CallerError
from penstock.ipc.messages import InputTensor, OutputPlace, OutputTensor, Result

MODEL = ModelInfo(
    "m", -1, 3, (3,), "identity", 8,
    (TensorInfo("x", "FP32", (4,)), TensorInfo("k", "INT64", ())), (TensorInfo("y", "FP32", (2, 2)), TensorInfo("t", "BYTES", (1,))),
)  # fmt: skip
LAYOUT = layout_of_batch(MODEL, 2, {}, None)


class Rig:
    def __init__(self) -> None:
        self.broker = Broker()
        self.broker.meet(b"first", keeps_memory=True)
        self.regions: list[Region] = []
        self.pool = SlotPool(Arena(self.broker, self._add, lambda _: None))

    def _add(self, byte_size: int) -> Region:
        self.regions.append(MemfdRegion(f"r{len(self.regions)}", byte_size))
        return self.regions[-1]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.pool.check_invariants()
    rig.pool.close()
    assert all(region.closed for region in rig.regions)


def reply(slot: SharedSlot, number: int = 1, **brought: Any) -> Entry:
    """The entry of a request that was answered with all placed outputs."""
    current = slot.current
    places = msgspec.msgpack.decode(current.prepared.outputs_raw, type=list[OutputPlace])
    placed = [OutputTensor(p.name, "FP32", [2, 2, 2], p.region, p.offset, p.byte_size) for p in places if p.region]
    entry = Entry(number, slot)
    entry.message = Result(number, msgspec.Raw(encode(placed)), 3)
    entry.answered = True
    return entry


def test_the_message_says_where_the_arrays_are(rig: Rig) -> None:
    slot = rig.pool.lease(LAYOUT)
    slot.inputs["x"][:] = np.arange(8).reshape(2, 4)
    slot.inputs["k"][:] = [7, 8]
    message, parts = slot.infer(5, Asked(deadline_us=1000, principal="who", explain=True))
    x, k = msgspec.msgpack.decode(message.inputs, type=list[InputTensor])
    y, t = msgspec.msgpack.decode(message.outputs, type=list[OutputPlace])
    memory = rig.regions[0].array
    assert memory[x.offset : x.offset + x.byte_size].view(np.float32).tolist() == list(range(8))
    assert (k.datatype, k.shape, memory[k.offset : k.offset + 16].view(np.int64).tolist()) == ("INT64", [2], [7, 8])
    assert (y.region, y.byte_size, t) == ("r0", 32, OutputPlace("t"))
    assert (message.id, message.deadline_us, message.principal, message.explain, parts) == (5, 1000, "who", True, ())


def test_a_second_lease_of_a_layout_finds_everything_prepared(rig: Rig) -> None:
    first = rig.pool.lease(LAYOUT)
    prepared = first.prepared
    first.close()
    assert rig.pool.lease(LAYOUT).prepared is prepared
    wanted = layout_of_batch(MODEL, 2, {}, ["y"])
    assert rig.pool.lease(wanted).prepared is not prepared


def test_equal_replies_are_decoded_once_and_others_anew(rig: Rig) -> None:
    slot = rig.pool.lease(LAYOUT)
    first, second = slot.build_result(reply(slot)), slot.build_result(reply(slot))
    assert first.outputs is second.outputs
    assert np.shares_memory(first.outputs["y"], slot.outputs["y"])
    entry = reply(slot)
    smaller = msgspec.msgpack.decode(entry.message.outputs, type=list[OutputTensor])[0]
    smaller = msgspec.structs.replace(smaller, shape=[1, 2, 2], byte_size=16)
    entry.message = Result(1, msgspec.Raw(encode([smaller])), 3)
    assert slot.build_result(entry).outputs["y"].shape == (1, 2, 2)


def test_busy_slots_refuse_and_closing_waits_for_the_release(rig: Rig) -> None:
    slot = rig.pool.lease(LAYOUT)
    slot.begin()
    with pytest.raises(CallerError, match="in flight"):
        slot.begin()
    slot.close()
    assert rig.pool.lease(LAYOUT).placement is not slot.placement
    slot.release()
    slot.close()
    slot.check_invariants()
    assert rig.pool.lease(LAYOUT).placement is slot.placement
    with pytest.raises(CallerError, match="closed"):
        slot.begin()


def test_a_lost_slot_goes_on_through_a_substitute(rig: Rig) -> None:
    slot = rig.pool.lease(LAYOUT)
    slot.begin()
    slot.lose()
    slot.inputs["x"][:] = 5
    slot.begin()
    substitute = slot.current
    assert substitute is not slot
    assert substitute.inputs["x"].tolist() == slot.inputs["x"].tolist()
    substitute.outputs["y"][:] = 9
    result = slot.build_result(reply(slot))
    assert slot.outputs["y"].tolist() == np.full((2, 2, 2), 9).tolist()
    assert np.shares_memory(result.outputs["y"], slot.outputs["y"])
    slot.release()
    # When another broker answers, the memory is good again
    rig.broker.meet(b"second", keeps_memory=True)
    slot.begin()
    assert slot.current is slot
    slot.release()
    slot.close()


def test_a_single_use_slot_goes_back_when_the_last_view_is_garbage(rig: Rig) -> None:
    slot = rig.pool.lease(LAYOUT)
    lease: SingleUse | None = SingleUse(slot)
    assert lease is not None
    lease.begin()
    lease.release()
    kept = lease.build_result(reply(slot)).outputs["y"][1]
    del lease
    gc.collect()
    assert not slot.closed
    del kept
    gc.collect()
    assert slot.closed
    assert rig.pool.lease(LAYOUT).placement is slot.placement


def test_a_result_that_names_nothing_known_is_the_brokers_fault(rig: Rig) -> None:
    slot = rig.pool.lease(LAYOUT)
    entry = reply(slot)
    for tensor in (
        OutputTensor("y", "FP32", [1], "elsewhere", 0, 4),
        OutputTensor("y", "FP32", [5], "r0", 0, 4),
        OutputTensor("y", "NOPE", [1], "r0", 0, 4),
        OutputTensor("y", "FP32", [1], byte_size=4),
    ):
        entry.message = Result(1, msgspec.Raw(encode([tensor])))
        with pytest.raises((BrokerError, CallerError)):
            slot.build_result(entry)
