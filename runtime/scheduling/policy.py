# SPDX-License-Identifier: Apache-2.0
"""How one model's requests are queued and batched: the scheduler's part of a model configuration, frozen and checked once."""

from __future__ import annotations

from msgspec import Struct

from ...ipc.errors import invalid

CREDITS = 2
"""How many batches may be at one instance, where nothing speaks against more than one."""


class Policy(Struct, frozen=True):
    """A model's rules. `max_batch_size` 0: the model has no batch dimension, so that every batch is one request.

    `preferred_batch_sizes` empty means (max_batch_size,), which is what Triton completes `dynamic_batching {}` to.
    """

    max_batch_size: int
    dynamic: bool = False
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_ns: int = 0
    max_execution_ns: int = 0  # 0: no watchdog
    max_queued_per_principal: int = 8192
    credits: int = CREDITS  # how many batches may be at one instance
    rate_limited: bool = False  # its instances need resources (resources.py)
    preserve_ordering: bool = False  # replies leave in the order of arrival (ordering.py)

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

    @property
    def batches(self) -> bool:
        """Whether requests are executed together (Triton's dynamic batcher) or one by one (its default scheduler)."""
        return self.dynamic and self.max_batch_size > 0
