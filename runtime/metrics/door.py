# SPDX-License-Identifier: Apache-2.0
"""Scrapes: a thread that speaks HTTP, and the event loop, which alone looks at the broker's state.

    scraper --GET /metrics--> thread: put a question, wake the loop, wait --> text
                                |                                  ^
                                v                                  |
                              loop: documents as they are now ----+

So a slow scraper costs the loop nothing, and what is exposed is one moment. Nothing here runs unless somebody scrapes.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from ...ipc.errors import BrokerError
from ..event_loop import EventLoop
from .exposition import CONTENT_TYPE, exposition
from .families import Documents, families
from .machine import Machine

log = logging.getLogger("penstock.metrics")

PATIENCE_S = 5.0
"""How long the loop may take to answer, and a scraper to send its request or to read the answer."""


class MetricsDoor:
    """Listens on `host`:`port` (0: a free one). `look` is called in the loop's thread."""

    def __init__(self, host: str, port: int, loop: EventLoop, look: Callable[[], Documents]) -> None:
        self._loop = loop
        self._look = look
        self._machine = Machine()  # the thread's
        #: questions of the thread that the loop has not answered
        self._asked: deque[Future[Documents]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._server = _Server((host, port), self.scrape)
        except OSError as error:
            os.close(self._wake)
            raise BrokerError(f"metrics: cannot listen on {host}:{port}: {error.strerror}") from error
        self.address = f"http://{host}:{self._server.server_port}/metrics"
        loop.add(self._wake, self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<MetricsDoor {self.address}, {len(self._asked)} questions>"

    def scrape(self) -> str:
        """The text, as of now. Called in the thread; raises TimeoutError when the loop does not answer."""
        question: Future[Documents] = Future()
        self._asked.append(question)
        os.eventfd_write(self._wake, 1)
        return exposition([*families(question.result(PATIENCE_S)), *self._machine.families()])

    def _answer(self, _events: int) -> None:
        os.eventfd_read(self._wake)
        while self._asked:
            question = self._asked.popleft()
            try:
                question.set_result(self._look())
            except Exception as error:  # noqa: BLE001 - a scrape must not end the broker; the thread tells whoever asked
                question.set_exception(error)

    def close(self) -> None:
        """Stops listening; a scrape that waits gets an error."""
        self._loop.remove(self._wake)
        while self._asked:
            self._asked.popleft().set_exception(BrokerError("the broker is leaving"))
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        os.close(self._wake)


class _Server(HTTPServer):
    """One scrape at a time: a queue of them is no reason to take more of the broker's interpreter."""

    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], scrape: Callable[[], str]) -> None:
        super().__init__(address, _Handler)
        self.scrape = scrape


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE_S
    server_version = "penstock"
    sys_version = ""

    def do_GET(self) -> None:
        """Answers /metrics; any other path is 404."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "there is only /metrics")
            return
        assert isinstance(self.server, _Server)
        try:
            text = self.server.scrape()
        except Exception as error:  # noqa: BLE001 - whatever kept the broker from answering, the scraper is told
            self.send_error(503, f"{type(error).__name__}: {error}")
            return
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: Any) -> None:  # noqa: A002 - http.server's signature
        """Scrapes are routine."""
        log.debug("%s %s", self.address_string(), format % values)
