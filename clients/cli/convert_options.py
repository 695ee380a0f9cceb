# SPDX-License-Identifier: Apache-2.0
"""The options of `penstock convert`, in the groups of its help."""

from __future__ import annotations

from pathlib import Path

import click

from .options import address_option, in_order, json_option
from .perf_options import named_shape
from .several_values import SeveralNumbers

FORMS = ("ts-trace", "ts-script", "torch-export", "onnx", "trt")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_OPTIONS = (
    click.argument("source", metavar="SOURCE"),
    click.argument("words", metavar="[-- FUNCTION OPTIONS...]", nargs=-1, type=click.UNPROCESSED),
    click.option(
        "--format",
        "forms",
        type=click.Choice(FORMS),
        multiple=True,
        help="What to convert to; several, or none for all, with --search.",
    ),
    click.option(
        "--precision",
        "precisions",
        type=click.Choice(["fp32", "fp16"]),
        multiple=True,
        show_default="fp32; both with --search",
        help="What is computed in. Inputs and outputs keep their types.",
    ),
    click.option(
        "--config", "config_file", type=_FILE, help="JSON (or YAML, with PyYAML) for the function that builds the module."
    ),
    click.option("--checkpoint", type=_FILE, help="Weights, for the function, or else loaded into the module."),
    click.option(
        "--input",
        "inputs",
        metavar="NAME:DTYPE:DIMS",
        multiple=True,
        help="An input, e.g. image:FP32:3,224,224, without the batch dimension; -1: variable. Repeatable, in forward's order.",
    ),
    click.option("--output", "output_names", metavar="NAME", multiple=True, help="Names the module's outputs, in their order."),
    click.option(
        "--shape",
        "shapes",
        type=named_shape,
        metavar="NAME:1,2,3",
        multiple=True,
        help="Dims that an input with variable ones is used with, without the batch dimension. Repeatable, also for one input: "
        "then trt is built for all from the smallest to the largest, and best for the second of three.",
    ),
    click.option(
        "--max-batch-size",
        type=click.IntRange(0),
        show_default="8; 0 for an ONNX file without a variable first dim",
        help="Of the model as served; 0: it has no batch dimension, and dims are complete.",
    ),
    click.option(
        "--preferred-batch-sizes",
        cls=SeveralNumbers,
        help="For the dynamic batcher; a trt plan gets a profile up to each.",
    ),
    click.option("--opset", type=click.IntRange(7), show_default="17 from torch; an ONNX file's own", help="Of ONNX."),
    click.option(
        "--device", metavar="DEVICE", help="Move the torch module there (cpu, cuda:0). Default: where the function put it."
    ),
    click.option(
        "--max-workspace-size", type=click.IntRange(1), metavar="BYTES", help="trt: GPU memory that a layer may work in."
    ),
    click.option(
        "--timing-cache",
        type=click.Path(dir_okay=False, path_type=Path),
        help="trt: keep the kernels' times in this file, and use those in it: the next build takes less time.",
    ),
    click.option(
        "--inputs",
        "inputs_path",
        type=click.Path(exists=True, path_type=Path),
        metavar="FILE.npz|DIRECTORY",
        help="Compare on these: NAME.npy per input, with a row per row. Default: random ones, as perf makes them.",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random inputs."),
    click.option(
        "--atol", metavar="[NAME=]V", multiple=True, show_default="1e-4, fp16 1e-2", help="Absolute tolerance. Repeatable."
    ),
    click.option(
        "--rtol", metavar="[NAME=]V", multiple=True, show_default="1e-3, fp16 1e-2", help="Relative tolerance. Repeatable."
    ),
    click.option(
        "--check",
        type=click.Choice(["served", "converted"]),
        default="served",
        show_default=True,
        help="Compare as served too, by a broker of this command's own; or only in this process.",
    ),
    click.option(
        "--repository",
        type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
        required=True,
        metavar="REPOSITORY",
        help="Where the model goes; made if there is none.",
    ),
    click.option("--name", required=True, help="The model's."),
    click.option("--version", type=click.IntRange(1), default=1, show_default=True, help="The model's."),
    click.option(
        "--instances",
        default="1",
        show_default=True,
        metavar="N[:cpu|gpu]",
        help="Worker processes. Without cpu or gpu: KIND_AUTO; trt: gpu.",
    ),
    click.option(
        "--batching", type=click.Choice(["dynamic", "none"]), default="dynamic", show_default=True, help="Dynamic batcher."
    ),
    click.option(
        "--max-queue-delay-us", type=click.IntRange(0), default=0, show_default=True, help="How long a batch may wait for more."
    ),
    click.option(
        "--backend-accelerator",
        "acceleration",
        type=click.Choice(["none", "cuda", "trt", "amp"]),
        default="none",
        show_default=True,
        help="For onnx on a GPU: onnxruntime's CUDA or TensorRT. Where it does not apply it is refused.",
    ),
    click.option("--capture-cuda-graph", "captures_graphs", is_flag=True, help="trt: CUDA graphs for batches."),
    click.option("--labels", type=_FILE, help="A label per line, for classes of the first output."),
    click.option("--force", is_flag=True, help="Write over the version, and over another configuration of the model."),
    click.option("--load", is_flag=True, help="Then load it into the broker that runs, and compare there again."),
    click.option("--search", is_flag=True, help="Try every --format with every --precision, keep the fastest that is right."),
    click.option(
        "--measurement-interval-ms",
        "interval_ms",
        type=click.IntRange(1),
        default=1000,
        show_default=True,
        help="--search: how long requests are sent in a window, as in perf.",
    ),
    address_option,
    json_option,
)

convert_options = in_order(_OPTIONS)
