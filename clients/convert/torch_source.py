# SPDX-License-Identifier: Apache-2.0
"""A torch module as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...ipc.errors import CallerError, Code, MachineError, invalid
from ..models import Array, TensorInfo
from . import engines, onnx_files
from .entry_config import Form
from .module_functions import Built, Call, build
from .onnx_runs import OnnxRun
from .signatures import DEFAULT_MAX_BATCH_SIZE, Arrays
from .source import Asked, Say, Source, Written, remove_all_but
from .tolerances import Precision

if TYPE_CHECKING:
    from .torch_modules import TorchModule

DEFAULT_OPSET = 17
"""Of what is exported from torch: what TensorRT 8.5 reads, and every onnxruntime of the last years."""


class TorchSource(Source):
    """A torch module, built by a function."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._module: TorchModule | None = None

    def __repr__(self) -> str:
        return f"<TorchSource {self.asked.source} {'closed' if self._module is None else 'open'}>"

    @property
    def module(self) -> TorchModule:
        """Once it is open."""
        assert self._module is not None, "the source is not open"
        return self._module

    def open(self) -> None:
        """Calls the function."""
        try:
            from . import torch_modules
        except ImportError as error:
            raise MachineError(
                f"a torch module needs torch, which cannot be imported ({error}): pip install 'penstock[torch]'",
                Code.UNSUPPORTED,
            ) from error
        asked = self.asked
        self.max_batch_size = DEFAULT_MAX_BATCH_SIZE if asked.max_batch_size is None else asked.max_batch_size
        built = build(Call(asked.source, asked.config, asked.checkpoint, asked.words))
        module = torch_modules.TorchModule(built.module, (), asked.output_names or built.output_names, asked.device)
        module.prepare()
        if asked.checkpoint is not None and not built.is_checkpoint_taken:
            module.load_checkpoint(asked.checkpoint)
        arguments = module.forward_arguments
        if asked.inputs or built.examples is None:
            inputs = asked.inputs or _nothing_said(asked.source, built)
        else:
            inputs = torch_modules.inputs_of(built.examples, built.input_names, arguments, 1 if self.max_batch_size else 0)
        by_name = {tensor.name: tensor for tensor in inputs}
        if len(by_name) != len(inputs):
            raise invalid(f"an input is named twice: {[tensor.name for tensor in inputs]}")
        if set(by_name) <= set(arguments):  # names of forward's own say which is which
            inputs = tuple(by_name[name] for name in arguments if name in by_name)
        module.inputs = self.inputs = inputs
        self._module = module

    def answer(self, arrays: Arrays) -> Mapping[str, Array]:
        return self.module.answer(arrays)

    def write(self, form: Form, precision: Precision, path: Path, say: Say) -> Written:
        module, example = self.module, self.example
        names = [tensor.name for tensor in self.outputs]
        if form == "trt":
            halves = precision == "fp16" and engines.look().has_fp16_flag
            scratch = path.with_suffix(".onnx")
            self._write_onnx(scratch, "fp32" if halves else precision, say)
            found = self._build_engine(scratch, halves, path, say)
            remove_all_but(path)
            return Written(found, None)
        if form == "onnx":
            self._write_onnx(path, precision, say)
            run = OnnxRun(path).open()
            return Written(self._of_file(run.inputs, run.outputs), run.answer)
        if form == "torch-export":
            dims, lead = module.write_exported(path, example, precision, self.max_batch_size), 1 if self.max_batch_size else 0
            outputs = tuple(each._replace(dims=own[lead:]) for each, own in zip(self.outputs, dims, strict=True))
            return Written(self.signature._replace(outputs=outputs), module.run_file(path, names))
        if form == "ts-script":
            module.write_scripted(path, example, precision)
        else:
            _tell(module.write_traced(path, example, precision), say)
        return Written(self.signature, module.run_file(path, names))

    def _write_onnx(self, path: Path, precision: Precision, say: Say) -> None:
        names, asked = [tensor.name for tensor in self.outputs], self.asked.opset
        opset = DEFAULT_OPSET if asked is None else asked
        _tell(self.module.write_onnx(path, self.example, precision, opset, names, self.max_batch_size), say)
        onnx_files.gathered(path)
        found = onnx_files.opset_of(path)
        if asked is not None and found not in (None, asked):
            raise CallerError(f"--opset {asked}: torch's exporter for this module has written opset {found}", Code.UNSUPPORTED)


def _tell(warned: Sequence[str], say: Say) -> None:
    for text in warned:
        say(f"torch warns: {text}")


def _nothing_said(source: str, built: Built) -> tuple[TensorInfo, ...]:
    names = built.input_names or ("NAME",)
    example = " ".join(f"--input {name}:FP32:3,224,224" for name in names)
    raise invalid(f"{source} gives no example inputs: say what it takes, e.g. {example} (dims without the batch dimension)")
