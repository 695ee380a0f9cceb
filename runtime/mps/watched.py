# SPDX-License-Identifier: Apache-2.0
"""The keeper of the MPS daemon in the event loop: what it says, and its death, by pidfd."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..event_loop import EventLoop
from ..processes import OutputReader, ends, how_it_ended
from .keeper import ASK_S, EXIT_DAEMON_DIED, FAILED, QUIT_S, READY
from .places import own_directory

if TYPE_CHECKING:
    from ..core import Core

log = logging.getLogger("penstock.mps")

LEAVES_S = ASK_S + QUIT_S + 1.0
"""How long the keeper may take to end all that it keeps."""
LAST_LINES = 5


class MpsKeeper:
    """The process, as the broker sees it: closing its standard input is telling it to go."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "penstock.runtime.mps.keeper", str(directory)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._child.stdin is not None and self._child.stdout is not None and self._child.stderr is not None
        self._stdin = self._child.stdin
        self.pidfd = os.pidfd_open(self._child.pid)
        self.words = OutputReader(self._child.stdout)
        self.log = OutputReader(self._child.stderr)

    def __repr__(self) -> str:
        return f"<MpsKeeper pid {self._child.pid}>"

    def close(self) -> str:
        """Tells it to go, and waits; says how it ended. What is left of its group, should it have been killed, goes with it."""
        self._stdin.close()
        ends(self.pidfd, LEAVES_S)
        with suppress(ProcessLookupError):  # before it is reaped: until then the group's number is nobody else's
            os.killpg(self._child.pid, signal.SIGKILL)
        status = self._child.wait()
        for pipe in (self.words, self.log):
            pipe.close()
        os.close(self.pidfd)
        return how_it_ended(status)


class WatchedMps:
    """At most one keeper, whose words and end are told to the core's MpsDaemon."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._core: Core | None = None
        self._keeper: MpsKeeper | None = None
        self._failure = ""  # what the keeper said before it ended
        #: what the daemon said last
        self._lines: deque[str] = deque(maxlen=LAST_LINES)

    def __repr__(self) -> str:
        return f"<WatchedMps {self._keeper or 'idle'}>"

    def serve(self, core: Core) -> None:
        """Whose daemon it is."""
        self._core = core

    def start(self) -> None:
        """Starts a keeper, and with it a daemon."""
        assert self._core is not None and self._keeper is None
        self._failure = ""
        self._lines.clear()
        try:
            keeper = self._keeper = MpsKeeper(own_directory())
        except OSError as error:
            self._core.fleet.mps.ended(f"its keeper cannot be started: {error}", self._core.clock())
            return
        self._loop.add(keeper.words.fileno(), lambda _events: self._heard(keeper))
        self._loop.add(keeper.log.fileno(), lambda _events: self._logged(keeper))
        self._loop.add(keeper.pidfd, lambda _events: self._ended(keeper))

    def close(self) -> None:
        """Ends the daemon with all that belongs to it. Idempotent."""
        if self._keeper is not None:
            keeper = self._forget(self._keeper)
            log.info("the MPS daemon was told to quit: its keeper %s", keeper.close())

    def _heard(self, keeper: MpsKeeper) -> None:
        assert self._core is not None
        lines = keeper.words.read_lines()
        if lines is None:
            self._loop.remove(keeper.words.fileno())
            return
        for line in lines:
            if line == READY:
                self._core.fleet.mps.answers()
            elif line:
                self._failure = line.removeprefix(f"{FAILED} ")

    def _logged(self, keeper: MpsKeeper) -> None:
        lines = keeper.log.read_lines()
        if lines is None:
            self._loop.remove(keeper.log.fileno())
            return
        for line in lines:
            log.debug("%s", line)
            self._lines.append(line)

    def _ended(self, keeper: MpsKeeper) -> None:
        assert self._core is not None
        self._heard(keeper)
        self._logged(keeper)
        for line in self._lines:
            log.warning("%s", line)
        how = self._forget(keeper).close()
        is_daemon = how == how_it_ended(EXIT_DAEMON_DIED)
        self._core.fleet.mps.ended(self._failure or ("it died" if is_daemon else f"its keeper {how}"), self._core.clock())

    def _forget(self, keeper: MpsKeeper) -> MpsKeeper:
        for fd in (keeper.words.fileno(), keeper.log.fileno(), keeper.pidfd):
            self._loop.remove(fd)
        self._keeper = None
        return keeper
