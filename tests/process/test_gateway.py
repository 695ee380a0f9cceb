# SPDX-License-Identifier: Apache-2.0
"""The gateway as Triton's clients see it: the whole way, over both protocols."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from gateways import RunningGateway
from running import RunningBroker, add_model

PROTOCOLS = {"http": over_http, "grpc": over_grpc}


@pytest.fixture
def gateway(tmp_path: Path, repository: Path) -> Iterator[RunningGateway]:
    add_model(repository, "echo")
    with RunningBroker(tmp_path, repository) as broker, RunningGateway(tmp_path, broker.addresses["local"]) as running:
        yield running


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unmodified_client_infers(gateway: RunningGateway, protocol: str) -> None:
    library: Any = PROTOCOLS[protocol]
    with library.InferenceServerClient(getattr(gateway, protocol)) as client:
        given = library.InferInput("x", [2, 2], "FP32")
        values = np.array([[1, 2], [3, 4]], np.float32)
        given.set_data_from_numpy(values)
        answer = client.infer("echo", [given])
        assert np.array_equal(answer.as_numpy("y"), values)


@pytest.mark.parametrize("host", ["::1", "::"])
def test_a_gateway_serves_where_addresses_are_those_of_ipv6(tmp_path: Path, repository: Path, host: str) -> None:
    add_model(repository, "echo")
    with (
        RunningBroker(tmp_path, repository) as broker,
        RunningGateway(tmp_path, broker.addresses["local"], "--http-host", host, "--grpc-host", host) as gateway,
    ):
        for reached in ("[::1]", "127.0.0.1") if host == "::" else ("[::1]",):
            with urllib.request.urlopen(f"http://{gateway.http.replace(f'[{host}]', reached)}/v2/health/ready") as answer:
                assert answer.status == 200
            with over_grpc.InferenceServerClient(gateway.grpc.replace(f"[{host}]", reached)) as client:
                assert client.is_server_ready()
