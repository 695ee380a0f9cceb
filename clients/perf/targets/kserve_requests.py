# SPDX-License-Identifier: Apache-2.0
"""The prepared requests of one point, over a link that speaks KServe v2: sent, taken back, and looked at."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from ....ipc.errors import BrokerError, Code, PenstockError
from ....ipc.tensors import byte_size, deserialize_bytes, elements, numpy_dtype
from ...models import Array, ModelInfo
from ...regions import Placed
from ...results import InferResult
from ..target import Answer
from ..verifying import IdentityCheck
from .wire import Flights, Found, Reply, Wire


class KServeRequests:
    """`messages`: the requests as they go over the link; `places` of each: where its outputs will lie."""

    one_message = False

    def __init__(
        self, wire: Wire, flights: Flights, model: ModelInfo, messages: Sequence[bytes],
        places: Sequence[Mapping[str, Placed | None]], inputs: Sequence[Mapping[str, Array]], check: IdentityCheck | None,
    ) -> None:  # fmt: skip
        self._wire = wire
        self._flights = flights
        self._model = model
        self._messages = messages
        self._places = places
        self._inputs = inputs
        self._check = check
        self._in_flight = 0

    def __repr__(self) -> str:
        return f"<KServeRequests {len(self._messages)} for '{self._model.name}', {self._in_flight} in flight>"

    def check_invariants(self) -> None:
        """Each has its places, and no more are in flight than there are."""
        assert len(self._messages) == len(self._places) == len(self._inputs) and 0 <= self._in_flight <= len(self._messages), (
            self
        )

    def __len__(self) -> int:
        return len(self._messages)

    def send(self, numbers: Sequence[int]) -> None:
        """Sends these, none of which is in flight. Raises BrokerError where the server cannot be reached."""
        self._flights.send([(number, self._messages[number]) for number in numbers])
        self._in_flight += len(numbers)

    def take(self, timeout_ns: int | None = None) -> list[Answer]:
        """Waits for the first answer, and returns all that are there; none where the time has passed (None: no limit)."""
        replies = self._flights.take(None if timeout_ns is None else timeout_ns / 1e9)
        self._in_flight -= len(replies)
        answers, results = [], []
        for reply in replies:
            error = reply.error
            if error is None:
                try:
                    results.append((reply.number, self._result(reply)))
                except PenstockError as refused:
                    error = refused
            answers.append(Answer(reply.number, reply.read_ns, time.monotonic_ns(), error))
        if self._check is not None:
            for number, result in results:
                self._check.compare(self._inputs[number], result)
        return answers

    def _result(self, reply: Reply) -> InferResult:
        """Arrays on the outputs, where they lie. Raises PenstockError."""
        places = self._places[reply.number]
        return InferResult(
            {found.name: self._array(found, places) for found in self._wire.found(reply.answer)}, self._model.version, None
        )

    def _array(self, found: Found, places: Mapping[str, Placed | None]) -> Array:
        where = f"{self._wire.url}: output '{found.name}' {found.datatype} {list(found.shape)}"
        content = found.content
        if content is None:
            place, size = places.get(found.name), byte_size(found.datatype, found.shape)
            if place is not None and size is not None and 0 <= size <= place.byte_size:
                view: Array = place.region.view(found.datatype, found.shape, place.offset)
                return view
            if elements(found.shape):
                raise BrokerError(f"{where} came without its content, and has no place", Code.INTERNAL)
            content = b""
        if found.datatype == "BYTES":
            return deserialize_bytes(content, found.shape, found.name)
        if len(content) != byte_size(found.datatype, found.shape):
            raise BrokerError(f"{where} came with {len(content)} bytes", Code.INTERNAL)
        return np.frombuffer(content, numpy_dtype(found.datatype)).reshape(found.shape)
