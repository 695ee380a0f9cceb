# SPDX-License-Identifier: Apache-2.0
"""Everything that can happen to the scheduler. Events are frozen; numbers are given by the broker and unique while in use."""

from __future__ import annotations

from msgspec import Struct

from .limits import Needs
from .policy import Policy
from .requests import NO_GPU, Request


class Event(Struct, frozen=True, gc=False):
    """What all events share."""


class ModelAdded(Event, frozen=True):
    """A model version was loaded (or is loading: requests queue until an instance is ready). The number is new per load."""

    model: int
    policy: Policy


class ModelRemoved(Event, frozen=True):
    """Drain: serve what is queued, refuse what is new, answer Drained when nothing is left, then forget the model."""

    model: int


class ModelDown(Event, frozen=True):
    """The model cannot be served: queued requests fail, new ones are refused with `message` until an InstanceReady."""

    model: int
    message: str


class GpuDown(Event, frozen=True):
    """No instance is left on that GPU, while others serve: what is bound to it fails until one is ready there again."""

    model: int
    gpu: int
    message: str


class InstanceReady(Event, frozen=True):
    """An instance of the model takes batches from now on. `needs`: what it holds meanwhile, if the model is rate limited.

    `lanes`: as many instances, numbered from this one on, which share a worker: they go together.
    """

    instance: int
    model: int
    needs: Needs = Needs()
    gpu: int = NO_GPU
    lanes: int = 1


class InstanceLeaving(Event, frozen=True):
    """The instance (its lanes) gets no more batches and finishes what it has; Vacated says when, of each. The model stays."""

    instance: int
    lanes: int = 1


class InstanceGone(Event, frozen=True):
    """The instance (its lanes) is gone, and every BatchEnded that its worker managed to send has been handled before this."""

    instance: int
    message: str
    lanes: int = 1


class Arrived(Event, frozen=True):
    """A request was accepted."""

    request: Request


class ArrivedTogether(Event, frozen=True):
    """Requests that were read in one go: all are queued before any batch is closed.

    So a burst to an idle instance is one batch, not a batch of one and a rest (with a delay of 0, Triton's rule sends what
    it sees).
    """

    requests: list[Request]


class Cancelled(Event, frozen=True):
    """The caller no longer wants the request."""

    number: int


class SessionEnded(Event, frozen=True):
    """The session is over: its requests are cancelled, wherever they are."""

    session: int


class BatchEnded(Event, frozen=True):
    """The instance has answered the batch."""

    instance: int
    batch_number: int


class Tick(Event, frozen=True):
    """Time has passed; due when `next_deadline()` is."""


AnyEvent = (
    Arrived
    | ArrivedTogether
    | BatchEnded
    | Cancelled
    | GpuDown
    | InstanceGone
    | InstanceLeaving
    | InstanceReady
    | ModelAdded
    | ModelDown
    | ModelRemoved
    | SessionEnded
    | Tick
)
