# SPDX-License-Identifier: Apache-2.0
"""A request's way through the broker: inline tensors are written once, into shared memory; those in regions are only named."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from ...ipc.codec import encode
from ...ipc.errors import PenstockError, not_found
from ...ipc.messages import FEW, Explanation, Infer, InputTensor, OutputPlace
from ...ipc.messages import OutputTensor as Answered
from ...ipc.tensors import DATATYPES
from .answer_sizes import AnswerSizes, form_of
from .callers import Caller
from .link import BrokerLink
from .memory import Leased
from .ranges import check_range, check_tensors
from .requests import InferAnswer, InferRequest, InRegion, Output, OutputTensor
from .unknown_models import check_model_name
from .wording import in_tritons_words

NO_DATATYPE = "<invalid>"
"""What Triton calls a datatype that is none."""

_outputs_decoder = msgspec.msgpack.Decoder(list[Answered])


class Inference:
    """Belongs to the link's loop."""

    def __init__(self, link: BrokerLink) -> None:
        self._link = link
        self._sizes = AnswerSizes()

    def __repr__(self) -> str:
        return f"<Inference over {self._link!r}, {self._sizes!r}>"

    async def infer(self, request: InferRequest, caller: Caller) -> InferAnswer:
        """Executes one request. Raises PenstockError, in Triton's words. A task that is cancelled cancels the request."""
        try:
            with self._link.in_flight:
                return await self._infer(request, caller)
        except PenstockError as error:
            raise in_tritons_words(error, request) from None

    async def _infer(self, request: InferRequest, caller: Caller) -> InferAnswer:
        check_model_name(request.model)
        check_tensors(request)
        on_behalf = self._user(request, caller)
        inline = [given.content for given in request.inputs if not isinstance(given.content, InRegion)]
        form = form_of(request)
        room = self._sizes.guess(form) if len(request.outputs) < FEW else 0  # it takes a place too
        sizes = (*map(len, inline), room) if room else tuple(map(len, inline))
        lease = await self._link.memory.lease(sizes) if sizes else Leased()
        try:
            inputs = msgspec.Raw(encode(_tensors(request, lease)))
            places = [_place(output) for output in request.outputs]
            if room:
                places.append(OutputPlace("", *lease.place(len(inline)), room))
            wanted = msgspec.Raw(encode(places))

            def make(number: int) -> Infer:
                return Infer(
                    number, request.model, inputs, wanted, request.version, principal=caller.principal,
                    priority=request.priority, timeout_us=request.timeout_us, on_behalf=on_behalf,
                    explain=request.explain,
                )  # fmt: skip

            sent_ns = time.monotonic_ns() if request.explain else 0
            entry = await self._link.infer(make, lease)
            outputs = _outputs_decoder.decode(entry.message.outputs)
            placed = {output.name for output in request.outputs if output.place is not None}
            self._sizes.learn(form, room, [output for output in outputs if output.name not in placed])
            contents = [None if each.name in placed else _content(each, lease, entry.brought) for each in outputs]
            return _answer(request, entry.message, zip(outputs, contents, strict=True), sent_ns)
        finally:
            lease.release()

    @staticmethod
    def _user(request: InferRequest, caller: Caller) -> int:
        """Whose shared regions the request names; -1: it names none."""
        places = [given.content for given in request.inputs if isinstance(given.content, InRegion)]
        places += [output.place for output in request.outputs if output.place is not None]
        if not places:
            return -1
        uid = caller.uid()
        if uid < 0:
            raise not_found(
                f"Unable to find shared memory region: '{places[0].region}': it is not known which user of this machine makes "
                f"this request ({caller.principal}); such requests bring their tensors inline"
            )
        return uid


def _tensors(request: InferRequest, lease: Leased) -> list[InputTensor]:
    tensors: list[InputTensor] = []
    inline = 0
    for given in request.inputs:
        datatype = given.datatype if given.datatype in DATATYPES else NO_DATATYPE
        if isinstance(given.content, InRegion):
            tensors.append(InputTensor(given.name, datatype, list(given.shape), *check_range(given.content), shared=True))
        else:
            tensors.append(InputTensor(given.name, datatype, list(given.shape), *lease.write(inline, given.content)))
            inline += 1
    return tensors


def _place(output: Output) -> OutputPlace:
    if output.place is None:
        return OutputPlace(output.name, classification=output.classification)
    return OutputPlace(output.name, *check_range(output.place), classification=output.classification, shared=True)


def _content(output: Answered, lease: Leased, brought: Any) -> bytes | memoryview:
    """The content of an output that has no place of the caller's: it lies in the room that it was offered, or beside it."""
    if output.region:
        return lease.read(output.offset, output.byte_size)
    return memoryview(brought if brought is not None else b"")[output.offset : output.offset + output.byte_size]


def _answer(
    request: InferRequest, message: Any, outputs: Iterable[tuple[Answered, bytes | memoryview | None]], sent_ns: int
) -> InferAnswer:
    tensors = [OutputTensor(each.name, each.datatype, each.shape, content) for each, content in outputs]
    explain: Explanation | None = message.explain
    return InferAnswer(request.model, message.version, request.id, tensors, explain, sent_ns)
