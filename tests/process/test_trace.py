# SPDX-License-Identifier: Apache-2.0
"""`penstock trace` and `penstock timeline` on a running broker: what three instances and one do with four requests each."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from running import LINKS, START_S, RunningBroker, add_model

X = np.zeros(2, np.float32)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    folder = tmp_path_factory.mktemp("run")
    add_model(folder / "models", "one", mode="slow", delay_ms=20, max_batch_size=0)
    add_model(folder / "models", "three", mode="slow", delay_ms=20, max_batch_size=0, count=3)
    with RunningBroker(folder, folder / "models") as running:
        yield running


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "penstock.clients.cli", *words]


def recording(broker: RunningBroker, link: str, *words: str) -> subprocess.Popen[str]:
    """A recording that has begun."""
    begun = subprocess.Popen(
        command("trace", *words, "--address", broker.addresses[link]), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert begun.stderr is not None
    assert begun.stderr.readline() == "recording\n"
    return begun


def ended(process: subprocess.Popen[str]) -> str:
    said, complaint = process.communicate(timeout=START_S)
    assert process.returncode == 0, complaint
    return said


@pytest.mark.parametrize("link", LINKS)
def test_a_recording_shows_who_served_what_and_draws_it(broker: RunningBroker, link: str, tmp_path: Path) -> None:
    # Given a recording of eight requests, four to a model with one instance and four to one with three
    file, triton_file, picture = tmp_path / "trace.json", tmp_path / "triton.json", tmp_path / "trace.svg"
    process = recording(broker, link, str(file), "--count", "8", "--triton", str(triton_file))
    with broker.client("local") as client:
        for future in [client.submit(model, {"x": X}) for model in ("one", "three") for _ in range(4)]:
            future.result(START_S)
    # When it is complete, then it ends by itself
    assert ended(process).startswith("8 requests in 8 batches, 0 without one: ")
    batches = [event["args"] for event in json.loads(file.read_text())["traceEvents"] if event.get("cat") == "batch"]
    by_model = {model: [batch for batch in batches if batch["model"] == model] for model in ("one", "three")}
    assert {batch["instance"] for batch in by_model["one"]} == {"one_0_0"} or len(by_model["one"]) == 4
    assert len({batch["instance"] for batch in by_model["three"]}) == 3
    # and the one instance did one thing after the other
    spans = sorted((batch["started_ns"], batch["started_ns"] + batch["infer_ns"]) for batch in by_model["one"])
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert len([entry for entry in json.loads(triton_file.read_text()) if "timestamps" in entry]) == 8
    drawn = subprocess.run(
        command("timeline", str(file), "--width", "90", "--svg", str(picture)), capture_output=True, text=True, check=True
    )
    assert drawn.stdout.count("x1") == 8
    assert "three_" in picture.read_text()


def test_ctrl_c_ends_a_recording_and_it_is_written(broker: RunningBroker, tmp_path: Path) -> None:
    process = recording(broker, "local", str(tmp_path / "trace.json"), "--model", "one")
    with broker.client("local") as client:
        client.infer("one", {"x": X})
        client.infer("three", {"x": X})
    process.send_signal(signal.SIGINT)
    assert ended(process).startswith("1 requests in 1 batches")


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    done = subprocess.run(command("timeline", str(tmp_path / "other.json")), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not a trace of `penstock trace`" in done.stderr
