# SPDX-License-Identifier: Apache-2.0
"""Results: the outputs of a request as numpy arrays, most of them views on memory that nobody copied."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..ipc.errors import BrokerError, Code, invalid
from ..ipc.messages import Explanation, OutputTensor
from ..ipc.tensors import byte_size, deserialize_bytes, numpy_dtype

Array = npt.NDArray[Any]
Outputs = MappingType[str, Array]
_decoder = msgspec.msgpack.Decoder(list[OutputTensor])


class InferResult:
    """`outputs`: name -> array. `version`: of the model that answered. `explain`: how it was served, where that was asked.

    Arrays in a slot are views on that slot and show its next result once it is used again. All others stay as they are for
    as long as they are held, or anything made of them without copying (`torch.from_dlpack`). BF16 comes as its raw bits,
    uint16; BYTES as an object array of bytes.
    """

    __slots__ = ("explain", "outputs", "version")

    def __init__(self, outputs: Outputs, version: int, explain: Explanation | None) -> None:
        self.outputs = outputs
        self.version = version
        self.explain = explain

    def text(self, name: str, encoding: str = "utf-8") -> npt.NDArray[np.object_]:
        """A BYTES output as an array of str. Raises CallerError for another, and for what is not text in that encoding."""
        array = self.outputs[name]
        if array.dtype != np.object_:
            raise invalid(f"output '{name}' is {array.dtype}; text is made of BYTES")
        found = np.empty(array.size, np.object_)
        try:
            found[:] = [element.decode(encoding) for element in array.ravel()]
        except UnicodeDecodeError as error:
            raise invalid(f"output '{name}' has an element that is not text: {error}") from error
        return found.reshape(array.shape)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in self.outputs.items())
        return f"<InferResult {shapes}; version {self.version}>"


def outputs_of(encoded: bytes, memory: MappingType[str, Array], brought: Array | Sequence[bytes] | None) -> Outputs:
    """The arrays that a Result names: in regions (`memory`: name -> uint8 array), or in what the Result brought along.

    Raises BrokerError when it names what is not there.
    """
    outputs: dict[str, Array] = {}
    parts = iter(() if brought is None or isinstance(brought, np.ndarray) else brought)
    try:
        for tensor in _decoder.decode(encoded):
            if tensor.region:
                content = memory[tensor.region][tensor.offset : tensor.offset + tensor.byte_size]
            elif isinstance(brought, np.ndarray):
                content = brought[tensor.offset : tensor.offset + tensor.byte_size]
            else:
                # copied, since bytes cannot be written: like every other array this one can be, and so DLPack takes it
                content = np.frombuffer(bytearray(next(parts)), np.uint8) if tensor.byte_size else np.empty(0, np.uint8)
            outputs[tensor.name] = _array(tensor, content)
    except (msgspec.DecodeError, KeyError, StopIteration, ValueError) as error:
        raise BrokerError(f"the broker's result makes no sense: {error!r}", Code.INTERNAL) from error
    return MappingProxyType(outputs)


def _array(tensor: OutputTensor, content: Array) -> Array:
    if tensor.datatype == "BYTES":
        return deserialize_bytes(content.tobytes(), tensor.shape, tensor.name)
    if len(content) != byte_size(tensor.datatype, tensor.shape):
        raise ValueError(f"output '{tensor.name}' {tensor.datatype} {tensor.shape} in {len(content)} bytes")
    return content.view(numpy_dtype(tensor.datatype)).reshape(tensor.shape)
