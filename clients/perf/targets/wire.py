# SPDX-License-Identifier: Apache-2.0
"""What the links http and grpc differ in: how a server is asked, and how a request gets there and its answer back.

A request is built once, as the bytes that go over the link, and sent over and over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from ....ipc.errors import CallerError, Code, PenstockError
from ...models import Array, ModelInfo, TensorInfo
from ...regions import Placed, Region
from .kserve import Document


def lacking(link: str, error: Exception) -> CallerError:
    """What to install, where importing it has failed with this."""
    return CallerError(
        f"--link {link} needs tritonclient, which cannot be imported ({error}): pip install 'penstock[gateway]'",
        Code.UNSUPPORTED,
    )


class InputPart(NamedTuple):
    """An input of a request."""

    spec: TensorInfo
    array: Array
    placed: Placed | None  # where it lies; None: it travels with the request


class OutputPart(NamedTuple):
    """An output of a request."""

    name: str
    placed: Placed | None  # where it is to be put; None: it comes with the answer


class Found(NamedTuple):
    """An output of an answer."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes | memoryview | None  # None: not here, so it must lie where the request said


class Reply(NamedTuple):
    """What came for a request: an answer of the link's own kind, or what went wrong with this request alone."""

    number: int
    read_ns: int  # when it was read, CLOCK_MONOTONIC
    answer: Any
    error: PenstockError | None = None


class Flights(Protocol):
    """Requests on their way, of one thread. Closing it forgets those that are in flight."""

    def send(self, requests: Sequence[tuple[int, bytes]]) -> None:
        """Sends them under their numbers. Raises BrokerError where the server cannot be reached."""
        ...

    def take(self, timeout_s: float | None) -> list[Reply]:
        """Waits for the first answer, and returns all that are there; none where the time has passed (None: no limit)."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class Wire(Protocol):
    """A server over one of the links. What it refuses is raised as PenstockError; BrokerError where it is not there."""

    url: str

    def server(self) -> Document: ...
    def metadata(self, model: str, version: int) -> Document: ...
    def configuration(self, model: str, version: int) -> Document: ...
    def statistics(self, model: str, version: int) -> Document: ...

    def register(self, region: Region) -> None:
        """A SystemRegion or a CudaRegion, under its name."""
        ...

    def unregister(self, region: Region) -> None: ...

    def message(self, model: ModelInfo, inputs: Sequence[InputPart], outputs: Sequence[OutputPart]) -> bytes:
        """The request as it goes over the link."""
        ...

    def flights(self, at_once: int) -> Flights:
        """Ready to have so many requests in flight."""
        ...

    def found(self, answer: Any) -> list[Found]:
        """The outputs of a Reply's answer. Raises PenstockError where the server refused the request."""
        ...

    def close(self) -> None: ...
