# SPDX-License-Identifier: Apache-2.0
"""What cannot be had, by itself or on this machine, said before anything is exported. Pure.

`penstock convert` would refuse most of it too, in terms of its own options and after the network was built.
"""

from __future__ import annotations

from collections.abc import Iterator

from penstock.ipc.gpus import Gpus

from .settings import Settings

_BACKENDS = {
    "onnx": ("onnxruntime", "onnxruntime for CUDA is not installed: pip install onnxruntime-gpu (in place of onnxruntime)"),
    "trt": ("tensorrt", "TensorRT is not installed: pip install tensorrt"),
    "ts-script": ("pytorch", "torch is installed for the CPU only"),
    "ts-trace": ("pytorch", "torch is installed for the CPU only"),
    "torch-export": ("pytorch", "torch is installed for the CPU only"),
}
"""Format -> the backend that serves it on a GPU, and what is wrong where it cannot."""


def refusals(asked: Settings, gpus: Gpus) -> list[str]:
    """Every reason why this cannot be run; none if it can."""
    return [*_contradictions(asked), *_lacks(asked, gpus)]


def _contradictions(asked: Settings) -> Iterator[str]:
    """What no machine has."""
    form, exported = asked.format, asked.export_format
    from_onnx, from_script = form in ("onnx", "trt"), form in ("ts-script", "ts-trace")
    if not (exported == form or (from_onnx and exported == "onnx") or (from_script and exported == "torchscript")):
        yield f"EXPORT_FORMAT={exported}: FORMAT={form} is made of {'onnx' if from_onnx else form}, and of nothing else"
    if asked.export_precision == "fp16" and asked.precision == "fp32":
        yield "EXPORT_PRECISION=fp16 with PRECISION=fp32: what was exported in half precision does not become FP32 again"
    if asked.accelerator == "amp":
        yield "BACKEND_ACCELERATOR=amp: automatic mixed precision is TensorFlow's; say PRECISION=fp16"
    elif asked.accelerator != "none" and form == "trt":
        yield f"BACKEND_ACCELERATOR={asked.accelerator}: FORMAT=trt is a TensorRT plan already; say BACKEND_ACCELERATOR=none"
    elif asked.accelerator != "none" and form != "onnx":
        yield f"BACKEND_ACCELERATOR={asked.accelerator}: it accelerates ONNX models, by onnxruntime; FORMAT is {form}"
    if asked.captures_graphs and form != "trt":
        yield f"TENSORRT_CAPTURE_CUDA_GRAPH=1: graphs are captured of TensorRT plans only, FORMAT=trt; FORMAT is {form}"
    if form == "torch-export" and asked.max_batch_size == 1:
        yield "FORMAT=torch-export with MAX_BATCH_SIZE=1: torch.export takes a batch of one for constant; say 2 or more"


def _lacks(asked: Settings, gpus: Gpus) -> Iterator[str]:
    """What this machine has not."""
    needs_gpu = [f"FORMAT={asked.format}"] if asked.format == "trt" else []
    needs_gpu += [f"BACKEND_ACCELERATOR={asked.accelerator}"] if asked.accelerator in ("trt", "cuda") else []
    if asked.device == "cpu":
        yield from (f"{what} computes on a GPU only, and DEVICE_KIND is cpu{_why(gpus)}" for what in needs_gpu)
        return
    if not gpus.found:
        yield f"DEVICE_KIND=gpu: there is none here: {gpus.reason}"
        return
    backend, missing = _BACKENDS[asked.format]
    if backend not in gpus.backends:
        yield f"FORMAT={asked.format} with DEVICE_KIND=gpu: {missing}"


def _why(gpus: Gpus) -> str:
    return "" if gpus.found else f" (there is no GPU here: {gpus.reason})"
