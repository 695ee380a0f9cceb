# SPDX-License-Identifier: Apache-2.0
"""Waiting for a moment on the clock that all processes of a machine share."""

from __future__ import annotations

import time


def wait_until(moment_ns: int) -> None:
    """Until then, CLOCK_MONOTONIC; not at all where it is over."""
    left_ns = moment_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
