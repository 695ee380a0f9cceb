# SPDX-License-Identifier: Apache-2.0
"""What both protocols share: made once per gateway process."""

from __future__ import annotations

from typing import NamedTuple

from .documents import Documents
from .inference import Inference
from .link import BrokerLink
from .repository import Repository
from .settings import GatewaySettings
from .shared_memory import SharedMemory


class Parts(NamedTuple):
    """The parts of a gateway that answer, whatever the protocol."""

    settings: GatewaySettings
    link: BrokerLink
    inference: Inference
    documents: Documents
    repository: Repository
    shared_memory: SharedMemory

    @classmethod
    def of(cls, settings: GatewaySettings) -> Parts:
        """Those of a gateway with these settings."""
        link = BrokerLink(settings.address, settings.inline_memory_bytes)
        return cls(
            settings, link, Inference(link), Documents(link, settings), Repository(link, settings), SharedMemory(link, settings)
        )
