# SPDX-License-Identifier: Apache-2.0
"""The error tree: whose fault it is (the class), and which code goes on the wire (the attribute).

Codes are Triton's (`TRITONSERVER_Error_Code` without its prefix), plus OVERLOADED and DEADLINE_EXCEEDED where Triton is vague;
the gateway maps those two to UNAVAILABLE. An error crosses a process boundary as (code, message, fault) and is raised on the
other side as the same class, see `from_wire`.
"""

from __future__ import annotations

from enum import Enum


class Code(str, Enum):
    """The error codes of the protocol."""

    INVALID_ARG = "INVALID_ARG"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    UNAVAILABLE = "UNAVAILABLE"
    UNSUPPORTED = "UNSUPPORTED"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"
    OVERLOADED = "OVERLOADED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"


class PenstockError(Exception):
    """Every error Penstock raises on purpose. `code` is what goes on the wire, `fault` names the subtree."""

    fault = "broker"
    default_code = Code.INTERNAL

    def __init__(self, message: str, code: Code | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code

    def __str__(self) -> str:
        return f"{self.code.value}: {self.message}"


class CallerError(PenstockError):
    """The request or the program that made it is at fault; the same call will fail again."""

    fault = "caller"
    default_code = Code.INVALID_ARG


class ModelError(PenstockError):
    """The model's code or its worker failed: it raised, died, hung or is not loaded."""

    fault = "model"
    default_code = Code.INTERNAL


class MachineError(PenstockError):
    """The machine refused a resource: memory, descriptors, /dev/shm."""

    fault = "machine"
    default_code = Code.UNAVAILABLE


class BrokerError(PenstockError):
    """The broker is overloaded, stopping, gone, or speaks another protocol."""

    fault = "broker"
    default_code = Code.UNAVAILABLE


_BY_FAULT: dict[str, type[PenstockError]] = {kind.fault: kind for kind in (CallerError, ModelError, MachineError, BrokerError)}


def invalid(message: str) -> CallerError:
    """A caller's mistake in an argument."""
    return CallerError(message, Code.INVALID_ARG)


def not_found(message: str) -> CallerError:
    """A name that the caller gave and nobody knows."""
    return CallerError(message, Code.NOT_FOUND)


def from_wire(code: str, message: str, fault: str) -> PenstockError:
    """Rebuilds an error received as (code, message, fault); unknown words become an INTERNAL broker error."""
    try:
        known = Code(code)
    except ValueError:
        known = Code.INTERNAL
    return _BY_FAULT.get(fault, BrokerError)(message, known)
