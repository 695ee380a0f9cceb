# SPDX-License-Identifier: Apache-2.0
"""What an inference request over HTTP asks: its JSON and the binary tensor data behind it, as the neutral request. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import UNSET

from ....ipc.errors import invalid
from ....ipc.tensors import DATATYPES, ITEM_BYTES, elements
from ..forwarding import RESERVED_PREFIX
from ..ranges import MOST, check_count, check_range
from ..ranges import unsigned as broker_number
from ..requests import Bytes, InferRequest, Input, InRegion, Output
from .infer_document import (
    Document,
    GivenInput,
    Region,
    WantedOutput,
    boolean,
    read,
    read_apart,
    unsigned,
)
from .json_tensors import content_of
from .json_text import NOT_READABLE, refused

LENGTH_HEADER = "Inference-Header-Content-Length"
NO_OUTPUTS: Mapping[str, bool] = {}


class Form(NamedTuple):
    """How outputs are to be written: each binary or as JSON; others than those that are named by `otherwise`."""

    binary: Mapping[str, bool] = NO_OUTPUTS
    otherwise: bool = False


class Asked(NamedTuple):
    """A request, and the form of its response."""

    request: InferRequest
    form: Form


def header_size(value: str | None, body_size: int) -> int | None:
    """Bytes of the JSON before binary tensor data, from the header that says so; None: the whole body is JSON.

    0: the body is an input's raw content, also when there is no body. Raises CallerError for what is no such number.
    """
    if value is None:
        return None if body_size else 0
    try:
        size = int(value)
    except ValueError:
        raise invalid(f"Unable to parse {LENGTH_HEADER}, got: {value}") from None
    if not -(2**31) <= size < 2**31:
        raise invalid(f"Unable to parse {LENGTH_HEADER}, value is out of range [-2147483648, 2147483647], got: {value}")
    if not 0 <= size <= body_size:
        raise invalid(f"inference header size should be in range (0, {body_size}), got: {size}")
    return size


def asked(written: bytes, binary: memoryview | None, model: str, version: int, forwarded: Mapping[str, str]) -> Asked:
    """The request of a JSON text. `binary`: what follows it; None: that is not said. Raises CallerError in Triton's words."""
    try:
        return _asked(read(written), binary, model, version, forwarded)
    except NOT_READABLE:  # some data, which is read last
        return _asked(read_apart(written), binary, model, version, forwarded)


def _asked(
    document: Document, binary: memoryview | None, model: str, version: int, forwarded: Mapping[str, str]
) -> Asked:  # fmt: skip
    settings = _Settings.of(document.parameters)
    check_count(document.inputs, "inputs", model)  # each of which costs time, and memory
    named = f"[request id: {document.id or '<id_unknown>'}] "
    inputs, rest = _inputs(document.inputs, binary, model, named)
    if rest:
        raise invalid(f"unexpected additional input data for model '{model}'")
    outputs = [_output(wanted) for wanted in document.outputs]
    request = InferRequest(
        model, version, document.id, inputs, outputs, broker_number(settings.priority), broker_number(settings.timeout_us),
        {**settings.custom, **forwarded} if forwarded else settings.custom,
    )  # fmt: skip
    form = {wanted.name: wanted.parameters.binary_data is True for wanted in document.outputs}
    return Asked(request, Form(form, settings.binary_data_output and not form))


# --- parameters of the request ------------------------------------------------------------------------------------------------


class _Settings(NamedTuple):
    priority: int = 0
    timeout_us: int = 0
    binary_data_output: bool = False
    custom: Mapping[str, Any] = {}

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> _Settings:
        if not parameters:
            return _NO_SETTINGS
        priority = timeout_us = 0
        is_binary = False
        custom: dict[str, Any] = {}
        for name, value in parameters.items():
            if name == "priority":
                priority = unsigned(value, name)
            elif name == "timeout":
                timeout_us = unsigned(value, name)
            elif name == "binary_data_output":
                is_binary = boolean(value, name)
            else:
                custom[name] = _custom(name, value)
        return cls(priority, timeout_us, is_binary, custom)


