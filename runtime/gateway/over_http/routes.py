# SPDX-License-Identifier: Apache-2.0
"""Which path is answered by what. The paths are KServe v2's and Triton's extensions' (server/src/http_server.cc)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from ....ipc.errors import PenstockError
from .exchange import Call, Response, of_error

Handler = Callable[..., Awaitable[Response]]
"""Takes the call and the named groups of its path."""

NOT_FOUND = Response(404)
WRONG_METHOD = Response(405)


class Routes:
    """Paths by regular expression, each with one handler per method."""

    def __init__(self) -> None:
        self._routes: list[tuple[re.Pattern[str], dict[str, Handler]]] = []

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
                handler = handlers.get(call.method)
                if handler is None:
                    return WRONG_METHOD
                try:
                    return await handler(call, **match.groupdict())
                except PenstockError as error:
                    return of_error(error)
        return NOT_FOUND
