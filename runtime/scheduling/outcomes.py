# SPDX-License-Identifier: Apache-2.0
"""How requests end other than in a batch that was answered: the commands for it, and the entries in the ledger."""

from __future__ import annotations

from collections.abc import Iterable

from ...ipc.errors import Code
from .commands import AnyCommand, Finish, Release
from .ledger import Ledger
from .models import Model
from .requests import FINISHED_EARLY, QUEUED, SENT, WITHHELD, Request


class Outcomes:
    """Gives outcomes and releases; its only state is the ledger's."""

    __slots__ = ("_ledger",)

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def refuse(
        self, request: Request, code: Code, message: str, fault: str, out: list[AnyCommand], *, accepted: bool = True
    ) -> None:
        """Outcome and release at once, of a request that no worker can touch; `accepted` false: it has just arrived."""
        self._ledger.end((request,))
        out.append(Finish(request, code, message, fault, True, accepted))

    def finish(self, request: Request, model: Model, code: Code, message: str, fault: str, out: list[AnyCommand]) -> None:
        """The outcome of a request before its batch gives it one; nothing where it already has one."""
        if request.state is QUEUED:
            self.refuse(request, code, message, fault, out)
            model.withdraw(request)
        elif request.state is SENT:
            self._ledger.finish_early(request)
            out.append(Finish(request, code, message, fault, False))
        elif request.state is WITHHELD:
            self.refuse(request, code, message, fault, out)

    def fail_queued(self, requests: Iterable[Request], message: str, out: list[AnyCommand]) -> None:
        """Requests that were queued for a model that will not serve them."""
        for request in requests:
            self.refuse(request, Code.UNAVAILABLE, message, "model", out)

    def fail_running(self, requests: list[Request], message: str, out: list[AnyCommand]) -> None:
        """The batch that a worker had begun when it went away."""
        for request in requests:
            if not self._release_finished(request, out):
                self.refuse(request, Code.INTERNAL, message, "model", out)

    def take_back(self, requests: list[Request], out: list[AnyCommand]) -> list[Request]:
        """A batch that was never begun: the requests that are queued again; those that have their outcome are over."""
        returned = [request for request in requests if not self._release_finished(request, out)]
        for request in returned:
            request.become(QUEUED)
        return returned

    def _release_finished(self, request: Request, out: list[AnyCommand]) -> bool:
        if request.state is not FINISHED_EARLY:
            return False
        self._ledger.end((request,))
        out.append(Release(request))
        return True

    def __repr__(self) -> str:
        return f"<outcomes of {self._ledger!r}>"
