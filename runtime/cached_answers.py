# SPDX-License-Identifier: Apache-2.0
"""Requests that are answered from the response cache, and answers that are put into it.

The one place where payload passes through the broker, for models that ask for it (docs/decisions/0005). Memory is read by
pread and written by pwrite, never mapped: a segment that its client truncates then is a request without cache, and no
SIGBUS. Triton's rules (its dynamic_batch_scheduler.cc, cache_manager.cc):

- A request is looked up when it arrives, before it is queued. A hit is its outcome at once, so it overtakes what waits.
- A miss is executed, and counts as one when it succeeded, whether or not its outputs could be kept. Two equal requests that are
  in flight together are both executed.
- A hit needs every output that the request wants. (Triton answers with those that happen to be there.)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ..ipc.codec import encode
from ..ipc.errors import MachineError, PenstockError
from ..ipc.messages import Explanation, OutputTensor, Result
from ..ipc.regions import create_memfd
from .admission import ALIGNMENT
from .response_cache import CachedOutput, ResponseCache

if TYPE_CHECKING:
    from .regions import Region
    from .requests import InferRequest
    from .sessions import Session

log = logging.getLogger("penstock.broker")

_outputs_decoder = msgspec.msgpack.Decoder(list[OutputTensor])


class CacheTicket(NamedTuple):
    """A request was looked up and not found: under which key, and how long that took."""

    key: bytes
    lookup_ns: int


class CachedAnswers:
    """Between the broker's requests and a cache. Requests with more input, or output, than `limit_bytes` pass it by."""

    def __init__(self, cache: ResponseCache, limit_bytes: int, unflushed: set[Session], clock: Callable[[], int]) -> None:
        self.cache = cache
        self._limit_bytes = min(limit_bytes, cache.capacity_bytes)
        self._unflushed = unflushed
        self._clock = clock

    def __repr__(self) -> str:
        return f"<CachedAnswers up to {self._limit_bytes} bytes, {self.cache!r}>"

    def answer(self, request: InferRequest) -> bool:
        """Looks a request up. True: it has its outcome, and nothing else may touch its memory."""
        plan = request.binding.plan
        assert plan is not None
        if plan.byte_size > self._limit_bytes:
            return False
        began_ns = self._clock()
        key = plan.key()
        if key is None:
            return False
        outputs = self.cache.lookup(key)
        if outputs is not None and self._send(request, outputs, began_ns):
            now_ns = self._clock()
            record = request.binding.model.record
            record.hit(now_ns - request.arrived_ns, began_ns - request.arrived_ns, now_ns - began_ns)
            return True
        request.ticket = CacheTicket(key, self._clock() - began_ns)
        return False

    def keep(self, request: InferRequest, outputs: bytes, fd: int | None) -> None:
        """Puts a success into the cache, before the reply is flushed and its client may use the memory again.

        `outputs`: as the reply says them; `fd`: the memory of those without a place. Inputs that are not any more what was
        looked up were changed while the model used them: what it made of them belongs to nobody's key.
        """
        ticket, plan = request.ticket, request.binding.plan
        if ticket is None or plan is None:
            return
        began_ns = self._clock()
        contents = self._read(_outputs_decoder.decode(outputs), plan.outputs, fd)
        if contents is not None and plan.key() == ticket.key:
            self.cache.insert(ticket.key, contents)
        request.binding.model.record.missed(ticket.lookup_ns + self._clock() - began_ns)

    def _read(
        self, tensors: list[OutputTensor], regions: tuple[Region | None, ...], fd: int | None
    ) -> dict[str, CachedOutput] | None:
        """What the worker wrote; None when that is too much, or not there any more."""
        if sum(tensor.byte_size for tensor in tensors) > self._limit_bytes:
            return None
        contents: dict[str, CachedOutput] = {}
        for tensor, region in zip(tensors, regions, strict=True):
            if region is not None:
                content = os.pread(region.fd, tensor.byte_size, region.offset + tensor.offset)
            else:
                assert fd is not None
                content = os.pread(fd, tensor.byte_size, tensor.offset)
            if len(content) != tensor.byte_size:
                return None
            contents[tensor.name] = CachedOutput(tensor.datatype, tensor.shape, content)
        return contents

    def _send(self, request: InferRequest, outputs: Mapping[str, CachedOutput], began_ns: int) -> bool:
        """Writes the outputs to where they are wanted and queues the reply. False when that cannot be done."""
        answer = _Answer.of(request, outputs)
        if answer is None:
            return False
        brought: list[int] = []
        parts: list[bytes] = []
        client = request.client
        try:
            answer.write_placed()
            if answer.unplaced and client.takes_fds:
                brought = [answer.memory()]
            elif answer.unplaced:
                parts = [content for content, _ in answer.unplaced]
            explain = Explanation("", 0, 0, "cached", began_ns - request.arrived_ns, 0, 0, 0) if request.explain else None
            tensors = msgspec.Raw(encode(answer.tensors))
            version = request.binding.model.version
            client.link.put(Result(request.client_id, tensors, version, explain, len(brought), len(parts)), brought, parts)
        except (OSError, PenstockError) as error:  # no memory, no descriptor: the worker may have more luck, or says why not
            log.warning("model %s: a cached response could not be used: %s", request.binding.model.label, error)
            return False
        finally:
            for fd in brought:
                os.close(fd)
        self._unflushed.add(client)
        return True


class _Answer:
    """Cached outputs on their way to one request."""

    def __init__(self) -> None:
        self.tensors: list[OutputTensor] = []
        self.placed: list[tuple[bytes, Region, int]] = []  # content, region, offset in the object behind it
        self.unplaced: list[tuple[bytes, int]] = []  # content, offset in a memfd of their own
        self._byte_size = 0  # of that memfd

    @classmethod
    def of(cls, request: InferRequest, outputs: Mapping[str, CachedOutput]) -> _Answer | None:
        """None when an output is not among them, or its place too small or not there any more."""
        answer, plan = cls(), request.binding.plan
        assert plan is not None
        for place, region in zip(request.binding.places, plan.outputs, strict=True):
            output = outputs.get(place.name)
            if output is None:
                return None
            size = len(output.content)
            if region is not None:
                offset, begin = place.offset, region.offset + place.offset
                if size > place.byte_size or begin + size > os.fstat(region.fd).st_size:
                    return None
                answer.placed.append((output.content, region, begin))
            else:
                offset = answer._byte_size
                answer.unplaced.append((output.content, offset))
                answer._byte_size += -(-size // ALIGNMENT) * ALIGNMENT
            answer.tensors.append(OutputTensor(place.name, output.datatype, output.shape, place.region, offset, size))
        return answer

    def __repr__(self) -> str:
        return f"<_Answer {len(self.placed)} outputs placed, {len(self.unplaced)} not>"

    def write_placed(self) -> None:
        """Writes outputs into the client's regions. Raises OSError."""
        for content, region, offset in self.placed:
            _write(region.fd, content, offset)

    def memory(self) -> int:
        """A fresh memfd with the outputs that have no place; the caller closes it. Raises MachineError, OSError."""
        fd = create_memfd("penstock-cached", max(self._byte_size, 1))
        try:
            for content, offset in self.unplaced:
                _write(fd, content, offset)
        except OSError:
            os.close(fd)
            raise
        return fd


def _write(fd: int, content: bytes, offset: int) -> None:
    if os.pwrite(fd, content, offset) != len(content):
        raise MachineError(f"only a part of {len(content)} bytes could be written")
