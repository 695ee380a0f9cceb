# SPDX-License-Identifier: Apache-2.0
"""The broker's request: the scheduler's, plus who asked and where the tensors are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .scheduling.requests import Request

if TYPE_CHECKING:
    from .bindings import Binding
    from .cached_answers import CacheTicket
    from .sessions import Session


class InferRequest(Request, eq=False, kw_only=True):
    """One accepted Infer. `client_id` is the client's own number for it; `number` is the broker's."""

    client: Session
    client_id: int
    binding: Binding
    explain: bool
    ticket: CacheTicket | None = None  # of a model that uses the response cache
