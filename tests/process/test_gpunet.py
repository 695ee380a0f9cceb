# SPDX-License-Identifier: Apache-2.0
"""bench/gpunet/run.sh from end to end, on a network of the same format that costs nothing; and what it refuses, before it begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from penstock.clients.perf.run_file import read_run
from penstock.ipc.processes import children

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "bench" / "gpunet" / "run.sh"
WITHIN_S = 280.0

TINY = [
    {"layer_type": "data", "img_resolution": 32, "distill": False},
    {"layer_type": "head", "num_in_channels": 3, "num_out_channels": 8, "act": "relu"},
    {
        "layer_type": "irb",
        "num_in_channels": 8,
        "num_out_channels": 8,
        "stride": 1,
        "expansion": 4,
        "kernel_size": 5,
        "act": "relu",
        "use_se": False,
        "stage": 1,
    },
    {"layer_type": "tail", "num_in_channels": 8, "num_out_channels": 16, "num_classes": 10},
]

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed: pip install 'penstock[torch]'")
needs_report = pytest.mark.skipif(
    find_spec("jinja2") is None or find_spec("matplotlib") is None, reason="needs the extra: pip install 'penstock[report]'"
)


def environment_of(folder: Path, variables: dict[str, str]) -> dict[str, str]:
    """Everything that the runner writes goes under the folder."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    places = {"RESULTS_DIR": str(folder / "results"), "MODEL_REPOSITORY_PATH": str(folder / "models")}
    return {**inherited, "PYTHON": sys.executable, "DEVICE_KIND": "cpu", **places, **variables}


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The runner, to its end."""
    environment = environment_of(folder, variables)
    return subprocess.run(
        [str(RUN), *words], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=WITHIN_S
    )


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A configuration of seconds."""
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(TINY))
    return file


@pytest.mark.timeout(300)
@needs_torch
@needs_report
def test_one_command_makes_a_served_model_and_its_tables(tmp_path: Path, tiny: Path) -> None:
    # Given a tiny network without a checkpoint
    # When the runner is asked for two batch sizes and two concurrencies, with short windows
    done = run(
        tmp_path, "--quick", CONFIG=str(tiny), BATCH_SIZES="1 2", CONCURRENCIES="2 8", MEASUREMENT_INTERVAL_MS="20",
        NUMBER_OF_MODEL_INSTANCES="2", MODEL_NAME="tiny",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    # Then the entry is what was asked for
    config = (tmp_path / "models" / "tiny" / "config.pbtxt").read_text().splitlines()
    assert {
        "max_batch_size: 4", "dynamic_batching { preferred_batch_size: [ 4 ] }", "instance_group [ { count: 2 kind: KIND_CPU } ]",
    } < set(config)  # fmt: skip
    assert (tmp_path / "models" / "tiny" / "1" / "model.onnx").is_file()
    # And both tables are there, of what was asked for
    offline, online = (read_run(tmp_path / "results" / f"{mode}.json") for mode in ("offline", "online"))
    assert [(row.batch, row.concurrency) for row in offline.rows] == [(1, 1), (2, 1)]
    assert [(row.batch, row.concurrency) for row in online.rows] == [(1, 2), (1, 8)]
    for measured in (offline, online):
        assert measured.complete
        assert measured.measured.shared_memory == "system"
        for key, value in {
            "Backend": "ONNX Runtime", "Precision": "FP32", "Model format": "ONNX", "Max batch size": "4",
            "Number of model instances": "2", "Export format": "ONNX", "Device kind": "cpu", "Torch jit": "none",
        }.items():  # fmt: skip
            assert measured.configuration[key] == value
    # And nobody can take the weights for trained ones, nor overlook what was compared
    report = (tmp_path / "results" / "report.html").read_text()
    tables = [(tmp_path / "results" / f"{mode}.md").read_text() for mode in ("offline", "online")]
    assert all("RANDOM WEIGHTS (seed 0)" in text for text in (done.stdout, report, *tables))
    compared = [line.split(": ")[1] for line in done.stdout.splitlines() if "differs from torch" in line]
    assert compared == ["onnx fp32, converted", "onnx fp32, served"]
    assert online.notes[1].startswith("onnx fp32, served: OUTPUT__0 differs from torch's in FP32 by at most")
    assert "GPUNet tiny, offline" in report


@pytest.mark.timeout(300)
@needs_torch
def test_a_model_that_differs_by_more_than_is_allowed_is_not_measured(tmp_path: Path, tiny: Path) -> None:
    done = run(tmp_path, "--quick", CONFIG=str(tiny), PRECISION="fp16", ATOL="0", RTOL="0")
    assert done.returncode == 3
    assert "differs from torch's in FP32" in done.stdout
    assert "convert ended with status 3" in done.stdout
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.timeout(300)
@needs_torch
def test_a_run_that_is_told_to_end_ends_what_it_started_and_keeps_what_was_measured(tmp_path: Path, tiny: Path) -> None:
    # Given a runner that measures, in windows that take their time
    environment = environment_of(tmp_path, {"CONFIG": str(tiny), "BATCH_SIZES": "1", "MEASUREMENT_INTERVAL_MS": "2000"})
    with subprocess.Popen(
        [str(RUN)], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as runner:
        assert runner.stderr is not None
        for line in runner.stderr:
            # When it alone is told to end, as by a supervisor, after the first window
            if "window 1:" in line:
                started = children(runner.pid)
                runner.terminate()
                break
        said = runner.stderr.read()
    # Then it says that it was interrupted, the broker and the command that measured are gone, and so much was measured
    assert runner.returncode == 130, said
    assert len(started) == 2
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert "Traceback" not in said
    measured = read_run(tmp_path / "results" / "offline.json")
    assert not measured.complete
    assert any("RANDOM WEIGHTS" in note for note in measured.notes)


def test_what_cannot_be_had_is_refused_before_anything_is_exported(tmp_path: Path) -> None:
    for variables, said in (
        ({"FORMAT": "trt"}, "FORMAT=trt computes on a GPU only, and DEVICE_KIND is cpu"),
        ({"FORMAT": "tensorflow"}, "FORMAT must be one of onnx, trt"),
        ({"CHECKPOINT_DIR": str(tmp_path)}, "has no 0.8ms-D.pth.tar"),
        ({"RESULTS_DIR": "/proc/results"}, "RESULTS_DIR=/proc/results cannot be made"),
    ):
        done = run(tmp_path, **variables)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
