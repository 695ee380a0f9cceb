# SPDX-License-Identifier: Apache-2.0
"""The commands of a run, and what it notes in what they measured. Pure, but for `note`.

Penstock's own commands do all of it: convert exports, converts, compares and writes the entry; perf measures; report shows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from penstock.clients.perf.run_file import read_run, replace_text
from penstock.clients.perf.run_keeping import TEXTS

from .settings import Settings

Mode = Literal["offline", "online"]

PENSTOCK = (sys.executable, "-m", "penstock.clients.cli")
FUNCTION = "gpunet.model:get_model"
OUTPUT = "OUTPUT__0"
WORKSPACE_BYTES = 10_000_000_000
"""That a layer may work in while TensorRT builds: NVIDIA's."""


def convert_command(asked: Settings) -> list[str]:
    """Exports, converts, compares with torch in FP32, and writes the entry of the repository."""
    command = [*PENSTOCK, "convert", FUNCTION, "--config", str(asked.config)]
    command += [] if asked.checkpoint is None else ["--checkpoint", str(asked.checkpoint)]
    command += ["--format", asked.format, "--precision", asked.precision, "--output", OUTPUT]
    command += ["--repository", str(asked.repository), "--name", asked.name, "--force", "--json"]
    command += ["--max-batch-size", str(asked.max_batch_size), "--preferred-batch-sizes", str(asked.max_batch_size)]
    command += ["--instances", f"{asked.instances}:{asked.device}", "--backend-accelerator", asked.accelerator]
    command += ["--max-workspace-size", str(WORKSPACE_BYTES)] if asked.format == "trt" else []
    command += ["--capture-cuda-graph"] if asked.captures_graphs else []
    for option, value in (("--atol", asked.atol), ("--rtol", asked.rtol)):
        command += [] if value is None else [option, f"{value:g}"]
    return command


def perf_command(asked: Settings, mode: Mode, address: str) -> list[str]:
    """Offline: one request after the other, of each batch size. Online: requests of one row, so many at once."""
    command = [*PENSTOCK, "perf", asked.name, "--address", address, "--evaluation-mode", mode]
    if mode == "offline":
        command += ["--batch-sizes", *map(str, asked.batch_sizes), "--concurrency", "1"]
    else:
        command += ["--concurrency", *map(str, asked.concurrencies)]
    command += ["--shared-memory", "system", "--input-data", "random", "--warmup", str(asked.warmup)]
    command += ["--measurement-interval-ms", str(asked.interval_ms), "--max-trials", str(asked.max_trials)]
    for name, value in labels(asked).items():
        command += ["--label", f"{name}={value}"]
    return [*command, "--result-dir", str(asked.results), "--name", mode]


def report_command(asked: Settings) -> list[str]:
    """Both tables, with their plots."""
    return [*PENSTOCK, "report", str(asked.results)]


def labels(asked: Settings) -> dict[str, str]:
    """The rows of NVIDIA's configuration table that a server cannot tell."""
    script = f"TorchScript {'Trace' if asked.torch_jit == 'trace' else 'Script'}"
    exported = {"onnx": "ONNX", "trt": "ONNX", "torch-export": "Torch Export"}.get(asked.format, script)
    return {
        "Precision": asked.precision.upper(),
        "Model format": "NVIDIA TensorRT" if asked.format == "trt" else exported,
        "Export format": exported,
        "Torch jit": asked.torch_jit,
    }


def run_file(asked: Settings, mode: Mode) -> Path:
    """What `perf` writes, and `report` reads."""
    return asked.results / f"{mode}.json"


def compared(converted: Mapping[str, Any]) -> Iterator[str]:
    """What `convert --json` found, a sentence for each comparison."""
    for attempt in converted["attempts"]:
        if attempt["error"]:
            yield f"{attempt['format']} {attempt['precision']}: {attempt['error']}"
        for check in attempt["checks"]:
            error = "without bound" if check["max_abs_error"] is None else f"by at most {check['max_abs_error']:.3g}"
            yield (
                f"{attempt['format']} {attempt['precision']}, {check['where']}: {check['output']} differs from torch's in FP32 "
                f"{error}; {check['wrong']} of {check['elements']} by more than {check['atol']:g} + {check['rtol']:g} * |score|"
            )


def note(asked: Settings, mode: Mode, notes: Sequence[str]) -> None:
    """Adds notes to what was measured, so that its files and the report say them. Raises OSError and CallerError."""
    path = run_file(asked, mode)
    run = read_run(path)
    noted = msgspec.structs.replace(run, title=f"GPUNet {asked.variant}, {mode}", notes=(*run.notes, *notes))
    for suffix, text_of in TEXTS.items():
        replace_text(path.with_suffix(suffix), text_of(noted))
