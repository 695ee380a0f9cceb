# SPDX-License-Identifier: Apache-2.0
"""Classes instead of scores: through the client, as one of a batch, from slots, from the command line and in plain messages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import START_S, RunningBroker

from penstock.clients import CallerError, Classification, Client, Code, MemfdRegion
from penstock.clients.wire import WireClient, WireError
from penstock.ipc.tensors import deserialize_bytes

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with RunningBroker(tmp_path_factory.mktemp("run"), ROOT / "model_repository", with_tcp=True) as running:
        yield running


@pytest.fixture(params=["local", "zmq", "tcp"])
def client(request: pytest.FixtureRequest, broker: RunningBroker) -> Iterator[Client]:
    with broker.client(request.param) as connected:
        yield connected


@pytest.fixture(scope="module")
def images() -> Any:
    with np.load(ROOT / "model_repository" / "digits" / "held_out.npz") as held_out:
        return held_out["images"][:8].astype(np.float32).reshape(8, 1, 8, 8)


def expected(scores: Any, classes: int) -> list[list[bytes]]:
    """What the scores come to, by Python's own sort."""
    return [
        [
            f"{row[digit]:f}:{digit}:{NAMES[digit]}".encode()
            for digit in sorted(range(10), key=lambda digit, row=row: (-row[digit], digit))[:classes]
        ]
        for row in scores.tolist()
    ]  # fmt: skip


def test_the_best_three_of_each_row(client: Client, images: Any) -> None:
    scores = client.infer("digits", {"image": images}).outputs["scores"]

    result = client.infer("digits", {"image": images}, outputs={"scores": Classification(3)})

    assert result.outputs["scores"].shape == (8, 3)
    assert result.outputs["scores"].tolist() == expected(scores, 3)
    many = client.infer("digits", {"image": images}, {"scores": Classification(1000)}).outputs["scores"]
    assert many.tolist() == expected(scores, 10)


def test_requests_that_want_scores_and_requests_that_want_classes(client: Client, images: Any) -> None:
    # Given many requests of both sorts at once, which are batched together as they come
    forms = [None, {"scores": Classification(1)}, {"scores": None}, {"scores": Classification(4)}] * 8
    scores = client.infer("digits", {"image": images}).outputs["scores"]

    futures = [client.submit("digits", {"image": images[at % 8 : at % 8 + 1]}, form) for at, form in enumerate(forms)]
    wait(futures, START_S)

    for at, future in enumerate(futures):
        found, row = future.result().outputs["scores"], scores[at % 8 : at % 8 + 1]
        if at % 2 == 0:
            np.testing.assert_allclose(found, row, atol=1e-6)
        else:
            assert found.shape == (1, [1, 4][at // 2 % 2])
            assert found[0, 0].split(b":")[1] == str(row.argmax()).encode()


def test_a_slot_that_gives_classes_again_and_again(client: Client, images: Any) -> None:
    with client.buffers("digits", 2, outputs={"scores": Classification(2)}) as io:
        assert "scores" not in io.outputs
        for begin in (0, 2, 4):
            io.inputs["image"][:] = images[begin : begin + 2]
            scores = client.infer("digits", {"image": images[begin : begin + 2]}).outputs["scores"]
            assert client.infer(io).outputs["scores"].tolist() == expected(scores, 2)


@pytest.mark.parametrize("link", ["local", "zmq"])
def test_refused_where_it_makes_no_sense(broker: RunningBroker, link: str, images: Any) -> None:
    with broker.client(link) as client, pytest.raises(CallerError, match="at least 1 class must be asked for, got 0"):
        client.infer("digits", {"image": images}, {"scores": Classification(0)})


def test_inputs_in_a_region_and_classes_beside(broker: RunningBroker, images: Any) -> None:
    with broker.client("local") as client, MemfdRegion("mine", 4096) as region:
        client.register(region)
        region.view("FP32", [1, 1, 8, 8])[:] = images[:1]
        scores = client.infer("digits", {"image": images[:1]}).outputs["scores"]
        placed = {"image": region.tensor("FP32", [1, 1, 8, 8])}
        found = client.infer("digits", placed, {"scores": Classification(2)}).outputs["scores"]
        assert found.tolist() == expected(scores, 2)


def test_in_plain_messages(broker: RunningBroker, images: Any) -> None:
    wire = WireClient(broker.addresses["zmq"])
    image = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8]}
    try:
        answered, parts = wire.infer("digits", [image], [{"name": "scores", "classification": 2}], [images[:1].tobytes()])
        (output,) = answered["outputs"]
        assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
        assert deserialize_bytes(parts[0], [1, 2], "scores")[0, 0].endswith(tuple(name.encode() for name in NAMES))

        wire.region("r", 4096)
        place = {"name": "scores", "region": "r", "offset": 0, "byte_size": 40, "classification": 2}
        with pytest.raises(WireError, match="Output can't set both 'shared_memory_region' and 'classification'") as caught:
            wire.infer("digits", [image], [place], [images[:1].tobytes()])
        assert (caught.value.code, caught.value.fault) == (Code.INVALID_ARG.value, "caller")
    finally:
        wire.close()


def test_from_the_command_line(broker: RunningBroker, tmp_path: Path, images: Any) -> None:
    np.save(tmp_path / "image.npy", images[:2])
    words = [
        "infer",
        "digits",
        "--input",
        f"image={tmp_path}/image.npy",
        "--classes",
        "2",
        "--address",
        broker.addresses["local"],
    ]

    def penstock(*more: str) -> str:
        command = [sys.executable, "-m", "penstock.clients.cli", *words, *more]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=START_S).stdout

    with broker.client("local") as client:
        best = expected(client.infer("digits", {"image": images[:2]}).outputs["scores"], 2)
    (output,) = json.loads(penstock("--json"))["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == [[text.decode() for text in row] for row in best]
    assert best[0][0].decode() in penstock()
