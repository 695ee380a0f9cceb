# SPDX-License-Identifier: Apache-2.0
"""DLPack capsules for memory that numpy cannot show: the structures of dlpack.h, made in Python.

A capsule owns one count of its keeper, a Python object; who takes the tensor over gives that back by calling the deleter, in
whichever thread and with or without the interpreter's lock. A capsule that nobody took calls it when it goes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import CFUNCTYPE, POINTER, PYFUNCTYPE, Structure, c_char_p, c_int, c_int32, c_int64, c_void_p, py_object
from typing import Any

import numpy as np

VERSION = (1, 0)
"""The DLPack version of versioned capsules. Consumers of a later minor version understand it."""
CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
"""numpy's kind -> DLDataTypeCode."""


class _Tensor(Structure):
    """DLTensor."""

    _fields_ = (
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(Structure):
    """DLManagedTensor."""

    _fields_ = (("tensor", _Tensor), ("keeper", c_void_p), ("deleter", c_void_p))


class _Versioned(Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("keeper", c_void_p),
        ("deleter", c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


# Prototypes of our own: those of ctypes.pythonapi belong to everybody.
_new_capsule = PYFUNCTYPE(py_object, c_void_p, c_char_p, c_void_p)(("PyCapsule_New", ctypes.pythonapi))
_is_valid = PYFUNCTYPE(c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
_hold = PYFUNCTYPE(None, py_object)(("Py_IncRef", ctypes.pythonapi))
_let_go = PYFUNCTYPE(None, c_void_p)(("Py_DecRef", ctypes.pythonapi))

_PLAIN, _VERSIONED = b"dltensor", b"dltensor_versioned"
_FORMS: dict[bytes, type[_Managed | _Versioned]] = {_PLAIN: _Managed, _VERSIONED: _Versioned}


def _release(address: int, form: Any, let_go: Any = _let_go) -> None:
    let_go(form.from_address(address).keeper)


# Bound as defaults, since a module's names are gone when the interpreter ends, and tensors may live longer.
def _released(address: int, form: Any = _Managed, release: Any = _release) -> None:
    release(address, form)


def _versioned_released(address: int, form: Any = _Versioned, release: Any = _release) -> None:
    release(address, form)


def _capsule_gone(
    capsule: int, forms: Any = _FORMS, is_valid: Any = _is_valid, pointer: Any = _pointer, release: Any = _release
) -> None:
    """One that was taken over has another name by then."""
    for name, form in forms.items():
        if is_valid(capsule, name):
            release(pointer(capsule, name), form)


_delete = CFUNCTYPE(None, c_void_p)(_released)
_delete_versioned = CFUNCTYPE(None, c_void_p)(_versioned_released)
_forget = PYFUNCTYPE(None, c_void_p)(_capsule_gone)
for _kept in (_delete, _delete_versioned, _forget, _PLAIN, _VERSIONED):
    _hold(_kept)  # for ever: capsules and consumers keep their addresses


class _Keeper:
    """What a consumer's structure points to: itself, its numbers, and the memory's owner."""

    __slots__ = ("managed", "numbers", "owner")

    def __init__(self, managed: Any, numbers: Any, owner: object) -> None:
        self.managed = managed
        self.numbers = numbers
        self.owner = owner


def capsule(
    owner: object, address: int, dtype: np.dtype[Any], shape: Sequence[int], device: tuple[int, int], versioned: bool
) -> object:
    """A DLPack capsule of a dense tensor, which keeps `owner` for as long as somebody uses it. `device`: type and number."""
    numbers = (c_int64 * (2 * len(shape) or 1))(*shape, *_strides(shape))
    managed = _Versioned(*VERSION) if versioned else _Managed()
    tensor = managed.tensor
    tensor.data = address
    tensor.device_type, tensor.device_id = device
    tensor.ndim = len(shape)
    tensor.code, tensor.bits, tensor.lanes = CODES[dtype.kind], dtype.itemsize * 8, 1
    tensor.shape = ctypes.cast(numbers, POINTER(c_int64))
    tensor.strides = ctypes.cast(ctypes.addressof(numbers) + 8 * len(shape), POINTER(c_int64))
    keeper = _Keeper(managed, numbers, owner)
    managed.keeper = id(keeper)
    managed.deleter = ctypes.cast(_delete_versioned if versioned else _delete, c_void_p)
    name = _VERSIONED if versioned else _PLAIN
    made: object = _new_capsule(ctypes.addressof(managed), name, ctypes.cast(_forget, c_void_p))
    _hold(keeper)
    return made


def _strides(shape: Sequence[int]) -> list[int]:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return strides
