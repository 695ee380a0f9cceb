# SPDX-License-Identifier: Apache-2.0
"""Which requests are traced, and what becomes of their traces: Triton's trace extension, at the gateway.

The server of a protocol knows when a request came in and when its answer had left; only where it is executed is known whose it
is, and so whether it is sampled. The two meet in a Passage, which there is only while any request may be sampled at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import msgspec

from ...ipc.trace_settings import TraceSettings
from .callers import Caller
from .inference import Inference
from .link import BrokerLink
from .requests import InferAnswer, InferRequest
from .trace_files import TraceFiles
from .traces import Trace

ALL = ""
"""The scope of settings for all models that have none of their own."""
RECEIVED = {"HTTP": "HTTP_RECV", "GRPC": "GRPC_WAITREAD"}


class Passage:
    """One request on its way through the server of a protocol, and its trace once it is sampled."""

    __slots__ = ("_answered_ns", "_began_ns", "_protocol", "_received_ns", "_sent_ns", "trace")

    def __init__(self, protocol: Literal["HTTP", "GRPC"]) -> None:
        self._protocol = protocol
        self._began_ns = self._received_ns = time.monotonic_ns()
        self._answered_ns = self._sent_ns = 0
        self.trace: Trace | None = None

    def __repr__(self) -> str:
        return f"<Passage over {self._protocol} of {self.trace!r}>"

    def received(self) -> None:
        """All of the request is there."""
        self._received_ns = time.monotonic_ns()

    def answers(self) -> None:
        """What it is answered is known, and about to be sent."""
        self._answered_ns = time.monotonic_ns()

    def sent(self) -> None:
        """The answer has left."""
        self._sent_ns = time.monotonic_ns()

    def stamp(self, trace: Trace) -> None:
        """Puts what it knows into the trace. An answer that was never sent has no timestamps."""
        name = RECEIVED[self._protocol]
        trace.stamp(f"{name}_START", self._began_ns)
        trace.stamp(f"{name}_END", self._received_ns)
        if self._answered_ns:
            trace.stamp(f"{self._protocol}_SEND_START", self._answered_ns)
            trace.stamp(f"{self._protocol}_SEND_END", self._sent_ns)


_passage: ContextVar[Passage | None] = ContextVar("passage", default=None)


class Tracing:
    """Belongs to the gateway's loop. `on`: whether any request may be sampled."""

    def __init__(self, link: BrokerLink) -> None:
        self.on = False
        self._files = TraceFiles(link)
        #: scope -> its settings, as the broker last told them
        self._settings: dict[str, TraceSettings] = {ALL: TraceSettings()}
        #: scope -> requests taken in since the last that was sampled
        self._passed: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Tracing {'on' if self.on else 'off'}, {self._settings}, {self._files!r}>"

    def check_invariants(self) -> None:
        """It is on for a reason, and only what has settings is counted."""
        self._files.check_invariants()
        assert self.on == any(settings.samples for settings in self._settings.values()), self
        assert self._passed.keys() <= self._settings.keys(), self

    def told(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """What the broker says that holds from now on. A scope whose rate is another counts anew."""
        found = {scope: msgspec.convert(values, TraceSettings) for scope, values in settings.items()}
        self._passed = {
            scope: passed
            for scope, passed in self._passed.items()
            if scope in found and found[scope].trace_rate == self._settings[scope].trace_rate
        }
        self._settings = found
        self.on = any(each.samples for each in found.values())

    def sample(self, request: InferRequest) -> Trace | None:
        """The trace of a request, or None: of `trace_rate` requests the last is sampled, as in Triton."""
        scope = request.model if request.model in self._settings else ALL
        settings = self._settings[scope]
        if not settings.samples:
            return None
        passed = self._passed.get(scope, 0) + 1
        self._passed[scope] = passed % settings.trace_rate
        return None if passed < settings.trace_rate else Trace(settings, request)

    @contextmanager
    def follow(self, passage: Passage) -> Iterator[None]:
        """What is executed in here came this way."""
        token = _passage.set(passage)
        try:
            yield
        finally:
            _passage.reset(token)

    def done(self, passage: Passage) -> None:
        """The request is over, in whatever way."""
        if passage.trace is not None:
            passage.stamp(passage.trace)
            self.keep(passage.trace)

    def keep(self, trace: Trace) -> None:
        """A trace is complete: it is written, if the broker grants it."""
        self._files.put(trace)

    async def close(self) -> None:
        """Writes what is not written yet."""
        await self._files.close()


class TracedInference:
    """Inference, with the traces of those requests that are sampled."""

    def __init__(self, inference: Inference, tracing: Tracing) -> None:
        self._inference = inference
        self._tracing = tracing

    def __repr__(self) -> str:
        return f"<TracedInference by {self._inference!r}, {self._tracing!r}>"

    async def infer(self, request: InferRequest, caller: Caller) -> InferAnswer:
        """Executes one request. Raises PenstockError. A task that is cancelled cancels the request."""
        trace = self._tracing.sample(request) if self._tracing.on else None
        if trace is None:
            return await self._inference.infer(request, caller)
        passage = _passage.get()
        if passage is not None and passage.trace is None:
            passage.trace = trace
        else:
            passage = None  # one of several that came in one call: when it came and left is not known
        trace.stamp("REQUEST_START", time.monotonic_ns())
        try:
            answer = await self._inference.infer(request._replace(explain=True), caller)
            trace.answered(answer, time.monotonic_ns())
            return answer
        finally:
            trace.stamp("REQUEST_END", time.monotonic_ns())
            if passage is None:
                self._tracing.keep(trace)
