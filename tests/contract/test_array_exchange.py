# SPDX-License-Identifier: Apache-2.0
"""Results handed to other array libraries by DLPack: no copy, and memory that is leased for as long as one of theirs lives.

Told with numpy's own from_dlpack, and with torch where it is installed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_broker import FakeBroker

from penstock.clients import CallerError, Client
from penstock.ipc.messages import Register

Import = Callable[[Any], Any]


@pytest.fixture(params=["local", "zmq"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    kinds = {"local": f"unix://{tmp_path}/b.sock", "zmq": f"ipc://{tmp_path}/b.zmq"}
    with FakeBroker(kinds[request.param]) as broker, Client(broker.address) as client:
        yield client
        client.check_invariants()
        assert len(broker.of(Register)) <= 1


@pytest.fixture(params=["numpy", "torch"])
def from_dlpack(request: pytest.FixtureRequest) -> Import:
    library = pytest.importorskip(request.param, reason="needs torch (the extra `torch`)")
    return library.from_dlpack  # type: ignore[no-any-return]


def pointer(tensor: Any) -> int:
    return int(tensor.data_ptr() if hasattr(tensor, "data_ptr") else tensor.ctypes.data)


def writable(tensor: Any) -> bool:
    """Before 2.1, what numpy's own from_dlpack returns is not."""
    return bool(not isinstance(tensor, np.ndarray) or tensor.flags.writeable)


def rows(count: int, start: float = 0.0) -> np.ndarray[Any, Any]:
    return np.arange(start, start + 4 * count, dtype=np.float32).reshape(count, 4)


def use_the_pool(client: Client, model: str = "echo") -> set[int]:
    """Makes many requests, each after the other; returns where their outputs were."""
    return {client.infer(model, {"x": rows(1, start)}).outputs["y"].ctypes.data for start in range(100)}


@pytest.mark.parametrize("model", ["echo", "varied"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_tensor_of_a_result_is_the_slot_s_memory_and_keeps_it(
    client: Client, from_dlpack: Import, model: str, batch: int
) -> None:
    # Given a tensor made of a result, of a known or an unknown size
    result = client.infer(model, {"x": rows(batch, 5)})
    tensor = from_dlpack(result.outputs["y"])
    assert pointer(tensor) == result.outputs["y"].ctypes.data
    where = pointer(tensor)
    # When the result is gone, and many more requests are made
    del result
    gc.collect()
    assert where not in use_the_pool(client)
    # Then the tensor is as it was, even when the client is gone
    assert tensor.tolist() == (rows(batch, 5) * 2).tolist()
    client.close()
    assert tensor.tolist() == (rows(batch, 5) * 2).tolist()


def test_the_slot_is_leased_again_when_the_tensor_is_gone(client: Client, from_dlpack: Import) -> None:
    tensor = from_dlpack(client.infer("echo", {"x": rows(1)}).outputs["y"])
    part = tensor[0, 1:]
    where = pointer(tensor)
    del tensor
    assert where not in use_the_pool(client)
    assert part.tolist() == (rows(1) * 2)[0, 1:].tolist()
    del part
    assert where in use_the_pool(client)


def test_a_tensor_of_a_slot_is_the_slot(client: Client, from_dlpack: Import) -> None:
    with client.buffers("echo", 1) as io:
        x, y = from_dlpack(io.inputs["x"]), from_dlpack(io.outputs["y"])
        io.inputs["x"][:] = 20
        if writable(x):
            x += 1
        client.infer(io)
        assert y.tolist() == ([[42.0] * 4] if writable(x) else [[40.0] * 4])


def test_a_tensor_is_taken_as_an_input(client: Client, from_dlpack: Import) -> None:
    tensor = from_dlpack(rows(2))
    assert np.array_equal(client.infer("echo", {"x": tensor}).outputs["y"], rows(2) * 2)
    assert np.array_equal(client.infer("echo", {"x": tensor[:, [3, 2, 1, 0]]}).outputs["y"], rows(2)[:, ::-1] * 2)


def test_inline_outputs_are_exported_too(from_dlpack: Import) -> None:
    with FakeBroker("tcp://127.0.0.1:0") as broker, Client(broker.address) as client:
        tensor = from_dlpack(client.infer("echo", {"x": rows(1, 3)}).outputs["y"])
        assert tensor.tolist() == (rows(1, 3) * 2).tolist()
        if writable(tensor):
            tensor += 1


# --- text, and names ------------------------------------------------------------------------------------------------------


def test_text_comes_as_bytes_and_as_str(client: Client) -> None:
    result = client.infer("text", {"s": ["grün", b"\xff"]})
    assert result.outputs["t"].tolist() == ["grüngrün".encode(), b"\xff\xff"]
    with pytest.raises(CallerError, match="output 't' has an element that is not text: .*0xff"):
        result.text("t")
    assert result.text("t", "latin-1")[1] == "ÿÿ"
    assert client.infer("text", {"s": "one"}).text("t").tolist() == ["oneone"]
    with pytest.raises(CallerError, match="output 'y' is float32; text is made of BYTES"):
        client.infer("echo", {"x": rows(1)}).text("y")
    with pytest.raises(CallerError, match=r"model 'text': input 's' is BYTES, of str or bytes; element 0 is a int: 3"):
        client.infer("text", {"s": [3]})


def test_a_slot_s_arrays_cannot_be_replaced_by_mistake(client: Client) -> None:
    with client.buffers("echo", 1) as io, client.buffers("varied", 1, shapes={"x": (3,)}) as varied:
        with pytest.raises(TypeError, match=r"written in place: ...\['x'\]\[:\] = values"):
            io.inputs["x"] = rows(1)  # type: ignore[index]
        with pytest.raises(KeyError, match=r"no place for 'y', only for \[\]; outputs of unknown size come with results"):
            varied.outputs["y"]
        with pytest.raises(KeyError, match=r"no place for 'z', only for \['x'\]"):
            io.inputs["z"]
