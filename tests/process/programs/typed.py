# SPDX-License-Identifier: Apache-2.0
"""What a type checker knows of a program that uses the clients. Read by mypy, never run."""

from __future__ import annotations

from asyncio import Task, create_task
from collections.abc import Mapping
from concurrent.futures import as_completed
from typing import Any

from numpy import float32, object_, ones, uint8
from numpy.typing import NDArray
from typing_extensions import assert_type

from penstock.clients import (
    AsyncClient,
    Client,
    Code,
    InferFuture,
    InferResult,
    MemfdRegion,
    ModelInfo,
    PenstockError,
    Placed,
    Slot,
    SystemRegion,
    TensorInfo,
)


def with_threads() -> None:
    with Client(name="typed") as client:
        assert_type(client, Client)
        info = client.model("digits")
        assert_type(info, ModelInfo)
        assert_type(info.inputs, tuple[TensorInfo, ...])
        with client.buffers(info, batch=8) as io:
            assert_type(io, Slot)
            assert_type(io.inputs, Mapping[str, NDArray[Any]])
            io.inputs["image"][:] = ones((8, 1, 8, 8), float32)
            result = client.infer(io, timeout_s=1.0)
            assert_type(result, InferResult)
            assert_type(result.outputs["scores"], NDArray[Any])
            assert_type(result.text("words"), NDArray[object_])
        future = client.submit("digits", {"image": [1.0]}, ["scores"])
        assert_type(future, InferFuture)
        assert_type(future.result(1), InferResult)
        assert_type(client.submit_many([io]), list[InferFuture])
        for done in as_completed([future]):
            assert_type(done.result(), InferResult)
        assert_type(client.is_ready(), bool)
        assert_type(client.statistics("digits"), dict[str, Any])
        assert_type(client.index(), list[dict[str, Any]])


def with_memory(client: Client) -> None:
    with MemfdRegion("mine", 64) as mine, SystemRegion.create("ours", "/ours", 64) as ours:
        assert_type(mine, MemfdRegion)
        assert_type(ours.key, str)
        assert_type(mine.array, NDArray[uint8])
        assert_type(mine.tensor("FP32", [1, 4]), Placed)
        client.infer("identity_fp32", {"INPUT0": mine.tensor("FP32", [1])}, {"OUTPUT0": ours.tensor("FP32", [1])})


def with_errors(client: Client) -> None:
    try:
        client.connect()
    except PenstockError as error:
        assert_type(error.code, Code)


async def with_a_loop() -> None:
    async with AsyncClient() as client:
        assert_type(client, AsyncClient)
        assert_type(await client.model("digits"), ModelInfo)
        async with client.buffers("digits", batch=8) as io:
            assert_type(io, Slot)
        assert_type(await client.buffers("digits", batch=8), Slot)
        assert_type(await client.infer(io), InferResult)
        task = create_task(client.infer("digits", {"image": [1.0]}))
        assert_type(task, Task[InferResult])
        assert_type(await client.regions(), list[dict[str, Any]])


def with_mistakes(client: Client, info: ModelInfo, io: Slot) -> None:
    client.infer(info, timeout=1)  # type: ignore[call-arg]
    client.infer(info, timeout_s="1")  # type: ignore[arg-type]
    client.infer(7)  # type: ignore[arg-type]
    io.inputs["image"] = ones(3)  # type: ignore[index]
    info.name = "other"  # type: ignore[misc]
