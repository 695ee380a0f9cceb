# SPDX-License-Identifier: Apache-2.0
"""How log lines look and which are written, in every process of a broker: Penstock's own shape, or one of Triton's.

    penstock  2026-11-21T04:00:00.123Z INFO penstock.fleet: ...
    default   I1121 04:00:00.123456 4711 fleet.py:81] "..."          (Triton's; the message is a JSON string)
    ISO8601   2026-11-21T04:00:00Z I 4711 fleet.py:81] "..."

All times are UTC. What is to be written can be changed while the process runs: Triton's logging extension.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Annotated, Literal, TextIO

import msgspec
from msgspec import Meta, Struct

LOGGER = "penstock"
TABLE = "table"
"""The attribute of a record (`extra={TABLE: text}`) that in Triton's shapes follows its line, over several of its own."""
_LETTERS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W"}
"""Triton's; its verbose lines are I too. Everything above is E."""


class LogSettings(Struct, frozen=True, kw_only=True):
    """Triton's names and defaults (server/docs/protocol/extension_logging.md); `penstock` is a third format, our own."""

    log_file: str = ""  # "": standard error
    log_info: bool = True
    log_warning: bool = True
    log_error: bool = True
    log_verbose_level: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0  # above 0: debug lines too; all such levels are one
    log_format: Literal["penstock", "default", "ISO8601"] = "penstock"

    @classmethod
    def from_level(cls, level: str) -> LogSettings:
        """Those of `--log-level`: debug, info, warning or error, and what is above it."""
        lowest = getattr(logging, level.upper())
        return cls(
            log_info=lowest <= logging.INFO,
            log_warning=lowest <= logging.WARNING,
            log_verbose_level=int(lowest <= logging.DEBUG),
        )

    def writes(self, level: int) -> bool:
        """Whether lines of a level of the logging module are written."""
        if level < logging.INFO:
            return self.log_verbose_level > 0
        return self.log_info if level < logging.WARNING else self.log_warning if level < logging.ERROR else self.log_error

    @property
    def lowest(self) -> int:
        """The lowest level of which any line is written."""
        levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
        return next((level for level in levels if self.writes(level)), logging.CRITICAL + 1)


class LineFormatter(logging.Formatter):
    """The line of a record, in the shape that the settings say."""

    def __init__(self, settings: LogSettings) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        self.settings = settings

    def __repr__(self) -> str:
        return f"<LineFormatter {self.settings!r}>"

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        if self.settings.log_format == "penstock":
            return super().format(record)
        letter = _LETTERS.get(record.levelno, "E")
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        text = text.encode(errors="backslashreplace").decode()  # bytes that are no text, of a header or a file's name
        table = getattr(record, TABLE, "")
        said = f"{text}\n{table}" if table else msgspec.json.encode(text).decode()
        where = f"{record.process} {record.filename}:{record.lineno}] {said}"
        moment = time.gmtime(record.created)
        if self.settings.log_format == "ISO8601":
            return f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', moment)} {letter} {where}"
        return f"{letter}{time.strftime('%m%d %H:%M:%S', moment)}.{int(record.created % 1 * 1_000_000):06d} {where}"

    def admits(self, record: logging.LogRecord) -> bool:
        """Whether the line is written at all: a filter."""
        return self.settings.writes(record.levelno)


def write_log(settings: LogSettings, fd: int = -1) -> None:
    """Writes this process's log lines as the settings say from now on; where no file is named, to standard error or `fd`.

    Raises OSError when the file cannot be opened.
    """
    handler = logging.FileHandler(settings.log_file) if settings.log_file else logging.StreamHandler(_stream(fd))
    formatter = LineFormatter(settings)
    handler.setFormatter(formatter)
    handler.addFilter(formatter.admits)
    logger = logging.getLogger(LOGGER)
    for other in _ours(logger):
        logger.removeHandler(other)
        other.close()
    logger.addHandler(handler)
    logger.setLevel(settings.lowest)
    logger.propagate = False


def _stream(fd: int) -> TextIO | None:
    """None: standard error."""
    return os.fdopen(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace") if fd >= 0 else None


def switch_log(settings: LogSettings) -> None:
    """Changes shape and levels, and not where to. A process in which somebody else does the logging is left alone."""
    logger = logging.getLogger(LOGGER)
    for handler in _ours(logger):
        assert isinstance(handler.formatter, LineFormatter)
        handler.formatter.settings = settings
        logger.setLevel(settings.lowest)


def _ours(logger: logging.Logger) -> list[logging.Handler]:
    return [handler for handler in logger.handlers if isinstance(handler.formatter, LineFormatter)]
