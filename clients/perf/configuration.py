# SPDX-License-Identifier: Apache-2.0
"""The configuration table of a run: how the model was served, in the words of NVIDIA's pages on its models. Pure.

It is told from the configuration that the server gives, and from what a broker says of the workers it started. What neither
says is "-", and a label may say it instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

UNKNOWN = "-"
CAPTURED = "NVIDIA TensorRT Capture CUDA Graph"

_BACKENDS = {
    "onnxruntime": ("ONNX Runtime", "ONNX"),
    "tensorrt": ("NVIDIA TensorRT", "NVIDIA TensorRT"),
    "pytorch": ("PyTorch", UNKNOWN),
    "tensorflow": ("TensorFlow", UNKNOWN),
    "openvino": ("OpenVINO", UNKNOWN),
    "python": ("Python", UNKNOWN),
}
"""Name of a backend -> what it is called, and the format of its models where there is but one."""
_PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt", "pytorch_libtorch": "pytorch",
    "tensorflow_graphdef": "tensorflow", "tensorflow_savedmodel": "tensorflow",
}  # fmt: skip
"""Platforms of configurations that name no backend."""
_PLATFORM_FORMATS = {"tensorflow_graphdef": "TensorFlow GraphDef", "tensorflow_savedmodel": "TensorFlow SavedModel"}
_FILE_FORMATS = {"pt": "TorchScript", "pt2": "Torch Export"}
"""Of a model of PyTorch, by the suffix of its file."""
_ACCELERATORS = {"tensorrt": "NVIDIA TensorRT", "cuda": "NVIDIA CUDA", "openvino": "OpenVINO", "auto_mixed_precision": "AMP"}


class Gpu(NamedTuple):
    """One that an instance computes on."""

    uuid: str
    name: str


class Served(NamedTuple):
    """What is known of the server beside the model's configuration."""

    processor: str = ""  # of the server's machine, and its cores; "": unknown
    instances: tuple[Gpu | None, ...] | None = None  # where each computes, None: on the CPU; None: unknown

    @classmethod
    def from_status(cls, status: Mapping[str, Any], model: str, version: int, processor: str) -> Served:
        """From a broker's `status` document."""
        names = {gpu["uuid"]: gpu["name"] for gpu in status["gpus"] or ()}
        rows = [row for row in status["instances"] if (row["model"], row["version"], row["state"]) == (model, version, "ready")]
        uuids = [None if row["gpu"] is None else row["gpu"]["uuid"] for row in rows]
        return cls(processor, tuple(None if uuid is None else Gpu(uuid, names.get(uuid, uuid)) for uuid in uuids))


def configuration_of(config: Mapping[str, Any], served: Served, labels: Mapping[str, str]) -> dict[str, str]:
    """The table's rows, in its order; `labels` override them, and others follow. `config` is Triton's JSON."""
    backend = str(config.get("backend") or _PLATFORMS.get(config.get("platform", ""), ""))
    name, model_format = _BACKENDS.get(backend, (backend or UNKNOWN, UNKNOWN))
    kinds = _device_kinds(config, served)
    rows = {
        "Hardware": _hardware(served, kinds),
        "Backend": name,
        "Backend accelerator": _accelerator(config, backend, kinds),
        "Precision": _precision(config, kinds),
        "Model format": _format_of_file(config, backend) or model_format,
        "Max batch size": str(config.get("max_batch_size", 0)),
        "Number of model instances": _instances(config, served),
        "Export format": UNKNOWN,
    }
    if backend == "tensorrt":
        rows[CAPTURED] = "Enabled" if config.get("optimization", {}).get("cuda", {}).get("graphs") else "Disabled"
    rows |= {"Device kind": ", ".join(kinds) or UNKNOWN, "Torch jit": UNKNOWN}
    return {**rows, **labels}


def _device_kinds(config: Mapping[str, Any], served: Served) -> tuple[str, ...]:
    """Where instances compute: as the broker says, else as the configuration says where that leaves no choice."""
    if served.instances:
        return _each("cpu" if gpu is None else "gpu" for gpu in served.instances)
    kinds = [str(group.get("kind", "KIND_AUTO")).removeprefix("KIND_").lower() for group in _groups(config)]
    return () if "auto" in kinds else _each(kinds)


def _hardware(served: Served, kinds: Sequence[str]) -> str:
    """The GPUs that are used, each once with how many there are of its name; the processor where instances compute on it."""
    names = [gpu.name for gpu in dict.fromkeys(served.instances or ()) if gpu is not None]
    parts = [f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in _each(names)]
    if kinds == ("cpu",) or (parts and "cpu" in kinds):
        parts += [served.processor] if served.processor else []
    return ", ".join(parts) or UNKNOWN


def _accelerator(config: Mapping[str, Any], backend: str, kinds: Sequence[str]) -> str:
    """A plan is TensorRT on CUDA; others have one where optimization names it for the devices they compute on."""
    if backend == "tensorrt":
        return "NVIDIA CUDA"
    named = [each["name"] for each in _accelerators(config, kinds)]
    return ", ".join(_each(_ACCELERATORS.get(name, name) for name in named)) or UNKNOWN


def _precision(config: Mapping[str, Any], kinds: Sequence[str]) -> str:
    """Only an accelerator's configuration says what is computed in; the types of inputs and outputs say nothing of it."""
    modes = [str(each.get("parameters", {}).get("precision_mode", "")) for each in _accelerators(config, kinds)]
    return ", ".join(_each(mode.upper() for mode in modes if mode)) or UNKNOWN


def _accelerators(config: Mapping[str, Any], kinds: Sequence[str]) -> list[Mapping[str, Any]]:
    """Those for the kinds of devices that instances compute on; for either where that is unknown."""
    named = config.get("optimization", {}).get("execution_accelerators", {})
    return [each for kind in kinds or ("gpu", "cpu") for each in named.get(f"{kind}_execution_accelerator", ())]


def _format_of_file(config: Mapping[str, Any], backend: str) -> str:
    if backend == "pytorch":
        name = str(config.get("default_model_filename") or "")
        return _FILE_FORMATS.get(name.rpartition(".")[2], "")
    return _PLATFORM_FORMATS.get(config.get("platform", ""), "")


def _instances(config: Mapping[str, Any], served: Served) -> str:
    """As many as the broker has started; else what the groups ask for, each count once for every GPU that its group names."""
    if served.instances is not None:
        return str(len(served.instances))
    counts = [int(group.get("count", 1)) * max(len(group.get("gpus", ())), 1) for group in _groups(config)]
    return str(sum(counts)) if counts else UNKNOWN


def _groups(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = config.get("instance_group", ())
    return found


def _each(words: Iterable[str]) -> tuple[str, ...]:
    """Each once, in the order in which they come first."""
    return tuple(dict.fromkeys(words))
