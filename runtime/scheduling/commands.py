# SPDX-License-Identifier: Apache-2.0
"""Everything the scheduler can ask the broker to do. The state change behind a command has already happened when it is given.

Of every request: exactly one outcome (Finish, Deliver, or its place in Completed.live) and exactly one release (Finish with
`released`, Deliver, Release, or its place in Completed.live, Completed.late or Withhold.late), never the release before the
outcome.
"""

from __future__ import annotations

from msgspec import Struct

from ...ipc.errors import Code
from .requests import Batch, Request


class Command(Struct, frozen=True, gc=False):
    """What all commands share."""


class SendBatch(Command, frozen=True):
    """Send the batch to its instance."""

    batch: Batch


class Finish(Command, frozen=True):
    """An outcome that the scheduler decided. `released` false: the memory is still in use, the release follows.

    `accepted` false: it was refused when it arrived, which no statistics count.
    """

    request: Request
    code: Code
    message: str
    fault: str
    released: bool
    accepted: bool = True


class Release(Command, frozen=True):
    """The outcome was given earlier; the request's memory is free now."""

    request: Request


class Completed(Command, frozen=True):
    """A batch ended. `live` get their outcome and release now, `late` got their outcome earlier and are released now."""

    batch: Batch
    live: list[Request]
    late: list[Request]


class Withhold(Command, frozen=True):
    """A batch ended, of a model that preserves order. `requests` wait for their Deliver (or Finish); `late` are released now.

    What the worker said of the batch is to be kept for as long as one of them waits.
    """

    batch: Batch
    requests: list[Request]
    late: list[Request]


class Deliver(Command, frozen=True):
    """The turn of these requests, which were withheld with the batch of that number, has come: outcome and release."""

    batch: int
    requests: list[Request]


class Kill(Command, frozen=True):
    """The instance's batch ran past the watchdog's limit: end its worker, with all its lanes; InstanceGone is to follow."""

    instance: int
    message: str


class Vacated(Command, frozen=True):
    """Nothing is left at the instance that was to leave; the scheduler has forgotten it."""

    instance: int


class Drained(Command, frozen=True):
    """Nothing of the removed model is left; the scheduler has forgotten it."""

    model: int


AnyCommand = SendBatch | Finish | Release | Completed | Withhold | Deliver | Kill | Vacated | Drained
