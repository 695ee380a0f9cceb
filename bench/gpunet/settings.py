# SPDX-License-Identifier: Apache-2.0
"""What the runner is asked for, by environment variables: those of NVIDIA's triton/08ms-D, and a few of ours.

A variable that is empty counts as not set. README.md has them as a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.ipc.errors import CallerError, invalid, not_found

from . import configuration

CACHE = Path(__file__).resolve().parents[1] / "cache" / "gpunet"
CHECKPOINT_SUFFIXES = (".pth.tar", ".pth", ".pt")

FORMATS = ("onnx", "trt", "ts-script", "ts-trace", "torch-export")
EXPORT_FORMATS = ("onnx", "torchscript", "ts-script", "ts-trace", "torch-export")
PRECISIONS = ("fp32", "fp16")
ACCELERATORS = ("none", "trt", "cuda", "amp")
TORCH_JITS = ("none", "script", "trace")
DEVICES = ("cpu", "gpu")
LINKS = ("local", "zmq")
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
CONCURRENCIES = (8, 16, 32, 64, 128, 256)
FP16_ATOL = 0.05
"""With random weights, scores have a standard deviation of 0.65; half precision changes them by up to 0.02."""


@dataclass(frozen=True)
class Settings:
    """All that is asked of a run. README.md says what each is."""

    format: str
    precision: str
    export_format: str
    export_precision: str
    torch_jit: str
    accelerator: str
    device: str
    instances: int
    max_batch_size: int
    captures_graphs: bool
    config: Path
    checkpoint: Path | None  # None: random weights
    batch_sizes: tuple[int, ...]
    concurrencies: tuple[int, ...]
    link: str
    atol: float | None  # None: what penstock convert allows
    rtol: float | None
    warmup: int
    interval_ms: int
    max_trials: int
    name: str
    repository: Path
    results: Path

    @property
    def variant(self) -> str:
        """0.8ms-D, ..."""
        return self.config.name.removesuffix(".json")


class Variables:
    """Reads variables; each error names the variable, what was expected and what it holds."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def __repr__(self) -> str:
        return f"<Variables {self._environment}>"

    def text(self, name: str, default: str) -> str:
        return self._environment.get(name, "").strip() or default

    def choice(self, name: str, known: Sequence[str], default: str) -> str:
        value = self.text(name, default)
        if value not in known:
            raise invalid(f"{name} must be one of {', '.join(known)}, got {value!r}")
        return value

    def whole(self, name: str, default: int, smallest: int = 1) -> int:
        value = self.text(name, str(default))
        if not value.isdecimal() or int(value) < smallest:
            raise invalid(f"{name} must be a whole number of at least {smallest}, got {value!r}")
        return int(value)

    def fraction(self, name: str) -> float | None:
        value = self.text(name, "")
        try:
            found = float(value) if value else None
        except ValueError:
            found = math.nan
        if found is not None and not 0 <= found < math.inf:
            raise invalid(f"{name} must be a number of at least 0, got {value!r}")
        return found

    def wholes(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        words = self.text(name, " ".join(map(str, default))).replace(",", " ").split()
        if not words or not all(word.isdecimal() and int(word) for word in words):
            raise invalid(f"{name} must be whole numbers of at least 1 with spaces between, got {self.text(name, '')!r}")
        return tuple(map(int, words))

    def flag(self, name: str) -> bool:
        return self.choice(name, ("0", "1"), "0") == "1"

    def path(self, name: str) -> Path | None:
        value = self.text(name, "")
        return Path(value).expanduser().resolve() if value else None


def settings_of(environment: Mapping[str, str], has_gpu: bool, is_quick: bool) -> Settings:
    """Raises CallerError naming the variable. What cannot be had together is said by refusals.py."""
    read = Variables(environment)
    form, torch_jit = _format_of(read)
    precision = read.choice("PRECISION", PRECISIONS, "fp32")
    device = read.choice("DEVICE_KIND", DEVICES, "gpu" if has_gpu else "cpu")
    config, checkpoint = _sources_of(read)
    largest = read.whole("MAX_BATCH_SIZE", 4 if is_quick else 64)
    sizes = read.wholes("BATCH_SIZES", [size for size in (BATCH_SIZES[:2] if is_quick else BATCH_SIZES) if size <= largest])
    if max(sizes) > largest:
        raise invalid(f"BATCH_SIZES go up to {max(sizes)}, and MAX_BATCH_SIZE is {largest}")
    atol = read.fraction("ATOL")
    run = f"{config.name.removesuffix('.json')}-{form}-{precision}-{device}{'-quick' if is_quick else ''}"
    results = read.path("RESULTS_DIR") or CACHE / "results" / run
    slow = device == "cpu" or is_quick
    return Settings(
        format=form,
        precision=precision,
        export_format=read.choice("EXPORT_FORMAT", EXPORT_FORMATS, "onnx" if form == "trt" else form),
        export_precision=read.choice("EXPORT_PRECISION", PRECISIONS, precision),
        torch_jit=torch_jit,
        accelerator=read.choice("BACKEND_ACCELERATOR", ACCELERATORS, "none"),
        device=device,
        instances=read.whole("NUMBER_OF_MODEL_INSTANCES", 2),
        max_batch_size=largest,
        captures_graphs=read.flag("TENSORRT_CAPTURE_CUDA_GRAPH"),
        config=config,
        checkpoint=checkpoint,
        batch_sizes=sizes,
        concurrencies=read.wholes("CONCURRENCIES", CONCURRENCIES[:1] if is_quick else CONCURRENCIES),
        link=read.choice("LINK", LINKS, "local"),
        atol=FP16_ATOL if atol is None and precision == "fp16" else atol,
        rtol=read.fraction("RTOL"),
        warmup=read.whole("WARMUP", 1 if slow else 8, 0),
        interval_ms=read.whole("MEASUREMENT_INTERVAL_MS", 200 if is_quick else 2000 if slow else 1000),
        max_trials=read.whole("MAX_TRIALS", 3 if is_quick else 5 if slow else 10),
        name=read.text("MODEL_NAME", "gpunet"),
        repository=read.path("MODEL_REPOSITORY_PATH") or CACHE / "models" / run,
        results=results,
    )


def _format_of(read: Variables) -> tuple[str, str]:
    """FORMAT, for which NVIDIA also writes torchscript, with TORCH_JIT saying how; and what TORCH_JIT is."""
    form = read.choice("FORMAT", (*FORMATS, "torchscript"), "onnx")
    jit = {"ts-script": "script", "ts-trace": "trace"}.get(form, "none")
    said = read.choice("TORCH_JIT", TORCH_JITS, "script" if form == "torchscript" else jit)
    if form == "torchscript":
        if said == "none":
            raise invalid("FORMAT=torchscript needs TORCH_JIT=script or TORCH_JIT=trace, got TORCH_JIT='none'")
        return f"ts-{said}", said
    if said not in (jit, "none"):
        raise invalid(f"TORCH_JIT={said} is not FORMAT={form}: leave it out, or say FORMAT=ts-{said}")
    return form, jit


def _sources_of(read: Variables) -> tuple[Path, Path | None]:
    """The configuration and the checkpoint.

    CHECKPOINT is the name of a variant, whose file lies in CHECKPOINT_DIR, as with NVIDIA; or a file. CONFIG goes before a JSON
    file that lies beside the checkpoint, and that before ours of the same name.
    """
    name, directory = read.text("CHECKPOINT", "0.8ms-D"), read.path("CHECKPOINT_DIR")
    checkpoint = None
    if directory is not None:
        tried = [directory / name, *(directory / f"{name}{suffix}" for suffix in CHECKPOINT_SUFFIXES)]
        checkpoint = next((path for path in tried if path.is_file()), None)
        if checkpoint is None:
            raise not_found(f"CHECKPOINT_DIR={directory} has no {' and no '.join(path.name for path in tried[1:])}")
    elif Path(name).expanduser().is_file():
        checkpoint = Path(name).expanduser().resolve()
    elif name.endswith(CHECKPOINT_SUFFIXES):
        raise not_found(f"CHECKPOINT={name}: there is no such file")
    variant = _variant_of(name if checkpoint is None else checkpoint.name)
    beside = None if checkpoint is None else checkpoint.with_name(f"{variant}.json")
    return _config_of(read, variant, beside), checkpoint


def _variant_of(name: str) -> str:
    suffix = next((suffix for suffix in CHECKPOINT_SUFFIXES if name.endswith(suffix)), "")
    return name.removesuffix(suffix)


def _config_of(read: Variables, variant: str, beside: Path | None) -> Path:
    said = read.path("CONFIG")
    if said is not None:
        if not said.is_file():
            raise not_found(f"CONFIG={said}: there is no such file")
        return said
    if beside is not None and beside.is_file():
        return beside
    try:
        return configuration.file_of(variant)
    except CallerError as error:
        raise not_found(f"CHECKPOINT={variant}: {error.message}") from error
