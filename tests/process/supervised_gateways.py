# SPDX-License-Identifier: Apache-2.0
"""Brokers that start gateways themselves, and requests to them, each on a connection of its own."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from running import RunningBroker
from tritonclient.grpc import service_pb2, service_pb2_grpc

from penstock.clients import Client

BOTH = ("--http-port", "0", "--grpc-port", "0")
HOPELESS_S = 30.0
"""Much longer than anything here takes."""


@contextmanager
def served(folder: Path, repository: Path, *options: str) -> Iterator[tuple[RunningBroker, Client]]:
    """A broker with gateways for both protocols, and a local client that looks at it."""
    with RunningBroker(folder, repository, *BOTH, *options) as broker, broker.client("local") as client:
        yield broker, client


def infer_document(*values: float) -> str:
    return json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": values}]})


def post(place: str, model: str) -> http.client.HTTPConnection:
    """A connection of its own on which a request has been sent."""
    connection = http.client.HTTPConnection(place, timeout=HOPELESS_S)
    connection.request("POST", f"/v2/models/{model}/infer", infer_document(1, 2), {"Content-Type": "application/json"})
    return connection


def call(place: str, model: str, stack: ExitStack) -> Any:
    """The future of a request on a connection of its own."""
    channel = grpc.insecure_channel(place, options=[("grpc.use_local_subchannel_pool", 1)])
    stack.callback(channel.close)
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])
    request = service_pb2.ModelInferRequest(
        model_name=model, inputs=[tensor], raw_input_contents=[np.array([1, 2], np.float32).tobytes()]
    )
    return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request, timeout=HOPELESS_S)


def in_flight(client: Client) -> list[int]:
    return [row["in_flight"] for row in client.status()["gateways"]]


def gateway_pids(client: Client) -> list[int]:
    """The pids of the gateways of this client's broker, 0 for one that does not serve."""
    return [row["pid"] if row["state"] == "serving" else 0 for row in client.status()["gateways"]]
