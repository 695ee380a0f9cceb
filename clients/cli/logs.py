# SPDX-License-Identifier: Apache-2.0
"""Where log lines of `serve` and `broker` go, and how they look: `2026-11-21T04:00:00.123Z INFO penstock.fleet: ...`."""

from __future__ import annotations

import logging
import time

LEVELS = ("debug", "info", "warning", "error")


def log_to_stderr(level: str) -> None:
    """Sends log lines of this level and above to standard error, in UTC."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logger = logging.getLogger("penstock")
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
