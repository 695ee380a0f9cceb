# SPDX-License-Identifier: Apache-2.0
"""Settings that this broker and all its gateways share, and that clients may change: Triton's logging and trace extensions.

The broker keeps them. A gateway is told of them when it says that it serves, and whenever they have changed: one that was
restarted knows what the others do.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from ..ipc.errors import CallerError, Code, PenstockError, invalid
from ..ipc.log_lines import LogSettings, switch_log
from ..ipc.messages import Adjust, Adjusted, Answer
from ..ipc.trace_settings import TraceChange, TraceSettings
from .control import require_owner
from .sampling import ALL, Claim, Sampling
from .sessions import require_greeting

if TYPE_CHECKING:
    from .core import Core
    from .sessions import Session

log = logging.getLogger("penstock.broker")

T = TypeVar("T")


class LogChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be changed of LogSettings."""

    log_info: bool | UnsetType = UNSET
    log_warning: bool | UnsetType = UNSET
    log_error: bool | UnsetType = UNSET
    log_verbose_level: int | UnsetType = UNSET
    log_format: str | UnsetType = UNSET


class Adjustments:
    """The settings as they are, and who is told of them."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.log = core.settings.log  # as it is
        self._sampling = Sampling(core.settings.trace)

    def __repr__(self) -> str:
        return f"<Adjustments {self.log!r}, {self._sampling!r}>"

    def check_invariants(self) -> None:
        """Those of the sampling."""
        self._sampling.check_invariants()

    def adjust(self, session: Session, message: Adjust) -> None:
        """Changes what the message says, and answers with what holds then. Raises CallerError, and has changed nothing."""
        require_greeting(session)
        require_owner(session, "see and change the settings of this broker's gateways")
        if message.what == "log":
            value: LogSettings | TraceSettings = self._adjust_log(message.values)
        else:
            value = self._adjust_trace(message.model, message.values)
        self._core.reception.send(session, Answer(message.id, msgspec.to_builtins(value)))

    def _adjust_log(self, values: dict[str, Any]) -> LogSettings:
        if values:
            made = {name: value for name, value in structs.asdict(_convert(values, LogChange)).items() if value is not UNSET}
            self.log = _convert({**msgspec.to_builtins(self.log), **made}, LogSettings)
            switch_log(self.log)
            self._tell_all()
        return self.log

    def _adjust_trace(self, model: str, values: dict[str, Any]) -> TraceSettings:
        if model:
            self._require_known(model)
        if values:
            self._sampling.change(model, _convert(values, TraceChange))
            self._tell_all()
        return self._sampling.settings(model)

    def _require_known(self, model: str) -> None:
        with suppress(PenstockError):
            if self._core.models.find(model, -1).accepts:
                return
        raise invalid(f"Request for unknown model : {model}")

    def claim(self, session: Session, model: str) -> Claim | None:
        """A gateway has sampled a request for a model. None: it is not to be traced after all."""
        if not session.is_gateway:
            raise CallerError("only a gateway claims traces", Code.UNSUPPORTED)
        claim = self._sampling.claim(model)
        if claim is not None and not self._sampling.settings(model).samples:
            self._tell_all()  # that was the last
        return claim

    def tell(self, gateway: Session) -> None:
        """Tells one gateway of all settings."""
        trace = {scope: msgspec.to_builtins(self._sampling.settings(scope)) for scope in (ALL, *self._sampling.models)}
        self._core.reception.send(gateway, Adjusted(msgspec.to_builtins(self.log), trace))

    def _tell_all(self) -> None:
        for session in self._core.reception.sessions.values():
            if session.is_gateway:
                self.tell(session)


def _convert(values: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise invalid(f"such settings cannot be: {error}") from error


def remove_old_traces(file: str) -> None:
    """Removes what an earlier broker's gateways have left under this name: those of this one add to what is there.

    Raises OSError when that cannot be.
    """
    path = Path(file)
    path.unlink(missing_ok=True)
    parts = re.compile(re.escape(path.name) + r"\.\d+")
    for other in path.parent.iterdir() if path.parent.is_dir() else ():
        if parts.fullmatch(other.name):
            other.unlink()
