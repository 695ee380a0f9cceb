# SPDX-License-Identifier: Apache-2.0
"""What a server says of itself in KServe v2 with Triton's extensions, as the load generators know it. Pure.

The documents are those of the HTTP endpoints. Over gRPC the same come as protobuf's JSON, which leaves out what is 0 and
writes 64-bit numbers as text: so every number is read by int(), and none is missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....ipc.errors import BrokerError, CallerError, Code, ModelError, PenstockError, not_found
from ...models import ModelInfo, TensorInfo
from ..stages import ServerCounts

Document = Mapping[str, Any]

CONFIGURATION = "model_configuration"
STATISTICS = "statistics"
"""Extensions, as server metadata names them."""
NO_CONFIGURATION = "the server tells no model configuration: requests have the whole shapes of its metadata, without a batch"
NO_STATISTICS = (
    "the server has no statistics: Network+Server Send/Recv holds all that it does, its queue and compute times are 0"
)
DURATIONS = ("success", "queue", "compute_input", "compute_infer", "compute_output")

PORTS = {"http": 8000, "grpc": 8001}
"""Triton's."""
_OF_HTTP = {
    400: Code.INVALID_ARG, 404: Code.NOT_FOUND, 409: Code.ALREADY_EXISTS, 499: Code.CANCELLED, 500: Code.INTERNAL,
    501: Code.UNSUPPORTED, 503: Code.UNAVAILABLE, 504: Code.DEADLINE_EXCEEDED,
}  # fmt: skip
_OF_GRPC = {
    "INVALID_ARGUMENT": Code.INVALID_ARG, "NOT_FOUND": Code.NOT_FOUND, "ALREADY_EXISTS": Code.ALREADY_EXISTS,
    "CANCELLED": Code.CANCELLED, "INTERNAL": Code.INTERNAL, "UNIMPLEMENTED": Code.UNSUPPORTED, "UNAVAILABLE": Code.UNAVAILABLE,
    "RESOURCE_EXHAUSTED": Code.OVERLOADED, "DEADLINE_EXCEEDED": Code.DEADLINE_EXCEEDED,
}  # fmt: skip
_CALLERS = frozenset({Code.INVALID_ARG, Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.UNSUPPORTED})


def version_text(version: int) -> str:
    """As requests name a version; empty: the newest."""
    return str(version) if version > 0 else ""


def error_of(status: str | int, message: str) -> PenstockError:
    """The error of an answer: `status` is HTTP's number, or the name of gRPC's code. The fault is told from the code."""
    word = str(status).removeprefix("StatusCode.")
    code = _OF_HTTP.get(int(word), Code.INTERNAL) if word.isdigit() else _OF_GRPC.get(word, Code.INTERNAL)
    kind = CallerError if code in _CALLERS else ModelError if code == Code.INTERNAL else BrokerError
    return kind(message, code)


def model_of(metadata: Document, configuration: Document, asked_version: int) -> ModelInfo:
    """The model, from its metadata and its configuration (empty: the server has none, and shapes are taken as a whole)."""
    most = int(configuration.get("max_batch_size", 0))
    lead = 1 if most else 0
    versions = tuple(sorted(int(text) for text in metadata.get("versions", ()) if str(text).isdigit()))
    version = asked_version if asked_version > 0 else max(versions, default=1)

    def tensors(rows: Sequence[Document]) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(row["name"], row["datatype"], tuple(map(int, row.get("shape", ())))[lead:]) for row in rows)

    return ModelInfo(
        metadata["name"], asked_version, version, versions, metadata.get("platform", ""), most,
        tensors(metadata.get("inputs", ())), tensors(metadata.get("outputs", ())),
    )  # fmt: skip


def counts_of(statistics: Document, model: ModelInfo) -> ServerCounts:
    """What the server has counted of the model's version. Raises CallerError (NOT_FOUND) where it is not in there."""
    for element in statistics.get("model_stats", ()):
        if element["name"] == model.name and element.get("version", "1") == str(model.version):
            counted = element.get("inference_stats", {})
            succeeded = int(counted.get("success", {}).get("count", 0))
            durations = [int(counted.get(name, {}).get("ns", 0)) for name in DURATIONS]
            cached = int(counted.get("cache_hit", {}).get("count", 0))
            return ServerCounts._make([succeeded, *durations, 0, cached])
    raise not_found(f"the server has no statistics of model '{model.name}' version {model.version}")
