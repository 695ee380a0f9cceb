# SPDX-License-Identifier: Apache-2.0
"""What both protocols share: made once per gateway process."""

from __future__ import annotations

from typing import NamedTuple

from ...ipc.local_sockets import LocalUsers
from .documents import Documents
from .inference import Inference
from .link import BrokerLink
from .repository import Repository
from .settings import GatewaySettings
from .shared_memory import SharedMemory
from .shared_settings import SharedSettings
from .tracing import TracedInference, Tracing


class Parts(NamedTuple):
    """The parts of a gateway that answer, whatever the protocol."""

    settings: GatewaySettings
    link: BrokerLink
    inference: TracedInference
    documents: Documents
    repository: Repository
    shared_memory: SharedMemory
    shared_settings: SharedSettings
    tracing: Tracing
    users: LocalUsers

    @classmethod
    def of(cls, settings: GatewaySettings) -> Parts:
        """Those of a gateway with these settings."""
        link = BrokerLink(settings.address, settings.inline_memory_bytes)
        tracing = Tracing(link)
        return cls(
            settings, link, TracedInference(Inference(link), tracing), Documents(link, settings), Repository(link, settings),
            SharedMemory(link, settings), SharedSettings(link, tracing), tracing, LocalUsers(),
        )  # fmt: skip
