# SPDX-License-Identifier: Apache-2.0
"""Room that a request brings for outputs without a place.

A client that does not know the model's shapes offers it, and the broker, which does, says what lies where. What the model is
when the request is taken in decides: of a client that guessed wrong, outputs come in memory of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ipc.errors import invalid
from ..ipc.messages import InputTensor, OutputPlace
from .models import ServedModel

ALIGNMENT = 64  # as that of slots, see clients/extents.py


def in_room(
    model: ServedModel, places: Sequence[OutputPlace], rows: int, inputs: Sequence[InputTensor | None]
) -> list[OutputPlace]:
    """The outputs that are wanted, those of known size put into the request's room as far as it goes. Raises CallerError."""
    rooms = [place for place in places if _is_room(place)]
    wanted = [place for place in places if not _is_room(place)] or model.unplaced
    if not rooms:
        return wanted
    if len(rooms) > 1:
        raise invalid(f"model '{model.name}': a request brings room for outputs once, got it {len(rooms)} times")
    room, used = rooms[0], 0
    found: list[OutputPlace] = []
    for place in wanted:
        size = _known_bytes(model, place, rows, inputs)
        if size is not None and used + size <= room.byte_size:
            found.append(OutputPlace(place.name, room.region, room.offset + used, size))
            used += -(-size // ALIGNMENT) * ALIGNMENT
        else:
            found.append(place)
    return found


def _is_room(place: OutputPlace) -> bool:
    """Room lies in the session's own memory: whoever brings it reads it there."""
    return not place.name and bool(place.region) and not place.shared


def _known_bytes(
    model: ServedModel, place: OutputPlace, rows: int, inputs: Sequence[InputTensor | None]
) -> int | None:  # fmt: skip
    """Bytes of an output that has no place yet; None where only execution tells, and for an output that there is not."""
    position = model.output_position.get(place.name)
    if position is None or place.region or place.classification:
        return None
    return model.output_bytes(position, rows, inputs)
