# SPDX-License-Identifier: Apache-2.0
"""What the broker says of its models, asked once per connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..ipc.errors import CallerError, Code, PenstockError
from ..ipc.messages import Query
from .models import ModelInfo
from .session import Session

Model = str | ModelInfo
Models = dict[tuple[str, int], ModelInfo]
"""(name, version asked for) -> what this broker said of it."""
T = TypeVar("T")


class Catalog:
    """Asks, and remembers models until `forget`: with another broker they may be others. Thread-safe."""

    def __init__(self, session: Session, models: Models) -> None:
        self._session = session
        self._models = models

    def __repr__(self) -> str:
        return f"<Catalog {sorted(self._models)}>"

    def forget(self) -> None:
        """The connection was lost."""
        self._models.clear()

    def forget_model(self, name: str) -> None:
        """The model may be another now: it was loaded or unloaded, or a request that was made for it did not fit it."""
        for key in list(self._models):  # a copy made at once: another thread may be learning
            if key[0] == name:
                self._models.pop(key, None)

    def find(self, model: Model, version: int) -> ModelInfo:
        """The model, as it is or as the broker describes it. Raises what the broker answers: NOT_FOUND, UNAVAILABLE."""
        if isinstance(model, ModelInfo):
            return model
        self._session.live()
        return self.known(model, version) or self.learn(model, version, self.query("metadata", model, version))

    def known(self, model: str, version: int) -> ModelInfo | None:
        """What this broker has said of the model, if it was asked."""
        return self._models.get((model, version))

    def learn(self, model: str, version: int, document: Mapping[str, Any]) -> ModelInfo:
        """Remembers what it says: its `metadata` document."""
        found = self._models[model, version] = ModelInfo.from_metadata(document, version)
        return found

    def fit(self, model: Model, version: int, make: Callable[[ModelInfo], T]) -> T:
        """What `make` makes of the model. If it refuses, the broker is asked again: the model may have been loaded anew."""
        info = self.find(model, version)
        try:
            return make(info)
        except CallerError:
            if isinstance(model, ModelInfo):
                raise
            self.forget_model(model)
            renewed = self.find(model, version)
            if renewed == info:
                raise
        return make(renewed)

    def query(self, what: str, model: str, version: int) -> Any:
        """One of the broker's documents."""
        return self._session.ask(lambda number: (Query(number, what, model, version), ())).value


def doubt(models: Models, error: PenstockError) -> None:
    """The broker answered this; if a request did not fit its model, what is known of models may be out of date.

    The connection tells it of whatever is refused, awaited or not. It is given no more than the models: the reader's thread
    keeps the connection, which must not keep a client that nobody closed.
    """
    if isinstance(error, CallerError) and error.code is Code.INVALID_ARG:
        models.clear()
