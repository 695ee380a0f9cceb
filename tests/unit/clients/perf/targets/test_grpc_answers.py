# SPDX-License-Identifier: Apache-2.0
"""Which outputs of an answer over gRPC have their content in it, and which lie in shared memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("grpc")

from tritonclient.grpc import service_pb2

from penstock.clients.perf.targets.kserve_grpc import GrpcWire


def found(shape: list[int], contents: list[bytes], **parameters: str) -> Any:
    said = {name: service_pb2.InferParameter(string_param=value) for name, value in parameters.items()}
    output = service_pb2.ModelInferResponse.InferOutputTensor(name="y", datatype="FP32", shape=shape, parameters=said)
    answer = service_pb2.ModelInferResponse(outputs=[output], raw_output_contents=contents)
    wire: Any = SimpleNamespace(url="127.0.0.1:8001")
    (one,) = GrpcWire.found(wire, answer.SerializeToString())
    return one.content


def test_content_that_is_there_is_the_outputs() -> None:
    assert found([1, 2], [b"12345678"]) == b"12345678"


def test_an_output_in_shared_memory_has_none_however_the_server_says_so() -> None:
    assert found([1, 2], [], shared_memory_region="r") is None
    assert found([1, 2], [b""], shared_memory_region="r") is None
    assert found([1, 2], [b""]) is None  # as Triton 2.51 answers


def test_an_output_without_elements_is_there_and_empty() -> None:
    assert found([0, 2], [b""]) == b""
