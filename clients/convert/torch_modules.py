# SPDX-License-Identifier: Apache-2.0
"""A torch module as a source, and what it is converted to. The only importer of torch among the clients.

Half precision is inside: a module in fp16 takes and gives what the source does, and converts at its edges, so that clients need
not know. TorchScript's deprecation warnings are not passed on: the formats were asked for by name.
"""

from __future__ import annotations

import copy
import inspect
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...ipc.errors import CallerError, Code, ModelError, PenstockError, invalid
from ..models import Array, TensorInfo
from .signatures import Arrays
from .state_dicts import fitted, weights_in
from .tolerances import Precision

Run = Callable[[Arrays], dict[str, Array]]

_JIT: Any = torch.jit
"""Its functions have no types."""
_DATATYPES: dict[str, Any] = {
    "BOOL": torch.bool, "UINT8": torch.uint8, "INT8": torch.int8, "INT16": torch.int16, "INT32": torch.int32,
    "INT64": torch.int64, "FP16": torch.float16, "BF16": torch.bfloat16, "FP32": torch.float32, "FP64": torch.float64,
}  # fmt: skip


class TorchModule:
    """A module in eval mode, where it was built or on `device`, and the names of its tensors."""

    def __init__(self, module: Any, inputs: Sequence[TensorInfo], output_names: Sequence[str], device: str | None) -> None:
        if not isinstance(module, torch.nn.Module):
            raise invalid(f"the function must return a torch.nn.Module, got a {type(module).__name__}")
        self.module: Any = module
        self.inputs = tuple(inputs)
        self._output_names = tuple(output_names)
        self._device = device

    def __repr__(self) -> str:
        return f"<TorchModule {type(self.module).__name__} of {[tensor.name for tensor in self.inputs]}>"

    def check_invariants(self) -> None:
        """No name twice."""
        names = [tensor.name for tensor in self.inputs]
        assert len(set(names)) == len(names), self

    def prepare(self) -> None:
        """Eval mode, without gradients, on its device. Raises CallerError where there is no such device."""
        self.module.eval()
        for parameter in self.module.parameters():  # a ScriptModule has no requires_grad_ of its own
            parameter.requires_grad_(False)
        if self._device is None:
            return
        try:
            self.module.to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise invalid(f"--device {self._device}: {_first_line(error)}") from error

    @property
    def device(self) -> Any:
        """Where its parameters are."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return tensors[0].device if tensors else torch.device(self._device or "cpu")

    @property
    def forward_arguments(self) -> list[str]:
        """The names of forward's positional parameters."""
        parameters = inspect.signature(self.module.forward).parameters.values()
        return [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]

    def load_checkpoint(self, path: Path) -> None:
        """A state dict, or one under a usual name. Raises CallerError that names the keys that do not fit."""
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise _unreadable(path, error) from error
        self.module.load_state_dict(fitted(path, weights_in(path, held), self.module.state_dict()))

    def answer(self, arrays: Arrays) -> dict[str, Array]:
        """What the source says. Raises ModelError with what it raised."""
        outputs = _called("the module", self.module, self._tensors(arrays, _floating_of(self.module)))
        names = self._names(outputs)
        return {name: _array(name, tensor) for name, tensor in zip(names, _flat(outputs), strict=True)}

    def run_file(self, path: Path, names: Sequence[str]) -> Run:
        """What a written TorchScript file (.pt) or torch.export program (.pt2) answers, loaded anew."""
        with _refusing(path.name), _quietly():
            is_exported = path.suffix == ".pt2"
            module = torch.export.load(path).module() if is_exported else _JIT.load(str(path), map_location=self.device)

        def run(arrays: Arrays) -> dict[str, Array]:
            outputs = _flat(_called("the converted module", module, self._tensors(arrays, None)))
            return {name: _array(name, tensor) for name, tensor in zip(names, outputs, strict=True)}

        return run

    def write_traced(self, path: Path, example: Arrays, precision: Precision) -> list[str]:
        """torch.jit.trace, saved; returns what torch warns of: what it could not see, it has taken for constant."""
        with _refusing("ts-trace"), _quietly() as said:
            module = self._inner(precision, example)
            _save(_JIT.save, _JIT.trace(module, self._tensors(example, None), check_trace=False), path)
        return _tracers(said)

    def write_scripted(self, path: Path, example: Arrays, precision: Precision) -> None:
        """torch.jit.script, saved; what converts at the edges is traced around it."""
        with _refusing("ts-script"), _quietly():
            scripted = _JIT.script(self._in(precision))
            outer = self._inner(precision, example, scripted)
            if outer is not scripted:
                outer = _JIT.trace(outer, self._tensors(example, None), check_trace=False)
            _save(_JIT.save, outer, path)

    def write_exported(self, path: Path, example: Arrays, precision: Precision, max_batch_size: int) -> list[tuple[int, ...]]:
        """torch.export, saved, with a variable batch and the inputs' own variable dims; the complete dims of its outputs."""
        if max_batch_size == 1:
            raise CallerError(
                "torch-export: --max-batch-size 1: torch.export takes a batch of one for constant; say 2 or more, or 0 for no "
                "batch dimension",
                Code.UNSUPPORTED,
            )
        with _refusing("torch-export"), _quietly():
            module = self._inner(precision, example)
            shapes = self._variable(module, max_batch_size)
            program = torch.export.export(module, self._tensors(example, None), dynamic_shapes=shapes)
            _save(torch.export.save, program, path)
        return _output_dims(program)

    def write_onnx(
        self, path: Path, example: Arrays, precision: Precision, opset: int, names: Sequence[str], max_batch_size: int
    ) -> list[str]:
        """By the exporter that needs no other package; by torch's newer one where that fails and onnxscript is installed.

        Returns what torch warns of.
        """
        lead = 1 if max_batch_size else 0
        axes: dict[str, dict[int, str]] = {name: {0: "batch"} for name in names if lead}
        for tensor in self.inputs:
            variable = {lead + at: f"{tensor.name}_{at}" for at, dim in enumerate(tensor.dims) if dim < 0}
            axes[tensor.name] = {**({0: "batch"} if lead else {}), **variable}
        options: dict[str, Any] = {
            "input_names": [tensor.name for tensor in self.inputs], "output_names": list(names), "opset_version": opset,
        }  # fmt: skip
        has_both = "dynamo" in inspect.signature(torch.onnx.export).parameters  # since torch 2.5
        module, tensors = self._inner(precision, example), self._tensors(example, None)
        with _refusing("onnx"), _quietly() as said, _without_fast_paths():
            try:
                torch.onnx.export(
                    module, tensors, str(path), dynamic_axes=axes, **options, **({"dynamo": False} if has_both else {})
                )  # fmt: skip
            except Exception as error:
                if not has_both or _is_about_opset(error) or find_spec("onnxscript") is None:
                    raise
                shapes = self._variable(module, max_batch_size)
                torch.onnx.export(
                    module, tensors, str(path), dynamic_shapes=shapes, dynamo=True, verbose=False, **options
                )  # fmt: skip
        for warning in said:
            text = str(warning.message)
            if f"opset version {opset} is not supported" in text:
                raise CallerError(f"--opset {opset}: {text.partition(' To use ')[0].strip()}", Code.UNSUPPORTED)
        return _tracers(said)

    def _in(self, precision: Precision) -> Any:
        return copy.deepcopy(self.module).half() if precision == "fp16" else self.module

    def _inner(self, precision: Precision, example: Arrays, module: Any = None) -> Any:
        """The module, or, where its edges are not those that are served, one around it."""
        inner = self._in(precision) if module is None else module
        outputs = _called("the module", self.module, self._tensors(example, _floating_of(self.module)))
        inside = torch.float16 if precision == "fp16" else _floating_of(self.module)
        kinds = [_DATATYPES[tensor.datatype] for tensor in self.inputs]
        is_plain = isinstance(outputs, (torch.Tensor, tuple)) and all(
            inside is None or each is inside or not each.is_floating_point for each in kinds
        )
        if precision == "fp32" and is_plain:
            return inner
        return _Edges(inner, inside, [tensor.dtype for tensor in _flat(outputs)]).eval()

    def _variable(self, module: Any, max_batch_size: int) -> Any:
        """The variable dims of `module`'s parameters, as torch.export wants to be told."""
        lead = 1 if max_batch_size else 0
        batch = {0: torch.export.Dim("batch", min=1, max=max_batch_size)} if max_batch_size > 1 else {}
        shapes = tuple(
            {**batch, **{lead + at: _any_size(position, at) for at, dim in enumerate(tensor.dims) if dim < 0}}
            for position, tensor in enumerate(self.inputs)
        )
        return (shapes,) if isinstance(module, _Edges) else shapes  # whose forward takes *tensors, one parameter

    def _tensors(self, arrays: Arrays, floating: Any) -> tuple[Any, ...]:
        """In the order of the inputs, on the device; floating point as `floating`, if that is said."""
        found = []
        for info in self.inputs:
            tensor = _tensor(info, arrays[info.name]).to(self.device)
            found.append(tensor.to(floating) if floating is not None and tensor.is_floating_point() else tensor)
        return tuple(found)

    def _names(self, outputs: Any) -> list[str]:
        flat = _flat(outputs)
        own = list(outputs) if isinstance(outputs, Mapping) else [f"OUTPUT__{index}" for index in range(len(flat))]
        if self._output_names and len(self._output_names) != len(flat):
            raise invalid(f"the module has {len(flat)} outputs, {len(self._output_names)} are named: {self._output_names}")
        return list(self._output_names) or own


