# SPDX-License-Identifier: Apache-2.0
"""config.pbtxt of a converted model, in Triton's format. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from ...ipc.errors import CallerError, Code, PenstockError, invalid
from ..models import TensorInfo
from .engine_orders import buckets
from .signatures import Signature

Form = Literal["ts-trace", "ts-script", "torch-export", "onnx", "trt"]
FORMS: tuple[Form, ...] = ("ts-trace", "ts-script", "torch-export", "onnx", "trt")
"""The field's names of what a model can be converted to."""
Kind = Literal["auto", "cpu", "gpu"]
Acceleration = Literal["none", "cuda", "trt", "amp"]

FILES: dict[Form, str] = {
    "ts-trace": "model.pt", "ts-script": "model.pt", "torch-export": "model.pt2", "onnx": "model.onnx", "trt": "model.plan",
}  # fmt: skip
_PLATFORMS: dict[Form, str] = {
    "ts-trace": 'platform: "pytorch_libtorch"',
    "ts-script": 'platform: "pytorch_libtorch"',
    "torch-export": 'platform: "pytorch_libtorch"\ndefault_model_filename: "model.pt2"',
    "onnx": 'platform: "onnxruntime_onnx"',
    "trt": 'platform: "tensorrt_plan"',
}
_INSTANCES = re.compile(r"([1-9]\d*)(?::(cpu|gpu))?")


class Serving(Struct, frozen=True, kw_only=True):
    """How the entry is to be served."""

    instances: int = 1
    kind: Kind = "auto"
    is_batched: bool = True
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    acceleration: Acceleration = "none"
    captures_graphs: bool = False
    labels: str = ""  # of the first output: a file's name


def parse_instances(text: str) -> tuple[int, Kind]:
    """N, N:cpu or N:gpu. Raises CallerError."""
    found = _INSTANCES.fullmatch(text)
    if found is None:
        raise invalid(f"--instances {text!r} is not N, N:cpu or N:gpu with N of at least 1")
    kind: Kind = "cpu" if found[2] == "cpu" else "gpu" if found[2] else "auto"
    return int(found[1]), kind


def refusal(form: Form, precision: str, serving: Serving) -> PenstockError | None:
    """Why a format cannot be served like that, if so."""
    gpu, acceleration = serving.kind == "gpu" or (form == "trt" and serving.kind == "auto"), serving.acceleration
    why = ""
    if form == "trt" and not gpu:
        why = "--instances N:cpu: a TensorRT plan computes on a GPU only"
    elif acceleration == "amp":
        why = "--backend-accelerator amp: automatic mixed precision is TensorFlow's; say --precision fp16"
    elif acceleration != "none" and form == "trt":
        why = f"--backend-accelerator {acceleration}: a plan is TensorRT on CUDA already; leave it out"
    elif acceleration == "trt" and form != "onnx":
        why = "--backend-accelerator trt: TensorRT accelerates ONNX models, by onnxruntime; say --format onnx, or --format trt"
    elif acceleration == "cuda" and form != "onnx":
        why = "--backend-accelerator cuda: torch computes with CUDA wherever its instances are on a GPU; say --instances N:gpu"
    elif acceleration != "none" and not gpu:
        why = f"--backend-accelerator {acceleration}: it needs instances on a GPU; say --instances N:gpu"
    elif serving.captures_graphs and form != "trt":
        why = "--capture-cuda-graph: graphs are captured of TensorRT plans only"
    return CallerError(f"{form} {precision}: {why}", Code.UNSUPPORTED) if why else None


def check_batching(max_batch_size: int, serving: Serving) -> None:
    """Raises CallerError for batches that there cannot be."""
    if not max_batch_size and (serving.preferred_batch_sizes or serving.max_queue_delay_us):
        raise invalid("--preferred-batch-sizes and --max-queue-delay-us: the model has no batch dimension (max_batch_size 0)")
    excessive = [size for size in serving.preferred_batch_sizes if size > max_batch_size]
    if excessive:
        raise invalid(f"--preferred-batch-sizes {excessive}: more than the largest batch, {max_batch_size}")


def config_text(name: str, form: Form, precision: str, signature: Signature, serving: Serving) -> str:
    """The file's text."""
    return "\n".join(_lines(name, form, precision, signature, serving)) + "\n"


def _lines(name: str, form: Form, precision: str, signature: Signature, serving: Serving) -> Iterator[str]:
    yield f'name: "{_escaped(name)}"'
    yield _PLATFORMS[form]
    yield f"max_batch_size: {signature.max_batch_size}"
    yield from _tensors("input", signature.inputs, "")
    yield from _tensors("output", signature.outputs, serving.labels)
    if serving.is_batched and signature.max_batch_size:
        yield from _batching(serving)
    yield _instances(form, signature, serving)
    yield from _optimization(precision, serving)


def _tensors(kind: str, tensors: Sequence[TensorInfo], labels: str) -> Iterator[str]:
    """What has no dims is one element for clients: Triton's reshape from [1] to []."""
    yield f"{kind} ["
    for position, tensor in enumerate(tensors):
        datatype = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
        dims = " ".join(f"{dim}," for dim in tensor.dims or (1,)).removesuffix(",")
        more = "" if tensor.dims else " reshape { shape: [ ] }"
        more += f' label_filename: "{_escaped(labels)}"' if labels and not position else ""
        comma = "," if position + 1 < len(tensors) else ""
        yield f'  {{ name: "{_escaped(tensor.name)}" data_type: TYPE_{datatype} dims: [ {dims} ]{more} }}{comma}'
    yield "]"


def _batching(serving: Serving) -> Iterator[str]:
    sizes = ", ".join(map(str, serving.preferred_batch_sizes))
    words = [f"preferred_batch_size: [ {sizes} ]"] if sizes else []
    words += [f"max_queue_delay_microseconds: {serving.max_queue_delay_us}"] if serving.max_queue_delay_us else []
    yield f"dynamic_batching {{ {' '.join(words)} }}" if words else "dynamic_batching { }"


def _instances(form: Form, signature: Signature, serving: Serving) -> str:
    """A plan with several profiles has an instance use them all: without being named, only the first would be."""
    kind = "gpu" if form == "trt" else serving.kind
    count = len(buckets(signature.max_batch_size, serving.preferred_batch_sizes)) if form == "trt" else 1
    names = ", ".join(f'"{number}"' for number in range(count))
    profiles = f" profile: [ {names} ]" if count > 1 else ""
    return f"instance_group [ {{ count: {serving.instances} kind: KIND_{kind.upper()}{profiles} }} ]"


def _optimization(precision: str, serving: Serving) -> Iterator[str]:
    if serving.captures_graphs:
        yield "optimization { cuda { graphs: true } }"
    if serving.acceleration in ("cuda", "trt"):
        name = "tensorrt" if serving.acceleration == "trt" else "cuda"
        half = ' parameters { key: "precision_mode" value: "FP16" }' if name == "tensorrt" and precision == "fp16" else ""
        yield f'optimization {{ execution_accelerators {{ gpu_execution_accelerator [ {{ name: "{name}"{half} }} ] }} }}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
