# SPDX-License-Identifier: Apache-2.0
"""What the broker says of its models, asked once per connection."""

from __future__ import annotations

from typing import Any

from ..ipc.messages import Query
from .models import ModelInfo
from .session import Session

Model = str | ModelInfo


class Catalog:
    """Asks, and remembers models until `forget`: with another broker they may be others. Thread-safe."""

    def __init__(self, session: Session) -> None:
        self._session = session
        #: (name, version asked for) -> what this broker said of it
        self._models: dict[tuple[str, int], ModelInfo] = {}

    def __repr__(self) -> str:
        return f"<Catalog {sorted(self._models)}>"

    def forget(self) -> None:
        """The connection was lost."""
        self._models.clear()

    def find(self, model: Model, version: int) -> ModelInfo:
        """The model, as it is or as the broker describes it. Raises what the broker answers: NOT_FOUND, UNAVAILABLE."""
        if isinstance(model, ModelInfo):
            return model
        self._session.live()
        found = self._models.get((model, version))
        if found is None:
            found = ModelInfo.from_metadata(self.query("metadata", model, version), version)
            self._models[model, version] = found
        return found

    def query(self, what: str, model: str, version: int) -> Any:
        """One of the broker's documents."""
        return self._session.ask(lambda number: (Query(number, what, model, version), ())).value
