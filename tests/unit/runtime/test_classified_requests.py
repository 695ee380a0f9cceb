# SPDX-License-Identifier: Apache-2.0
"""A request that wants an output's classes: what is refused, what the worker is told, and what the reply says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from msgspec import Raw
from scripted import ScriptedBroker, ScriptedLink, link_of

from penstock.ipc.codec import encode
from penstock.ipc.messages import (
    Failed,
    Goodbye,
    Infer,
    InputTensor,
    ItemOutput,
    ItemResult,
    OutputPlace,
    OutputSlice,
    OutputTensor,
    Placement,
    Result,
)
from penstock.ipc.regions import create_memfd

MODEL = """
name: "m"
backend: "fake"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: %s dims: [ 2 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
X = InputTensor("x", "FP32", [1, 2], "r", 0, 8)


@contextmanager
def asked(datatype: str, place: OutputPlace) -> Iterator[tuple[ScriptedBroker, ScriptedLink]]:
    """A client that has sent one request with this place for its output; it leaves afterwards."""
    broker = ScriptedBroker(MODEL % datatype)
    broker.start()
    client = broker.client()
    broker.say(client, Infer(1, "m", Raw(encode([X])), Raw(encode([place]))))
    yield broker, link_of(client)
    broker.say(client, Goodbye())


@pytest.mark.parametrize("datatype", ["BOOL", "FP16", "BF16", "STRING"])
def test_datatypes_that_triton_does_not_classify(datatype: str) -> None:
    with asked(f"TYPE_{datatype}", OutputPlace("y", classification=3)) as (_, link):
        (failed,) = link.take(Failed)

    name = "BYTES" if datatype == "STRING" else datatype
    assert (failed.code, failed.message) == (
        "INVALID_ARG",
        f"output 'y' of model 'm': class result not available for output due to unsupported type '{name}'",
    )


def test_classes_have_no_place_in_a_region() -> None:
    with asked("TYPE_FP32", OutputPlace("y", "r", 64, 64, classification=3)) as (broker, link):
        (failed,) = link.take(Failed)
        assert broker.batches() == []

    assert failed.message == "output 'y' of model 'm': Output can't set both 'shared_memory_region' and 'classification'"


def test_the_worker_is_asked_for_classes_and_the_reply_is_text() -> None:
    # Given a request for three classes
    with asked("TYPE_FP32", OutputPlace("y", classification=3)) as (broker, link):
        (batch,) = broker.batches()
        (placement,) = (msgspec.msgpack.decode(item, type=Placement) for item in batch.items)
        assert placement.outputs == [OutputSlice(0, -1, 0, 0, 3)]

        # When the worker answers
        broker.processes[0].link.fds.append(create_memfd("classes", 30))
        broker.finish(batch, items=[ItemResult(outputs=[ItemOutput(0, [1, 2], 30, 0)], fds=1)], fds=1)

        # Then the output is a tensor of text, whatever the model computes
        (result,) = link.take(Result)
        assert msgspec.msgpack.decode(result.outputs, type=list[OutputTensor]) == [
            OutputTensor("y", "BYTES", [1, 2], byte_size=30)
        ]
