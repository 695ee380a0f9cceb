# SPDX-License-Identifier: Apache-2.0
"""Which path is answered by what. The paths are KServe v2's and Triton's extensions' (server/src/http_server.cc)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import unquote

from ....ipc.errors import PenstockError
from .exchange import Call, Response, of_error, of_message
from .restrictions import Restriction

Handler = Callable[..., Awaitable[Response]]
"""Takes the call and the named groups of its path."""

NOT_FOUND = of_message(404, "Not Found")
WRONG_METHOD = of_message(405, "Method Not Allowed")


class Routes:
    """Paths by regular expression, each with one handler per method."""

    def __init__(self, restrictions: Sequence[Restriction] = ()) -> None:
        self._routes: list[tuple[re.Pattern[str], dict[str, Handler]]] = []
        self._restrictions = restrictions

    def __repr__(self) -> str:
        return f"<Routes {[pattern.pattern for pattern, _ in self._routes]}>"

    def add(self, method: str, path: str, handler: Handler) -> None:
        """`path`: a regular expression for the whole of it; its named groups become the handler's arguments."""
        for pattern, handlers in self._routes:
            if pattern.pattern == path:
                handlers[method] = handler
                return
        self._routes.append((re.compile(path), {method: handler}))

    async def answer(self, call: Call) -> Response:
        """The response to a call; errors as Triton's."""
        for pattern, handlers in self._routes:
            match = pattern.fullmatch(call.path)
            if match is not None:
                refusal = self._refusal(call)
                if refusal is not None:
                    return refusal
                handler = handlers.get(call.method)
                if handler is None:
                    return WRONG_METHOD
                try:
                    return await handler(call, **_named(match))
                except PenstockError as error:
                    return of_error(error)
        return NOT_FOUND

    def _refusal(self, call: Call) -> Response | None:
        for restriction in self._restrictions:
            refusal = restriction.refusal(call)
            if refusal is not None:
                return refusal
        return None


def _named(match: re.Match[str]) -> dict[str, str | None]:
    """What the named groups matched, without percent-escapes: an escaped slash belongs to a name."""
    found = match.groupdict()
    if "%" in match.string:
        return {name: value and unquote(value) for name, value in found.items()}
    return found
