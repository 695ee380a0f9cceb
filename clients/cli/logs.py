# SPDX-License-Identifier: Apache-2.0
"""Where log lines of `serve`, `broker` and `gateway` go: to standard error, in the shape that ipc/log_lines.py describes."""

from __future__ import annotations

LEVELS = ("debug", "info", "warning", "error")


def log_to_stderr(level: str) -> None:
    """Sends log lines of this level and above to standard error, in UTC."""
    from ...ipc.log_lines import LogSettings, write_log

    write_log(LogSettings.from_level(level))
