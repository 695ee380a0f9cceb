# SPDX-License-Identifier: Apache-2.0
"""An ONNX file as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...ipc.errors import CallerError, Code, invalid, not_found
from ..models import Array, TensorInfo
from . import engines, onnx_files
from .entry_config import Form
from .onnx_runs import OnnxRun
from .signatures import DEFAULT_MAX_BATCH_SIZE, Arrays, batches, without_batch
from .source import Asked, Say, Source, Written, remove_all_but
from .tolerances import Precision


class OnnxSource(Source):
    """An ONNX file."""

    forms = ("onnx", "trt")

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self.path = Path(asked.source)
        self._run = OnnxRun(self.path)

    def __repr__(self) -> str:
        return f"<OnnxSource {self.path}>"

    def open(self) -> None:
        """By onnxruntime. `--input` may narrow its variable dims."""
        unfit = [
            option
            for option, given in (
                ("--config", self.asked.config), ("--checkpoint", self.asked.checkpoint), ("--device", self.asked.device),
                ("--output", self.asked.output_names), ("options after --", self.asked.words),
            )
            if given
        ]  # fmt: skip
        if unfit:
            raise invalid(f"{', '.join(unfit)}: for torch modules only, {self.path} is an ONNX file")
        run = self._run.open()
        default = DEFAULT_MAX_BATCH_SIZE if batches([*run.inputs, *run.outputs]) else 0
        self.max_batch_size = default if self.asked.max_batch_size is None else self.asked.max_batch_size
        own = tuple(without_batch("input", tensor, self.max_batch_size) for tensor in run.inputs)
        self.inputs = _narrowed(own, self.asked.inputs)
        self.outputs = tuple(without_batch("output", tensor, self.max_batch_size) for tensor in run.outputs)

    def answer(self, arrays: Arrays) -> Mapping[str, Array]:
        return self._run.answer(arrays)

    def write(self, form: Form, precision: Precision, path: Path, say: Say) -> Written:
        if form == "onnx":
            self._write_onnx(path, precision == "fp16")
            run = OnnxRun(path).open()
            return Written(self._of_file(run.inputs, run.outputs), run.answer)
        if form != "trt":
            raise CallerError(f"{form}: an ONNX file cannot be converted to it, only a torch module can", Code.UNSUPPORTED)
        halves = precision == "fp16" and engines.look().has_fp16_flag
        scratch = path.with_suffix(".onnx")
        self._write_onnx(scratch, precision == "fp16" and not halves)
        found = self._build_engine(scratch, halves, path, say)
        remove_all_but(path)
        return Written(found, None)

    def _write_onnx(self, path: Path, in_half: bool) -> None:
        asked = self.asked.opset
        source = self.path
        if asked is not None and asked != onnx_files.opset_of(self.path):
            onnx_files.with_opset(source, path, asked)
            source = path
        if in_half:
            onnx_files.in_half(source, path)
        elif source != path:
            onnx_files.copied(source, path)


def _narrowed(own: Sequence[TensorInfo], asked: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """The file's inputs, with the dims that were asked for. Raises CallerError where the file cannot do that."""
    found = {tensor.name: tensor for tensor in own}
    for tensor in asked:
        mine = found.get(tensor.name)
        if mine is None:
            raise not_found(f"--input {tensor.name}: the file has {list(found)}")
        fits = len(mine.dims) == len(tensor.dims) and all(
            have in (-1, want) for have, want in zip(mine.dims, tensor.dims, strict=True)
        )
        if mine.datatype != tensor.datatype or not fits:
            raise invalid(
                f"--input {tensor.name}: asked for is {tensor.datatype} {list(tensor.dims)}, the file has {mine.datatype} "
                f"{list(mine.dims)} (without the batch dimension)"
            )
        found[tensor.name] = tensor
    return tuple(found.values())
