# SPDX-License-Identifier: Apache-2.0
"""Measuring with inputs and outputs in CUDA memory, on a simulated GPU: nothing here is said of a real one."""

from __future__ import annotations

import base64
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import RunningBroker
from simulated.fixtures import SimulatedCuda, pass_on

from penstock.clients import CudaRegion
from penstock.clients.models import ModelInfo
from penstock.clients.perf.plan import Link, Plan, Point
from penstock.clients.perf.target import TargetSpec
from penstock.clients.perf.targets import open_target
from penstock.clients.perf.targets.kserve_target import KServeTarget
from penstock.clients.perf.targets.wire import Found, InputPart, OutputPart, Reply
from penstock.ipc import cuda
from penstock.ipc.errors import ModelError

CONFIG = """
name: "there" backend: "identity" max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { count: 1 kind: KIND_GPU } ]
"""
ON_GPU = Plan(points=(), memory="cuda", verify=True)


@pytest.fixture
def machine(simulated_cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedCuda]:
    pass_on(simulated_cuda.environment(), monkeypatch)
    yield simulated_cuda
    gc.collect()  # memory on the device goes with the last array on it


def test_a_broker_is_measured_in_device_memory(machine: SimulatedCuda, repository: Path, tmp_path: Path, link: Link) -> None:
    (repository / "there" / "1").mkdir(parents=True)
    (repository / "there" / "config.pbtxt").write_text(CONFIG)
    with RunningBroker(tmp_path, repository) as broker:
        target = open_target(TargetSpec(link=link, address=broker.addresses[link], model="there"))
        # When requests of two rows go out twice, each answer compared with its request and then overwritten
        with target.prepare(ON_GPU, Point(2, 3)) as requests:
            for _ in range(2):
                requests.send([0, 1, 2])
                errors: list[Any] = []
                while len(errors) < 3:
                    errors += [answer.error for answer in requests.take()]
                # Then all are right
                assert errors == [None] * 3
            gc.collect()
        target.close()
        machine.resume()


class PaperWire:
    """A server on paper, which is given a handle of device memory, and answers from there."""

    url = "paper"

    def __init__(self) -> None:
        self.registered: CudaRegion | None = None
        self.garbles = False

    def server(self) -> dict[str, Any]:
        return {"name": "paper", "version": "1", "extensions": []}

    def metadata(self, model: str, _version: int) -> dict[str, Any]:
        tensors = [{"name": name, "datatype": "FP32", "shape": [2]} for name in ("x", "y")]
        return {"name": model, "platform": "identity", "inputs": tensors[:1], "outputs": tensors[1:]}

    def register(self, region: Any) -> None:
        assert len(base64.b64decode(region.raw_handle())) == cuda.HANDLE_BYTES
        self.registered = region

    def unregister(self, region: Any) -> None:
        assert self.registered is region
        self.registered = None

    def message(self, _model: ModelInfo, inputs: Sequence[InputPart], outputs: Sequence[OutputPart]) -> Any:
        return inputs[0].placed, outputs[0].placed

    def flights(self, _at_once: int) -> PaperWire:
        self.sent: list[tuple[int, Any]] = []
        return self

    def send(self, requests: Any) -> None:
        self.sent += requests

    def take(self, _timeout_s: float | None) -> list[Reply]:
        region = self.registered
        assert region is not None
        for _, (source, place) in self.sent:
            values = region.read(source.offset, np.float32, (2,))
            region.write(values * 0 if self.garbles else values, place.offset)
        replies, self.sent = [Reply(number, 1, None) for number, _ in self.sent], []
        return replies

    def found(self, _answer: Any) -> list[Found]:
        return [Found("y", "FP32", (2,), None)]

    def close(self) -> None:
        pass


@contextmanager
def measured_on_paper(wire: Any) -> Iterator[Any]:
    target = KServeTarget.open(TargetSpec(link="grpc", address="paper", model="m"), wire, 8)
    with target.prepare(ON_GPU, Point(1, 2)) as requests:
        yield requests
    target.close()


def test_other_servers_are_given_the_handle_of_the_memory(machine: SimulatedCuda) -> None:
    wire = PaperWire()
    with measured_on_paper(wire) as requests:
        requests.send([0, 1])
        assert [answer.error for answer in requests.take()] == [None, None]
        # Right answers are overwritten, and so a server that answers without writing is noticed
        wire.garbles = True
        requests.send([0])
        with pytest.raises(ModelError, match="output 'y' is not what input 'x'"):
            requests.take()
    assert wire.registered is None
