# SPDX-License-Identifier: Apache-2.0
"""The parameters of requests and tensors, with their types: the texts are those of Triton 2.51 (its infer_handler.cc). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ....ipc.errors import CallerError, Code, invalid
from ..forwarding import RESERVED_PREFIX
from ..ranges import unsigned
from ..requests import InRegion

LONGEST_SEQUENCE_ID = 128
WANTS_EMPTY_FINAL = "triton_enable_empty_final_response"
CUSTOM = frozenset({"int64_param", "bool_param", "string_param", "double_param"})


class Parameters(NamedTuple):
    """What a request's parameters ask for."""

    priority: int = 0
    timeout_us: int = 0
    custom: Mapping[str, Any] = {}


NONE = Parameters()


def parameters_of(given: Any) -> Parameters:
    """Those of a request. Raises CallerError for a type that is not its parameter's."""
    found: dict[str, Any] = {}
    custom: dict[str, Any] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        check = _KNOWN.get(name)
        if check is not None:
            value = check(name, kind, parameter)
            if name in _MEANT:
                found[_MEANT[name]] = unsigned(value)
        elif name.startswith(RESERVED_PREFIX):
            raise invalid(
                f"parameter keys starting with '{RESERVED_PREFIX}' are reserved for Triton usage. Only the following keys "
                f"starting with '{RESERVED_PREFIX}' are allowed: {WANTS_EMPTY_FINAL}"
            )
        elif kind not in CUSTOM:
            raise invalid(f"invalid value type for '{name}' parameter, expected int64_param, bool_param, or string_param.")
        else:
            custom[name] = getattr(parameter, kind)
    return Parameters(custom=custom, **found)


def _sequence_id(name: str, kind: str | None, parameter: Any) -> Any:
    value = _typed(name, kind, parameter, "int64_param", "string_param")
    if kind == "string_param" and len(value) > LONGEST_SEQUENCE_ID:
        raise CallerError(f"string correlation ID cannot be longer than {LONGEST_SEQUENCE_ID} characters", Code.UNSUPPORTED)
    return value


def _priority(name: str, kind: str | None, parameter: Any) -> Any:
    value = _typed(name, kind, parameter, "int64_param", "uint64_param")
    if value < 0:
        raise invalid(f"invalid value for '{name}', expected value >= 0.")
    return value


def _boolean(name: str, kind: str | None, parameter: Any) -> Any:
    return _typed(name, kind, parameter, "bool_param")


def _timeout(name: str, kind: str | None, parameter: Any) -> Any:
    return _typed(name, kind, parameter, "int64_param")


def _typed(name: str, kind: str | None, parameter: Any, *kinds: str) -> Any:
    if kind not in kinds:
        raise invalid(f"invalid value type for '{name}' parameter, expected {' or '.join(kinds)}.")
    return getattr(parameter, kind)


_KNOWN: dict[str, Callable[[str, str | None, Any], Any]] = {
    "sequence_id": _sequence_id,  # models with sequences are not served here; where there are none, Triton only checks it
    "sequence_start": _boolean,
    "sequence_end": _boolean,
    "priority": _priority,
    "timeout": _timeout,
    WANTS_EMPTY_FINAL: _boolean,  # of models with several responses: one response is always the final one
}
_MEANT = {"priority": "priority", "timeout": "timeout_us"}


# --- of tensors ---------------------------------------------------------------------------------------------------------------


def place_of(tensor: Any) -> InRegion | None:
    """Where a tensor lies, if it lies in a region. Raises CallerError."""
    parameters = tensor.parameters
    region = _of_tensor(tensor, "shared_memory_region", "string_param")
    for name in ("shared_memory_offset", "shared_memory_byte_size"):
        if region is None and name in parameters:
            raise invalid(f"'{name}' can not be specified without 'shared_memory_region' parameter for tensor '{tensor.name}'")
    if region is None:
        return None
    offset = _of_tensor(tensor, "shared_memory_offset", "int64_param")
    byte_size = _of_tensor(tensor, "shared_memory_byte_size", "int64_param")
    if byte_size is None:
        raise invalid(
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor "
            f"'{tensor.name}'"
        )
    return InRegion(region, offset or 0, byte_size)


def classification_of(wanted: Any, place: InRegion | None) -> int:
    """How many classes an output is wanted as; 0: as itself. Raises CallerError."""
    if "classification" not in wanted.parameters:
        return 0
    parameter = wanted.parameters["classification"]
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise invalid("invalid value type for 'classification' parameter, expected int64_param")
    if parameter.int64_param <= 0:
        raise invalid("invalid value for 'classification' parameter, expected >= 0")
    if place is not None:
        raise invalid("output can't set both 'shared_memory_region' and 'classification'")
    count: int = parameter.int64_param
    return count


def _of_tensor(tensor: Any, name: str, kind: str) -> Any:
    if name not in tensor.parameters:
        return None
    parameter = tensor.parameters[name]
    if parameter.WhichOneof("parameter_choice") != kind:
        raise invalid(f"invalid value type for '{name}' parameter for tensor '{tensor.name}', expected {kind}.")
    return getattr(parameter, kind)
