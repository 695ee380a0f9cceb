# SPDX-License-Identifier: Apache-2.0
"""What becomes of queued requests whose queue timeout has passed: their level's policy rejects or delays them."""

from __future__ import annotations

from ...ipc.errors import Code
from .commands import AnyCommand
from .dispatcher import Dispatcher
from .ledger import Ledger
from .models import Model
from .outcomes import Outcomes
from .requests import Request
from .watchdogs import NS_PER_MS


class Expiry:
    """Time goes before events: at each step, what has expired is dealt with first. Its state is the dispatcher's timeouts."""

    __slots__ = ("_dispatcher", "_ledger", "_outcomes")

    def __init__(self, dispatcher: Dispatcher, ledger: Ledger, outcomes: Outcomes) -> None:
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._outcomes = outcomes

    def settle(self, now_ns: int, out: list[AnyCommand]) -> None:
        """Rejects or delays what has expired, and sends what may be sent now that it is out of the way."""
        for model in self.expire(now_ns, out):
            self._dispatcher.settle(model, now_ns, out)

    def expire(self, now_ns: int, out: list[AnyCommand]) -> list[Model]:
        """Rejects or delays what has expired. Returns the models that are to be settled."""
        touched: dict[int, Model] = {}
        for number in self._dispatcher.timeouts.pop_due(now_ns):
            request = self._ledger.find(number)
            assert request is not None, number
            if request.model not in touched:
                model = touched[request.model] = self._dispatcher.models[request.model]
                model.start_over()  # once, whatever has expired of the batch being formed
            self._expired(request, touched[request.model], now_ns, out)
        return list(touched.values())

    def _expired(self, request: Request, model: Model, now_ns: int, out: list[AnyCommand]) -> None:
        if not model.delay(request):
            message = f"Request timeout expired: it was {(now_ns - request.arrived_ns) / NS_PER_MS:.1f} ms in the queue"
            self._outcomes.finish(request, model, Code.UNAVAILABLE, message, "broker", out)

    def __repr__(self) -> str:
        return f"<expiry of {self._dispatcher.timeouts!r}>"
