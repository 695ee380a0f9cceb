# SPDX-License-Identifier: Apache-2.0
"""How one model's requests are queued and batched: the scheduler's part of a model configuration, frozen and checked once."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from ...ipc.errors import invalid

CREDITS = 2
"""How many batches may be at one instance, where nothing speaks against more than one."""


MAX_LANES = 64
"""How many instances may share a worker; more is taken for a slip of the pen."""


class TimeoutAction(Enum):
    """What becomes of a request that has waited for its queue timeout."""

    REJECT = "reject"  # it fails
    DELAY = "delay"  # it goes behind those of its level that have not


class QueuePolicy(Struct, frozen=True):
    """How many requests of a priority level may wait and how long: Triton's ModelQueuePolicy. The defaults bound nothing."""

    max_queue_size: int = 0  # 0: unbounded
    timeout_action: TimeoutAction = TimeoutAction.REJECT
    default_timeout_ns: int = 0  # 0: requests wait for ever
    allow_timeout_override: bool = False

    def __post_init__(self) -> None:
        if min(self.max_queue_size, self.default_timeout_ns) < 0:
            raise invalid(f"max_queue_size and default_timeout must not be negative, given {self}")

    def timeout_ns(self, asked_ns: int) -> int:
        """How long a request may wait that asks for `asked_ns` itself (0: for nothing); 0: for ever.

        PolicyQueue::Enqueue of Triton's scheduler_utils.cc: a request may only shorten the default, so that without a default
        it cannot have a timeout.
        """
        default_ns = self.default_timeout_ns
        return asked_ns if self.allow_timeout_override and 0 < asked_ns < default_ns else default_ns


class Policy(Struct, frozen=True):
    """A model's rules. `max_batch_size` 0: the model has no batch dimension, so that every batch is one request.

    `preferred_batch_sizes` empty means (max_batch_size,), which is what Triton completes `dynamic_batching {}` to. Priority
    levels count from 1, the highest; `priority_levels` 0: the model has one level, which is called 0. A level without a policy
    of its own has the default one.
    """

    max_batch_size: int
    dynamic: bool = False
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_ns: int = 0
    max_execution_ns: int = 0  # 0: no watchdog
    max_queued_per_principal: int = 8192
    credits: int = CREDITS  # how many batches may be at one instance
    rate_limited: bool = False  # its instances need resources (resources.py)
    spread: bool = False  # its instances are on several devices, so that a request may be bound to one of them (spread.py)
    preserve_ordering: bool = False  # replies leave in the order of arrival (ordering.py)
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policies: dict[int, QueuePolicy] = {}  # level -> policy

    def __post_init__(self) -> None:
        if min(self.max_batch_size, self.max_queue_delay_ns, self.max_execution_ns) < 0:
            raise invalid(f"batch size, delay and execution limit must not be negative, given {self}")
        if self.credits < 1 or self.max_queued_per_principal < 1:
            raise invalid(f"credits and max_queued_per_principal must be at least 1, given {self}")
        if self.rate_limited and self.credits != 1:
            raise invalid(f"an instance that needs resources is sent one batch at a time, given {self}")
        if self.batches and not all(1 <= size <= self.max_batch_size for size in self.preferred_batch_sizes):
            raise invalid(
                f"dynamic batching preferred size must be between 1 and max batch size {self.max_batch_size}, "
                f"given {self.preferred_batch_sizes}"
            )
        levels = range(1, self.priority_levels + 1) if self.priority_levels else range(1)
        if not all(level in levels for level in (self.default_priority_level, *self.priority_queue_policies)):
            raise invalid(f"priority levels must be between {levels[0]} and {levels[-1]}, given {self}")

    @property
    def batches(self) -> bool:
        """Whether requests are executed together (Triton's dynamic batcher) or one by one (its default scheduler)."""
        return self.dynamic and self.max_batch_size > 0

    @property
    def has_levels(self) -> bool:
        """Whether anything but their arrival decides in which order requests are served, and whether they are.

        Only the dynamic batcher has levels and queue policies, also for a model without a batch dimension; as in Triton.
        """
        one_level = self.priority_levels <= 1 and self.queue_policy(self.default_priority_level) == QueuePolicy()
        return self.dynamic and not one_level

    def level_of(self, priority: int) -> int:
        """The level of a request of that priority (InferenceRequest::SetPriority)."""
        return priority if 0 < priority <= self.priority_levels else self.default_priority_level

    def queue_policy(self, level: int) -> QueuePolicy:
        """The policy of a level."""
        return self.priority_queue_policies.get(level, self.default_queue_policy)
