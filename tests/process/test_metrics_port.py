# SPDX-License-Identifier: Apache-2.0
"""Scraping a running broker."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import START_S, RunningBroker, add_model

TAGS = 'metric_tags { key: "team" value: "vision" }'


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    folder = tmp_path_factory.mktemp("run")
    add_model(folder / "models", "echo", batching=TAGS)
    with RunningBroker(folder, folder / "models", "--metrics-port", "0") as running:
        yield running


def scrape(url: str) -> dict[str, float]:
    """Name with labels -> value."""
    with urllib.request.urlopen(url, timeout=START_S) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    return {
        f"{sample.name.removesuffix('_total')}{dict(sorted(sample.labels.items()))}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("link", ["local", "zmq"])
def test_requests_are_counted(broker: RunningBroker, link: str) -> None:
    url = broker.said["metrics"]
    name = "nv_inference_count{'_team': 'vision', 'model': 'echo', 'version': '1'}"
    before = scrape(url)[name]
    with broker.client(link) as client:
        client.infer("echo", {"x": np.zeros((3, 2), np.float32)})
        found = scrape(url)
    assert found[name] == before + 3
    assert found["penstock_clients{}"] == 1
    assert found["nv_model_load_duration_secs{'_team': 'vision', 'model': 'echo', 'version': '1'}"] > 0
    assert 0 <= found["nv_cpu_utilization{}"] <= 1
    assert 0 < found["nv_cpu_memory_used_bytes{}"] < found["nv_cpu_memory_total_bytes{}"]
    assert found["penstock_instances{'model': 'echo', 'state': 'ready', 'version': '1'}"] == 1


def test_there_is_only_metrics(broker: RunningBroker) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        scrape(broker.said["metrics"].replace("/metrics", "/else"))
    assert caught.value.code == 404
    caught.value.close()


def test_a_scraper_that_never_asks_or_never_reads_holds_nobody_up(broker: RunningBroker) -> None:
    # Given a connection on which nothing is said
    target = urlsplit(broker.said["metrics"])
    with socket.create_connection((target.hostname, target.port)) as silent:
        # When requests come, then they are served at once, and the next scraper gets its turn when patience ends
        with broker.client("local") as client:
            client.infer("echo", {"x": np.zeros((1, 2), np.float32)}, timeout_s=START_S)
        connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=START_S)
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 200
        connection.close()
        silent.close()


def test_a_port_in_use_is_named(broker: RunningBroker, tmp_path: Path) -> None:
    port = str(urlsplit(broker.said["metrics"]).port)
    other = RunningBroker(tmp_path, broker.folder / "models", "--metrics-port", port)
    with pytest.raises(AssertionError, match=f"metrics: cannot listen on 127.0.0.1:{port}: Address already in use"):
        other.start()
