# SPDX-License-Identifier: Apache-2.0
"""What clients ask about the server and its models: the broker's documents, as Triton spells them."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any

from ...ipc.errors import BrokerError, CallerError, ModelError, PenstockError, invalid
from .link import BrokerLink
from .settings import GatewaySettings
from .unknown_models import as_triton, check_model_name, no_statistics

EXTENSIONS = (
    "classification", "model_repository", "model_repository(unload_dependents)", "schedule_policy", "model_configuration",
    "system_shared_memory", "cuda_shared_memory", "binary_tensor_data", "parameters", "statistics", "trace", "logging",
)  # fmt: skip
"""Those of Triton's list that this release has: all but `sequence`."""
_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,19}")


class Documents:
    """Asks the broker each time: nothing is remembered that could be out of date."""

    def __init__(self, link: BrokerLink, settings: GatewaySettings) -> None:
        self._link = link
        self._settings = settings
        self._leaving = False

    def __repr__(self) -> str:
        return f"<Documents of {self._link!r}{', leaving' if self._leaving else ''}>"

    def leave(self) -> None:
        """From now on health checks are told that this server is exiting."""
        self._leaving = True

    def server(self) -> dict[str, Any]:
        """Server metadata."""
        return {"name": self._settings.server_id, "version": version("penstock"), "extensions": list(EXTENSIONS)}

    def check_live(self) -> None:
        """Raises BrokerError (UNAVAILABLE) once this gateway is leaving. A broker that is gone is a matter of readiness."""
        if self._leaving:
            raise BrokerError("Server exiting")

    async def is_ready(self) -> bool:
        """Whether the server is ready: strictly, which is with all its models, or at all. Raises as `check_live`."""
        self.check_live()
        try:
            found = await self._link.query("ready")
        except BrokerError:  # it is gone, or does not answer
            return False
        return bool(found["ready"] if self._settings.strict_readiness else found["up"])

    async def is_model_ready(self, model: str, wanted: int) -> bool:
        """Whether a model version is ready. An unknown one is not."""
        try:
            return bool(model and (await self._of_model("ready", model, wanted))["ready"])
        except (CallerError, BrokerError):
            return False

    async def metadata(self, model: str, wanted: int) -> dict[str, Any]:
        """Model metadata. Raises CallerError, or ModelError where no version is ready."""
        document = await self._of_model("metadata", model, wanted)

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
        """The model's completed configuration, in Triton's JSON. Raises as `metadata`."""
        await self._of_model("metadata", model, wanted)  # the broker tells the configuration of what is not ready, too
        return dict(await self._of_model("config", model, wanted))

    async def statistics(self, model: str = "", wanted: int = -1) -> dict[str, Any]:
        """Statistics of a model version, of all versions of a model that are ready, or of everything that is."""
        if not model:
            rows = (await self._link.query("statistics"))["model_stats"]
            return {"model_stats": sorted(rows, key=lambda row: (row["name"], int(row["version"])))}
        try:
            ready = (await self._of_model("metadata", model))["versions"]
            rows = (await self._of_model("statistics", model))["model_stats"]
        except (CallerError, ModelError) as error:
            raise no_statistics(model) from error
        chosen = [row for row in rows if row["version"] in ready and wanted in (-1, int(row["version"]))]
        if not chosen:
            raise no_statistics(model, is_version=True)
        return {"model_stats": chosen}

    async def _of_model(self, what: str, model: str, wanted: int = -1) -> Any:
        check_model_name(model)
        try:
            return await self._link.query(what, model, wanted)
        except PenstockError as error:
            raise as_triton(error, model, wanted) from error


def version_of(text: str | None) -> int:
    """A model version as paths and gRPC messages spell it; -1 when it is left out. Raises CallerError in Triton's words."""
    if not text:
        return -1
    found = int(text) if _INTEGER.fullmatch(text) else 2**63
    if found >= 2**63:
        raise invalid(
            f"failed to get model version from specified version string '{text}' (details: stol), "
            "version should be an integral value > 0"
        )
    if found < 0:
        raise invalid(f"invalid model version specified '{text}' , version should be an integral value > 0")
    return found
