# SPDX-License-Identifier: Apache-2.0
"""The broker's documents as messages: metadata, configuration and statistics over gRPC."""

from __future__ import annotations

from typing import Any

from ..documents import Documents, version_of
from .schema import config_pb, parse_dict, pb


async def model_ready(documents: Documents, request: Any) -> Any:
    """The answer to ModelReady: of a model that nobody knows, too, where only a version that is none is an error."""
    return pb.ModelReadyResponse(ready=await documents.is_model_ready(request.name, version_of(request.version)))


async def model_metadata(documents: Documents, request: Any) -> Any:
    """The answer to ModelMetadata."""
    return parse_dict(await documents.metadata(request.name, version_of(request.version)), pb.ModelMetadataResponse())


async def model_config(documents: Documents, request: Any) -> Any:
    """The answer to ModelConfig."""
    document = await documents.config(request.name, version_of(request.version))
    return pb.ModelConfigResponse(config=parse_dict(document, config_pb.ModelConfig()))


async def model_statistics(documents: Documents, request: Any) -> Any:
    """The answer to ModelStatistics."""
    return parse_dict(await documents.statistics(request.name, version_of(request.version)), pb.ModelStatisticsResponse())