class _Edges(torch.nn.Module):  # type: ignore[misc]  # torch's types are not read, see pyproject.toml
    """A module that computes in another precision, or returns its outputs in another form, than is served."""

    def __init__(self, inner: Any, inside: Any, outputs: Sequence[Any]) -> None:
        super().__init__()
        self.inner = inner
        self.inside = inside
        self.outputs = list(outputs)

    def forward(self, *tensors: Any) -> Any:
        taken = [each.to(self.inside) if self.inside and each.is_floating_point() else each for each in tensors]
        given = [each.to(kind) for each, kind in zip(_flat(self.inner(*taken)), self.outputs, strict=True)]
        return given[0] if len(given) == 1 else tuple(given)


def inputs_of(examples: Any, names: Sequence[str], arguments: Sequence[str], lead: int) -> tuple[TensorInfo, ...]:
    """Inputs that look like the example inputs, without their first `lead` dims. A mapping has names, and is put in forward's
    order; others are named, or INPUT__0 and so on. Raises CallerError.
    """  # noqa: D205 - one sentence on two lines
    if isinstance(examples, Mapping):
        order = [name for name in arguments if name in examples]
        given = {name: examples[name] for name in (order if len(order) == len(examples) else examples)}
    else:
        flat = list(examples) if isinstance(examples, (tuple, list)) else [examples]
        own = list(names) or [f"INPUT__{index}" for index in range(len(flat))]
        if len(own) != len(flat):
            raise invalid(f"there are {len(flat)} example inputs and {len(own)} names: {own}")
        given = dict(zip(own, flat, strict=True))
    found = []
    for name, tensor in given.items():
        if not isinstance(tensor, torch.Tensor):
            raise invalid(f"example input '{name}' is a {type(tensor).__name__}, not a tensor")
        if tensor.dim() < lead:
            raise invalid(f"example input '{name}' is a scalar: it has no batch dimension; say --max-batch-size 0")
        found.append(TensorInfo(name, _datatype(name, tensor), tuple(tensor.shape[lead:])))
    return tuple(found)


