# SPDX-License-Identifier: Apache-2.0
"""What programs have in place of numpy arrays, as numpy arrays: nothing is copied that can be looked at where it lies.

DLPack's device numbers are those of dlpack.h. No array library is imported here: an object brings what is needed along.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ipc.errors import CallerError, invalid
from ..ipc.tensors import datatype_of, numpy_dtype, serialize_bytes
from .device_arrays import DeviceArray, is_on_device, on_device
from .models import Array, ModelInfo, TensorInfo

AnyArray = Array | DeviceArray

CPU, CUDA_HOST, ROCM_HOST, CUDA_MANAGED = 1, 3, 11, 13
DEVICES = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 14: "oneapi", 15: "webgpu", 16: "hexagon"}

REFUSALS = (ValueError, TypeError, OverflowError, BufferError, RuntimeError)
"""What numpy and others raise for what cannot be an array."""
SINGLE = (str, bytes, bool, int, float)


def to_array(model: ModelInfo, spec: TensorInfo, value: object) -> AnyArray:
    """The value as an array that the input takes. Raises CallerError naming model, tensor, what is expected and what was given.

    What is no array yet takes the input's own type, and a single value the shape of one element. Arrays are never converted: a
    wrong dtype is a mistake to be heard of.
    """
    try:
        array, given = as_array(value, spec.datatype)
    except (*REFUSALS, CallerError) as error:
        why = error.message if isinstance(error, CallerError) else error
        raise invalid(
            f"model '{model.name}': input '{spec.name}' ({spec.datatype}) cannot be made of what was given: {why}"
        ) from error
    if given != spec.datatype and not (spec.datatype == "BF16" and given == "UINT16"):
        kind = getattr(value, "dtype", array.dtype)  # in the words of the library that it comes from
        raise invalid(f"model '{model.name}': input '{spec.name}' is {spec.datatype}, given is {kind} ({given})")
    expected = ((-1,) if model.max_batch_size else ()) + spec.dims
    if isinstance(value, SINGLE) and not array.ndim and all(dim in (-1, 1) for dim in expected):
        return array.reshape((1,) * len(expected))
    if len(expected) != array.ndim or any(dim not in (-1, size) for dim, size in zip(expected, array.shape, strict=True)):
        raise invalid(f"model '{model.name}': input '{spec.name}' has shape {list(expected)}, given is {list(array.shape)}")
    return array


def device_of(model: ModelInfo, arrays: Mapping[str, AnyArray]) -> int | None:
    """The GPU that inputs lie on, in this process's numbering; None: no input does. Raises CallerError for several."""
    on_gpus = {name: array.ordinal for name, array in arrays.items() if isinstance(array, DeviceArray)}
    if not on_gpus:
        return None
    if len(set(on_gpus.values())) > 1:
        places = ", ".join(f"'{name}' on cuda:{ordinal}" for name, ordinal in on_gpus.items())
        raise invalid(f"model '{model.name}': inputs on GPUs must all be on one, given are {places}")
    texts = [spec.name for spec in model.inputs if spec.datatype == "BYTES" and spec.name in arrays]
    if texts:
        raise invalid(
            f"model '{model.name}': input '{texts[0]}' is BYTES, which cannot lie on a GPU: give all inputs from the CPU"
        )
    return next(iter(on_gpus.values()))


def as_array(value: object, datatype: str) -> tuple[AnyArray, str]:
    """The value as an array, on a GPU if it is there, and its datatype. BF16 comes as its raw uint16 bits.

    What has no dtype of its own (lists, scalars, text) takes that of `datatype`. Raises one of REFUSALS, or CallerError.
    """
    if isinstance(value, np.ndarray):
        array = value
    elif is_on_device(value):
        return _on_device(value)
    else:
        array = _looked_at(value, datatype)
        if _is_torch_bfloat16(value):
            return array, "BF16"
    if array.dtype.kind == "V" and array.dtype.name == "bfloat16":  # of the package ml_dtypes, which jax and others use
        return array.view(np.uint16), "BF16"
    return array, datatype_of(array)


def _on_device(value: Any) -> tuple[DeviceArray, str]:
    if _is_torch_bfloat16(value):
        bits = on_device(value.view(sys.modules["torch"].int16))  # numpy has no such type
        assert bits is not None
        return bits.view(np.uint16), "BF16"
    array = on_device(value)
    assert array is not None
    return array, datatype_of(np.empty(0, array.dtype))


def _looked_at(value: Any, datatype: str) -> Array:
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(value)
    if hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
        return np.asarray(value)
    if datatype != "BYTES" and _has_buffer(value):
        return np.asarray(memoryview(value))
    return _converted(value, datatype)


def _converted(value: object, datatype: str) -> Array:
    if datatype == "BF16":
        raise TypeError("BF16 is given as its raw bits in a uint16 array, or as an array of bfloat16")
    array = np.asarray(value, numpy_dtype(datatype))
    if array.dtype.kind in "iub" and np.asarray(value).dtype.kind in "fc":
        raise TypeError(f"{datatype} takes no fractions")
    return array


def _from_dlpack(value: Any) -> Array:
    kind, number = value.__dlpack_device__()
    if kind not in (CPU, CUDA_HOST, ROCM_HOST, CUDA_MANAGED):
        device = f"{DEVICES.get(kind, f'DLPack device type {kind}')}:{number}"
        raise BufferError(
            f"it lies on {device}; copy it to the CPU first (torch: tensor.cpu(), cupy: cupy.asnumpy(array), "
            "jax: jax.device_get(array))"
        )
    if _is_torch_bfloat16(value):
        if value.requires_grad:
            raise BufferError("it requires a gradient: use tensor.detach()")
        bits: Array = np.from_dlpack(value.view(sys.modules["torch"].int16))  # numpy has no such type, nor has DLPack's reader
        return bits.view(np.uint16)
    try:
        array: Array = np.from_dlpack(value)
    except REFUSALS as refusal:
        if not hasattr(value, "__array__"):
            raise
        try:
            return np.asarray(value)  # bool before numpy 1.25, bfloat16 of jax
        except REFUSALS:
            raise refusal from None
    return array


def _is_torch_bfloat16(value: object) -> bool:
    return str(getattr(value, "dtype", "")) == "torch.bfloat16"


def _has_buffer(value: Any) -> bool:
    try:
        memoryview(value).release()
    except TypeError:
        return False
    return True


def text_content(array: Array, what: str) -> bytes:
    """A BYTES tensor's content. Raises CallerError naming `what` and the element that is neither str nor bytes."""
    values = array.ravel().tolist()
    for at, value in enumerate(values):
        if not isinstance(value, (str, bytes)):
            given = f"a {type(value).__name__}: {value!r:.50}"
            raise invalid(f"{what} is BYTES, of str or bytes; element {at} is {given}")
    try:
        return serialize_bytes(values)
    except UnicodeEncodeError as error:
        raise invalid(f"{what} is BYTES, and has text that is no UTF-8: {error}") from error
