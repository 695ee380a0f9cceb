# SPDX-License-Identifier: Apache-2.0
"""Answers of HTTP, read by the parser of geventhttpclient, which tritonclient brings: llhttp, without sockets or gevent."""

from __future__ import annotations

from .wire import lacking

try:
    from geventhttpclient.response import HTTPParseError, HTTPResponse
except ImportError as error:
    raise lacking("http", error) from error

__all__ = ["HTTPParseError", "HttpAnswer"]

FINAL = 200
"""Statuses below are interim: the answer follows (RFC 9110, 15.2)."""


class HttpAnswer(HTTPResponse):
    """To one request: fed with what comes for it until it is complete; with b"" where the stream ends."""

    def __init__(self) -> None:
        super().__init__()
        self.complete = False

    def check_invariants(self) -> None:
        """What is complete has its head."""
        assert not self.complete or self.headers_complete, self

    @property
    def body(self) -> bytearray:
        """As far as it is there."""
        content: bytearray = self._body_buffer
        return content

    def _on_message_begin(self) -> None:
        if self.complete:
            raise HTTPParseError("more than one answer to a request")
        # An interim answer (1xx) may have come before: older releases (those for Python 3.10) take it for the whole answer.
        self.message_begun = self.message_complete = self.headers_complete = False
        super()._on_message_begin()

    def _on_message_complete(self) -> None:
        super()._on_message_complete()
        self.complete = self.get_code() >= FINAL
