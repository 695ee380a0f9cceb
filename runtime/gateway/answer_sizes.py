# SPDX-License-Identifier: Apache-2.0
"""How much room the outputs of a request will need, as far as requests of the same form have shown. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ...ipc.messages import OutputTensor
from .requests import InferRequest

MOST_FORMS = 1024
ALIGNMENT = 64  # of the outputs in their room, see runtime/output_room.py

Form = Hashable


def form_of(request: InferRequest) -> Form:
    """What the sizes of a request's outputs go by."""
    shapes = tuple((given.name, given.datatype, tuple(given.shape)) for given in request.inputs)
    outputs = tuple((output.name, output.classification, output.place is None) for output in request.outputs)
    return request.model, request.version, shapes, outputs


def room_of(sizes: Sequence[int]) -> int:
    """Bytes of room for outputs of these sizes."""
    return sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)


class AnswerSizes:
    """What requests were answered with. A wrong guess costs time: outputs that find no room come in memory of their own."""

    def __init__(self) -> None:
        #: form -> bytes of room that requests of it use; 0: none, the sizes of their outputs are not known beforehand
        self._room: dict[Form, int] = {}

    def __repr__(self) -> str:
        return f"<AnswerSizes of {len(self._room)} forms>"

    def guess(self, form: Form) -> int:
        """Bytes of room to offer."""
        return self._room.get(form, 0)

    def learn(self, form: Form, offered: int, outputs: Sequence[OutputTensor]) -> None:
        """A request with that much room was answered with these outputs, in its room (they name a region) or beside it."""
        beside = [output.byte_size for output in outputs if not output.region]
        if not beside or (not offered and form in self._room):
            return
        in_room = [output.byte_size for output in outputs if output.region]
        needed = room_of([*in_room, *beside])
        if len(self._room) >= MOST_FORMS:
            self._room.clear()
        # What would have had room and did not come there has no size that is known beforehand
        self._room[form] = room_of(in_room) if offered and needed <= offered else needed
