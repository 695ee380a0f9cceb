# SPDX-License-Identifier: Apache-2.0
"""What clients ask about the server and its models: the broker's documents, as Triton spells them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from ...ipc.errors import invalid
from .link import BrokerLink
from .settings import GatewaySettings

EXTENSIONS = (
    "classification", "model_repository", "model_repository(unload_dependents)", "schedule_policy", "model_configuration",
    "system_shared_memory", "cuda_shared_memory", "binary_tensor_data", "parameters", "statistics", "trace", "logging",
)  # fmt: skip
"""Those of Triton's list that this release has."""


class Documents:
    """Asks the broker each time: nothing is remembered that could be out of date."""

    def __init__(self, link: BrokerLink, settings: GatewaySettings) -> None:
        self._link = link
        self._settings = settings

    def __repr__(self) -> str:
        return f"<Documents of {self._link!r}>"

    def server(self) -> dict[str, Any]:
        """Server metadata."""
        return {"name": self._settings.server_id, "version": version("penstock"), "extensions": list(EXTENSIONS)}

    async def is_ready(self, model: str = "", wanted: int = -1) -> bool:
        """Whether a model version, or (no name) the server, is ready."""
        return bool((await self._link.query("ready", model, wanted))["ready"])

    async def metadata(self, model: str, wanted: int) -> dict[str, Any]:
        """Model metadata."""
        document = await self._link.query("metadata", model, wanted)

        def tensors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [{key: row[key] for key in ("name", "datatype", "shape")} for row in rows]

        return {
            "name": document["name"],
            "versions": document["versions"] if wanted < 0 else [str(wanted)],
            "platform": document["platform"],
            "inputs": tensors(document["inputs"]),
            "outputs": tensors(document["outputs"]),
        }

    async def config(self, model: str, wanted: int) -> dict[str, Any]:
        """The model's configuration, in Triton's JSON."""
        return dict(await self._link.query("config", model, wanted))

    async def statistics(self, model: str = "", wanted: int = -1) -> dict[str, Any]:
        """Statistics of a model version, of all versions of a model, or of everything."""
        return dict(await self._link.query("statistics", model, wanted))


def version_of(text: str | None) -> int:
    """A model version as paths and gRPC messages spell it; -1 when it is left out. Raises CallerError in Triton's words."""
    if not text:
        return -1
    try:
        found = int(text)
    except ValueError:
        found = 0
    if not 0 < found < 2**63:
        raise invalid(
            f"failed to get model version from specified version string '{text}' (details: not a number above 0), "
            "version should be an integral value > 0"
        )
    return found
