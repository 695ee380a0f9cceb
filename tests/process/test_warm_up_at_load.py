# SPDX-License-Identifier: Apache-2.0
"""Warm-up samples from a configuration to the worker: executed before a model is READY, or the reason why it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from running import RunningBroker, add_model, answer, eventually, rows

from penstock.clients import Client

SAMPLE = 'model_warmup {{ name: "{name}" batch_size: {size} count: {count} inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: 2 {data} }} }} }}'


def all_ready(client: Client, count: int) -> bool:
    states = [each["state"] for each in client.status()["instances"]]
    return states == ["ready"] * count


def test_a_model_is_ready_once_each_instance_has_executed_its_samples(tmp_path: Path, repository: Path, link: str) -> None:
    # Given a model of two instances with a sample of zeros, one of a file and one that is skipped
    samples = [
        SAMPLE.format(name="zeros", size=2, count=2, data="zero_data: true"),
        SAMPLE.format(name="file", size=1, count=0, data='input_data_file: "x.bin"'),
        SAMPLE.format(name="skipped", size=0, count=1, data="zero_data: true"),
    ]
    record = tmp_path / "record"
    add_model(repository, "recorder", mode="recording", count=2, batching="\n".join(samples), record_path=record)
    (repository / "recorder" / "warmup").mkdir()
    (repository / "recorder" / "warmup" / "x.bin").write_bytes(np.array([[1, -1]], np.float32).tobytes())

    # When it is served
    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        eventually(lambda: all_ready(client, 2), 20, "the second instance is ready too")
        executed = [json.loads(line) for line in record.read_text().splitlines()]
        assert "warm-up sample 'skipped' is skipped" in broker.log()

        # Then each instance has executed the one twice and the other once, before anybody asked for anything
        assert sorted(row["rows"] for row in executed) == [[1]] * 2 + [[1, 1]] * 4
        assert [row["inputs"]["x"] for row in executed if row["rows"] == [1]] == [[[1.0, -1.0]]] * 2
        assert [row["inputs"]["x"] for row in executed if row["rows"] == [1, 1]] == [[[0.0, 0.0]] * 2] * 4

        # And requests are served as ever, and are the first to be counted
        assert answer(client.infer("recorder", rows(3, 4))) == [3, 4]
        assert client.statistics("recorder")["model_stats"][0]["execution_count"] == 1


def test_a_sample_that_fails_keeps_its_model_from_being_served(tmp_path: Path, repository: Path, link: str) -> None:
    # Given a model that fails its sample, one whose file is missing, one without its labels, and a good one
    zeros = SAMPLE.format(name="zeros", size=1, count=1, data="zero_data: true")
    add_model(repository, "failing", mode="failing", message="not today", batching=zeros)
    add_model(repository, "missing", batching=SAMPLE.format(name="s", size=1, count=1, data='input_data_file: "none"'))
    add_model(repository, "unlabelled")
    config = repository / "unlabelled" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "y"', 'name: "y" label_filename: "labels.txt"'))
    add_model(repository, "good", batching=zeros)

    with RunningBroker(tmp_path, repository) as broker, broker.client(link) as client:
        reasons = {row["name"]: (row["state"], row["reason"]) for row in client.index()}

        assert reasons == {
            "failing": ("UNAVAILABLE", "failed to run warmup sample 'zeros': not today"),
            "missing": (
                "UNAVAILABLE",
                "failed to run warmup sample 's': input 'x': file 'none' cannot be read: No such file or directory",
            ),
            "unlabelled": (
                "UNAVAILABLE", "output 'y': label_filename 'labels.txt' cannot be read: No such file or directory",
            ),
            "good": ("READY", ""),
        }  # fmt: skip
        assert answer(client.infer("good", rows(1))) == [1]
