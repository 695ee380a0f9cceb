# SPDX-License-Identifier: Apache-2.0
"""What the broker says of its models, asked once per connection."""

from __future__ import annotations

from collections.abc import Mapping
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
        return self.known(model, version) or self.learn(model, version, self.query("metadata", model, version))

    def known(self, model: str, version: int) -> ModelInfo | None:
        """What this broker has said of the model, if it was asked."""
        return self._models.get((model, version))

    def learn(self, model: str, version: int, document: Mapping[str, Any]) -> ModelInfo:
        """Remembers what it says: its `metadata` document."""
        found = self._models[model, version] = ModelInfo.from_metadata(document, version)
        return found

    def query(self, what: str, model: str, version: int) -> Any:
        """One of the broker's documents."""
        return self._session.ask(lambda number: (Query(number, what, model, version), ())).value
