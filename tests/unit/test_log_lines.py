# SPDX-License-Identifier: Apache-2.0
"""How log lines look, and which are written: Triton's shapes (asked of release 2.51) and our own."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.ipc.log_lines import LineFormatter, LogSettings, switch_log, write_log

LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The logger of everything that is ours, as it was in the end."""
    found = logging.getLogger("penstock")
    handlers, level, propagate = found.handlers[:], found.level, found.propagate
    found.handlers.clear()
    yield found
    for handler in found.handlers:
        handler.close()
    found.handlers[:] = handlers
    found.setLevel(level)
    found.propagate = propagate


def record(level: int = logging.INFO, text: str = "worker of %s", **more: object) -> logging.LogRecord:
    found = logging.LogRecord("penstock.fleet", level, "/x/runtime/fleet.py", 81, text, ("echo",), None)
    found.created, found.msecs, found.process = 1_795_230_000.123456, 123.0, 4711
    vars(found).update(more)
    return found


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ("penstock", "2026-11-21T03:00:00.123Z INFO penstock.fleet: worker of echo"),
        ("default", 'I1121 03:00:00.123456 4711 fleet.py:81] "worker of echo"'),
        ("ISO8601", '2026-11-21T03:00:00Z I 4711 fleet.py:81] "worker of echo"'),
    ],
)
def test_each_shape_has_its_line(shape: str, line: str) -> None:
    assert LineFormatter(LogSettings(log_format=shape)).format(record()) == line  # type: ignore[arg-type]


def test_each_level_has_triton_s_letter() -> None:
    made = LineFormatter(LogSettings(log_format="default"))
    assert [made.format(record(level))[0] for level in (*LEVELS, logging.CRITICAL)] == ["I", "I", "W", "E", "E"]


def test_a_message_of_several_lines_is_one_line_of_triton_s() -> None:
    # Given an error with its traceback, and quotes in its text
    try:
        raise ValueError("of old")
    except ValueError:
        failed = record(logging.ERROR, 'said "%s"\nand left', exc_info=sys.exc_info())
    # When it is written in Triton's shape
    line = LineFormatter(LogSettings(log_format="default")).format(failed)
    # Then whoever reads by lines finds it whole
    assert re.fullmatch(r'E1121 \S+ 4711 fleet\.py:81\] "said \\"echo\\"\\nand left\\nTraceback .*ValueError: of old"', line)


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        (LogSettings(), (False, True, True, True)),
        (LogSettings(log_verbose_level=2), (True, True, True, True)),
        (LogSettings(log_info=False, log_verbose_level=1), (True, False, True, True)),
        (LogSettings(log_info=False, log_warning=False), (False, False, False, True)),
        (LogSettings(log_warning=False), (False, True, False, True)),
        (LogSettings(log_info=False, log_warning=False, log_error=False), (False, False, False, False)),
    ],
)
def test_each_class_is_switched_by_itself(settings: LogSettings, written: tuple[bool, ...], tmp_path: Path) -> None:
    file = tmp_path / "log"
    write_log(LogSettings(log_file=str(file)))
    switch_log(settings)
    for level in LEVELS:
        logging.getLogger("penstock.fleet").log(level, "%d", level)
    assert [int(line.rsplit(" ", 1)[1]) for line in file.read_text().splitlines()] == [
        level for level, is_written in zip(LEVELS, written, strict=True) if is_written
    ]


def test_writing_again_replaces_what_was_and_not_what_others_made(logger: logging.Logger, tmp_path: Path) -> None:
    # Given a program's own handler, and our log in a file
    other = logging.NullHandler()
    logger.addHandler(other)
    write_log(LogSettings(log_file=str(tmp_path / "first")))
    # When the log is to go elsewhere
    write_log(LogSettings(log_file=str(tmp_path / "second")))
    # Then there are two handlers still, and lines are in the second file only
    assert logger.handlers[0] is other and len(logger.handlers) == 2
    logger.info("here")
    assert (tmp_path / "first").read_text() == "" and "here" in (tmp_path / "second").read_text()


def test_a_process_that_logs_in_its_own_way_is_left_alone(logger: logging.Logger) -> None:
    logger.setLevel(logging.ERROR)
    switch_log(LogSettings(log_verbose_level=1))
    assert logger.level == logging.ERROR


@pytest.mark.parametrize(
    ("level", "lowest"),
    [("debug", logging.DEBUG), ("info", logging.INFO), ("warning", logging.WARNING), ("error", logging.ERROR)],
)
def test_log_level_means_that_and_what_is_above(level: str, lowest: int) -> None:
    settings = LogSettings.from_level(level)
    assert settings.lowest == lowest
    assert [settings.writes(each) for each in LEVELS] == [each >= lowest for each in LEVELS]


def test_bytes_that_are_no_text_are_written_as_what_they_are() -> None:
    line = LineFormatter(LogSettings(log_format="default")).format(record(text="\udcce of %s"))
    assert line.endswith(r'"\\udcce of echo"')
