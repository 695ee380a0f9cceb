# SPDX-License-Identifier: Apache-2.0
"""Standard output, kept for what a command itself has to say."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """What is printed within the block goes to standard error: by others' modules, and by native code (torch's exporters)."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            ctypes.CDLL(None).fflush(None)  # native code's buffer, which would come out behind the block otherwise
            os.dup2(kept, 1)
    finally:
        os.close(kept)
