# SPDX-License-Identifier: Apache-2.0
"""What has something of CUDA's: it is given back once, by close() or at the end of a with statement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

from ....ipc import cuda

Self = TypeVar("Self", bound="Owner")


class Owner(ABC):
    """Something of CUDA's that this process holds, from construction to close()."""

    __slots__ = ("is_closed",)

    def __init__(self) -> None:
        self.is_closed = False

    def __enter__(self: Self) -> Self:  # noqa: PYI019 - typing.Self came with Python 3.11
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what this holds; idempotent. Raises CudaError, unless the context is lost: all in it went with it."""
        if self.is_closed:
            return
        self.is_closed = True
        try:
            self._release()
        except cuda.CudaError as error:
            if not error.is_sticky:
                raise

    @abstractmethod
    def _release(self) -> None: ...

    def _state(self) -> str:
        return ", closed" if self.is_closed else ""