_NO_SETTINGS = _Settings()


def _custom(name: str, value: Any) -> Any:
    if name == "sequence_id":
        if type(value) is str or (type(value) is int and 0 <= value < 2**64):
            return value
        raise refused("Unable to parse 'sequence_id': attempt to access JSON non-string as string")
    if name in {"sequence_start", "sequence_end"}:
        return boolean(value, name)
    if name.startswith(RESERVED_PREFIX):
        raise invalid(
            f"parameter keys starting with '{RESERVED_PREFIX}' are reserved for Triton usage and should not be specified."
        )
    if not isinstance(value, str | int | float):  # a boolean is an int
        raise invalid(f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'.")
    return value


# --- inputs -------------------------------------------------------------------------------------------------------------------


def _inputs(
    given: Sequence[GivenInput], binary: memoryview | None, model: str, named: str
) -> tuple[list[Input], memoryview | None]:
    inputs: list[Input] = []
    for tensor in given:
        _check_source(tensor)
        _check_size(tensor)
        content: Bytes | InRegion
        size = tensor.parameters.binary_data_size
        if tensor.parameters.shared_memory_region is not UNSET:
            content = _place(tensor.parameters)
        elif size is not UNSET:
            content, binary = _taken(tensor, size, binary, model)
        else:
            content = content_of(tensor, named, model)
        inputs.append(Input(tensor.name, tensor.datatype, tensor.shape, content))
    return inputs, binary


def _check_source(tensor: GivenInput) -> None:
    parameters = tensor.parameters
    found = [
        f"'{source}'"
        for source, is_there in (
            ("data", tensor.has_data),
            ("binary_data_size", parameters.binary_data_size is not UNSET),
            ("shared_memory_region", parameters.shared_memory_region is not UNSET),
        )
        if is_there
    ]
    if len(found) != 1:
        raise invalid(
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            f"'shared_memory_region' in 'parameters'. But {'set ' + ' '.join(found) if found else 'no field is set'}"
        )


def _check_size(tensor: GivenInput) -> None:
    if tensor.datatype not in DATATYPES:
        raise invalid(f"invalid datatype for input {tensor.name}")
    count = elements(tensor.shape)
    if count > MOST or max(tensor.shape, default=0) > MOST:
        raise invalid(f"shape of input '{tensor.name}' causes total element count to exceed maximum size of {MOST}")
    if count * ITEM_BYTES.get(tensor.datatype, 1) > MOST:
        raise invalid(f"byte size overflow for input '{tensor.name}'")


def _taken(tensor: GivenInput, size: int, binary: memoryview | None, model: str) -> tuple[memoryview, memoryview]:
    if binary is None:
        raise invalid(
            "must specify valid 'Infer-Header-Content-Length' in request header and 'binary_data_size' when passing inputs in "
            "binary data format"
        )
    if size > len(binary):
        raise invalid(
            f"unexpected size for input '{tensor.name}', expecting {size - len(binary)} additional bytes for model '{model}'"
        )
    return binary[:size], binary[size:]


def _place(region: Region) -> InRegion:
    name = region.shared_memory_region
    assert name is not UNSET
    return check_range(InRegion(str(name), region.shared_memory_offset, region.shared_memory_byte_size))


# --- outputs ------------------------------------------------------------------------------------------------------------------


def _output(wanted: WantedOutput) -> Output:
    parameters = wanted.parameters
    if parameters.shared_memory_region is UNSET:
        return Output(wanted.name, None, 0 if parameters.classification is UNSET else broker_number(parameters.classification))
    if parameters.classification is not UNSET:
        raise invalid("Output can't set both 'shared_memory_region' and 'classification'")
    if parameters.binary_data is True:
        raise invalid("Output can't set both 'shared_memory_region' and 'binary_data'")
    return Output(wanted.name, _place(parameters))
