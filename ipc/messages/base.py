# SPDX-License-Identifier: Apache-2.0
"""What all messages share, and the types and bounds of their fields."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

PROTOCOL = 1

Unsigned = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(max_length=256)]
Shape = Annotated[list[Annotated[int, Meta(ge=0, le=2**63 - 1)]], Meta(max_length=32)]
Uid = Annotated[int, Meta(ge=-1, le=2**32 - 1)]
"""A user of this machine; -1: nobody in particular."""
FEW = 256
"""Upper bound on tensors per request and on other short lists."""


class Message(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag=str.lower, tag_field="type", gc=False):
    """What all messages share: immutable, tagged, small on the wire."""


class Row(Struct, frozen=True, array_like=True, gc=False):
    """A record between broker and worker, sent as an array."""
