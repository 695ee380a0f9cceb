# SPDX-License-Identifier: Apache-2.0
"""KServe v2 over HTTP: the routes, each answered by the part that it belongs to."""

from __future__ import annotations

from ..parts import Parts
from . import documents, inference, repository, shared_memory, shared_settings
from .restrictions import restrictions_of
from .routes import Routes

MODEL = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"


def make_routes(parts: Parts) -> Routes:
    """Every route of the gateway."""
    routes = Routes(restrictions_of(parts.settings.http_restricted_api))
    infer = inference.HttpInference(parts)
    routes.add("POST", f"{MODEL}/infer", infer.infer)
    documents.add_routes(routes, parts, MODEL)
    repository.add_routes(routes, parts)
    shared_memory.add_routes(routes, parts)
    shared_settings.add_routes(routes, parts)
    return routes