def _any_size(*place: int) -> Any:
    """A variable dim of torch.export: torch finds out its bounds, where it can (from 2.6 on)."""
    return getattr(torch.export.Dim, "AUTO", None) or torch.export.Dim("dim_" + "_".join(map(str, place)))


def _floating_of(module: Any) -> Any:
    """The floating point type of a module's parameters; None where it has none."""
    return next((each.dtype for each in [*module.parameters(), *module.buffers()] if each.is_floating_point()), None)


def _tensor(info: TensorInfo, array: Array) -> Any:
    if info.datatype not in _DATATYPES:
        raise CallerError(f"input '{info.name}': torch has no {info.datatype}", Code.UNSUPPORTED)
    tensor = torch.from_numpy(np.array(array))  # a copy of its own: writeable, and any module may keep it
    return tensor.view(torch.bfloat16) if info.datatype == "BF16" else tensor


def _array(name: str, tensor: Any) -> Array:
    tensor = tensor.detach().cpu().contiguous()
    _datatype(name, tensor)
    if tensor.dtype is torch.bfloat16:
        raise CallerError(f"output '{name}' is bfloat16; let the module return float32 or float16", Code.UNSUPPORTED)
    array: Array = tensor.numpy()
    return array


def _save(save: Callable[[Any, Any], None], made: Any, path: Path) -> None:
    """Through memory: torch's own writer ends the process where the disk is full (it throws in a destructor)."""
    content = io.BytesIO()
    save(made, content)
    path.write_bytes(content.getbuffer())


