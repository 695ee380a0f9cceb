# SPDX-License-Identifier: Apache-2.0
"""tritonclient's four clients, asked in the same way; and what lies below them: plain HTTP, and gRPC's stub."""

from __future__ import annotations

import asyncio
import http.client
import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
import pytest
from gateways import RunningGateway
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

FLAVORS = ("http", "http.aio", "grpc", "grpc.aio")
ANSWER_S = 30.0


class Asking:
    """One of the clients. Its methods are called by their names; those of asyncio in a loop of their own."""

    def __init__(self, flavor: str, gateway: RunningGateway) -> None:
        self.is_http = flavor.startswith("http")
        self._is_async = flavor.endswith(".aio")
        self._library: Any = importlib.import_module(f"tritonclient.{flavor}")
        self._url = gateway.http if self.is_http else gateway.grpc

    def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        if self._is_async:
            return asyncio.run(self._ask(method, arguments, options))
        with self._library.InferenceServerClient(self._url) as client:
            return getattr(client, method)(*arguments, **options)

    async def _ask(self, method: str, arguments: Any, options: Any) -> Any:
        async with self._library.InferenceServerClient(self._url) as client:
            return await getattr(client, method)(*arguments, **options)

    def refused(self, method: str, *arguments: Any, **options: Any) -> tuple[str, str]:
        """(status, message) of the error that the method raises."""
        with pytest.raises(InferenceServerException) as raised:
            self(method, *arguments, **options)
        return str(raised.value.status()), raised.value.message()


class Answer(NamedTuple):
    """A response over HTTP. `content`: what its JSON says, or the text that is none."""

    status: int
    content: Any


def over_http(address: str, method: str, path: str, body: bytes | str | None = None) -> Answer:
    """One request without any client's help."""
    connection = http.client.HTTPConnection(address, timeout=ANSWER_S)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    try:
        return Answer(response.status, json.loads(text))
    except ValueError:
        return Answer(response.status, text)


@contextmanager
def stub_of(address: str) -> Iterator[Any]:
    """The service's stub, for what tritonclient's clients cannot be made to send."""
    with grpc.insecure_channel(address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@contextmanager
def grpc_error(code: str, details: str) -> Iterator[None]:
    """The call in the block ends with this code and these words."""
    with pytest.raises(grpc.RpcError) as raised:
        yield
    assert (raised.value.code().name, raised.value.details()) == (code, details)