def _output_dims(program: Any) -> list[tuple[int, ...]]:
    """Of an exported program; -1 where it leaves one open."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    shapes = [values[each].shape for each in program.graph_signature.user_outputs]
    return [tuple(dim if isinstance(dim, int) else -1 for dim in shape) for shape in shapes]


def _datatype(name: str, tensor: Any) -> str:
    for datatype, kind in _DATATYPES.items():
        if tensor.dtype is kind:
            return datatype
    raise CallerError(f"tensor '{name}' is {tensor.dtype}, which no datatype holds", Code.UNSUPPORTED)


def _flat(outputs: Any) -> list[Any]:
    """A tensor, a sequence of tensors or a mapping to them, as a list. Raises CallerError for anything deeper."""
    flat = (
        list(outputs.values()) if isinstance(outputs, Mapping) else [outputs] if isinstance(outputs, torch.Tensor) else outputs
    )
    if not isinstance(flat, (list, tuple)) or not all(isinstance(tensor, torch.Tensor) for tensor in flat):
        kinds: Any = type(outputs).__name__
        if isinstance(outputs, Mapping):
            kinds = {str(key): type(each).__name__ for key, each in outputs.items()}
        elif isinstance(outputs, (list, tuple)):
            kinds = [type(each).__name__ for each in outputs]
        raise CallerError(
            f"the module returns {kinds}; a tensor, a sequence or a dict of tensors can be served", Code.UNSUPPORTED
        )
    return list(flat)


def _called(what: str, module: Any, tensors: Sequence[Any]) -> Any:
    try:
        with torch.no_grad():
            return module(*tensors)
    except (Exception, SystemExit) as error:
        shapes = ", ".join(f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in tensors)
        raise ModelError(f"{what} raised {type(error).__name__} for inputs {shapes}: {_last_line(error)}") from error


@contextmanager
def _refusing(form: str) -> Iterator[None]:
    """What torch raises within the block, as an error that names the format."""
    try:
        yield
    except (CallerError, ModelError, OSError):  # OSError: the disk's, and no fault of the format
        raise
    except Exception as error:
        said, name = str(error).strip(), type(error).__name__
        if _is_about_opset(error):
            raise CallerError(f"--opset: {said.splitlines()[0]}", Code.UNSUPPORTED) from error
        if "Constraints violated" in said or "ConstraintViolation" in name:
            said = f"a dynamic batch is not possible: {said}"
        hint = "another format may be able to"
        if form == "onnx" and find_spec("onnxscript") is None:
            hint = "torch's newer exporter, which needs onnxscript (pip install onnxscript), or another format, may be able to"
        separator = "\n" if "\n" in said else "; "
        raise ModelError(f"{form}: {name}: {said}{separator}{hint}") from error


def _is_about_opset(error: Exception) -> bool:
    return any(f"nsupported {word} " in f"{error} " for word in ("onnx_opset_version:", "ONNX opset version:"))


def _tracers(said: Sequence[warnings.WarningMessage]) -> list[str]:
    """Those of the tracer, a line each, as often as they differ."""
    texts = [str(each.message).partition("\n")[0] for each in said if issubclass(each.category, _JIT.TracerWarning)]
    return list(dict.fromkeys(texts))


@contextmanager
def _without_fast_paths() -> Iterator[None]:
    """torch's attention and encoder layers step by step: in eval mode they are one operator each, which ONNX does not have."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _quietly() -> Iterator[list[warnings.WarningMessage]]:
    """Warnings within the block, kept."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield said


def _unreadable(path: Path, error: Exception) -> PenstockError:
    """Of a checkpoint: what else than weights it holds, or that it is none."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found is None:
        return invalid(f"checkpoint {path} cannot be read as a file that torch.save has written: {_first_line(error)}")
    return invalid(
        f"checkpoint {path} cannot be read: it holds more than weights ({found[1]}), and reading that would run its code; if "
        "you trust it, let the function take `checkpoint` and load it itself, else save the state dict alone"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[-1].strip()
