# SPDX-License-Identifier: Apache-2.0
"""Model files of torch: what each is, told by its content, and how it is called. The only importer of torch.

TorchScript (torch.jit.save) and exported programs (torch.export.save) are served. Both are zip archives, whatever their names;
so is what cannot be served, which is refused with what to do instead.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from ...ipc.errors import Code, MachineError, ModelError
from ...ipc.messages import LoadModel, TensorSpec
from .forward_names import Argument, flattened

try:
    import torch
except (ImportError, OSError) as error:  # OSError: one of its libraries cannot be loaded
    raise MachineError(
        f"the pytorch backend needs torch, which cannot be imported ({error}): pip install 'penstock[torch]'", Code.UNSUPPORTED
    ) from error

__all__ = ["DATATYPES", "DTYPES", "ExportedProgram", "Program", "ScriptProgram", "load_program", "torch"]

DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool, "UINT8": torch.uint8, "UINT16": torch.uint16, "UINT32": torch.uint32, "UINT64": torch.uint64,
    "INT8": torch.int8, "INT16": torch.int16, "INT32": torch.int32, "INT64": torch.int64,
    "FP16": torch.float16, "BF16": torch.bfloat16, "FP32": torch.float32, "FP64": torch.float64,
}  # fmt: skip
"""Datatype -> torch's name of it. BYTES is not here: a tensor of torch holds no text."""
DATATYPES: dict[torch.dtype, str] = {dtype: datatype for datatype, dtype in DTYPES.items()}


class Program(ABC):
    """A loaded model. Its calls may run at once; torch's rules for in-place changes apply."""

    #: what its kind of file is called in messages
    kind = ""
    #: the arguments of forward that are tensors, in its order; None: it takes one dictionary, with keys that nobody knows
    arguments: list[Argument] | None
    #: it may keep what it is given for later calls, so that it must be given memory of its own
    keeps_inputs = False

    @abstractmethod
    def call(self, values: Sequence[torch.Tensor | None] | Mapping[str, torch.Tensor]) -> Any:
        """Runs it on a value per argument (None: left out), or on a dictionary; whatever forward returns."""

    @abstractmethod
    def tensors(self) -> tuple[list[TensorSpec], list[TensorSpec]] | None:
        """Inputs and outputs, by the model's own names (an output may have none); None where the file does not tell."""


class ScriptProgram(Program):
    """A TorchScript module, traced or scripted. It says which arguments there are, but neither datatypes nor shapes."""

    kind = "TorchScript module"

    def __init__(self, module: Any) -> None:
        self._module = module
        #: position of each argument that is a tensor -> among all of them
        self._positions: list[int] = []
        #: what is passed for each argument of forward unless a tensor is
        self._defaults: list[Any] = []
        self.arguments = self._read_arguments(module.forward.schema.arguments[1:])  # the first is self
        self.keeps_inputs = _keeps(module.inlined_graph)

    def __repr__(self) -> str:
        return f"<ScriptProgram of {self.arguments}>"

    def call(self, values: Sequence[torch.Tensor | None] | Mapping[str, torch.Tensor]) -> Any:
        if isinstance(values, Mapping):
            return self._module(dict(values))
        arguments = self._defaults.copy()
        for position, value in zip(self._positions, values, strict=True):
            if value is not None:
                arguments[position] = value
        return self._module(*arguments)

    def tensors(self) -> None:
        """TorchScript keeps neither datatypes nor shapes."""

    def _read_arguments(self, arguments: Sequence[Any]) -> list[Argument] | None:
        if len(arguments) == 1 and arguments[0].type.kind() == "DictType":
            if str(arguments[0].type) != "Dict[str, Tensor]":
                raise _unsupported_argument(arguments[0].name, arguments[0].type)
            return None
        found = []
        for position, argument in enumerate(arguments):
            is_optional = argument.has_default_value() or argument.type.kind() == "OptionalType"
            self._defaults.append(argument.default_value)
            if str(argument.type) in ("Tensor", "Optional[Tensor]"):
                self._positions.append(position)
                found.append(Argument(argument.name, is_optional))
            elif not is_optional:
                raise _unsupported_argument(argument.name, argument.type)
        return found


class ExportedProgram(Program):
    """A program of torch.export: one graph, with datatypes and shapes."""

    kind = "exported program"

    def __init__(self, program: Any, device: str) -> None:
        from torch.utils import _pytree

        if device != "cpu":
            program = _moved(program, device)
        self._program = program
        self._module = program.module().to(device)
        self._unflatten = _pytree.tree_unflatten
        self._spec = program.call_spec.in_spec
        #: what is passed for each leaf of forward's arguments unless a tensor is
        self._defaults: list[Any] = []
        self._positions: list[int] = []
        self._names: list[str] = []
        for each in program.graph_signature.input_specs:
            if each.kind.name == "USER_INPUT":
                self._add_leaf(each.arg)
        self.arguments = [Argument(name) for name in self._argument_names()]

    def __repr__(self) -> str:
        return f"<ExportedProgram of {self.arguments}>"

    def call(self, values: Sequence[torch.Tensor | None] | Mapping[str, torch.Tensor]) -> Any:
        leaves = self._defaults.copy()
        for position, value in zip(self._positions, values, strict=True):
            leaves[position] = value
        arguments, keywords = self._unflatten(leaves, self._spec)
        return self._module(*arguments, **keywords)

    def tensors(self) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Dims include the batch dimension where there is one; -1 where the program leaves one open."""
        nodes = {node.name: node.meta.get("val") for node in self._program.graph.nodes}
        outputs = [each.arg for each in self._program.graph_signature.output_specs if each.kind.name == "USER_OUTPUT"]
        names = [name for name, _ in flattened(self._unflatten(range(len(outputs)), self._program.call_spec.out_spec))]
        assert self.arguments is not None, "an exported program knows its arguments"
        return (
            [_spec(argument.name, nodes[name]) for argument, name in zip(self.arguments, self._names, strict=True)],
            [_spec(name, nodes.get(getattr(leaf, "name", ""))) for name, leaf in zip(names, outputs, strict=True)],
        )

    def _add_leaf(self, argument: Any) -> None:
        kind = type(argument).__name__
        if kind == "TensorArgument":
            self._positions.append(len(self._defaults))
            self._names.append(argument.name)
        elif kind != "ConstantArgument":
            raise _unsupported_argument(argument.name, kind)
        self._defaults.append(getattr(argument, "value", None))

    def _argument_names(self) -> list[str]:
        """Those of the graph; the keys, where all that forward takes is one dictionary."""
        arguments, keywords = self._unflatten(range(len(self._defaults)), self._spec)
        if len(arguments) == 1 and not keywords and isinstance(arguments[0], dict):
            by_leaf = {leaf: str(key) for key, leaf in arguments[0].items() if isinstance(leaf, int)}
            if by_leaf.keys() >= set(self._positions):
                return [by_leaf[position] for position in self._positions]
        return self._names


def load_program(order: LoadModel, device: str) -> Program:
    """Reads DIRECTORY/FILENAME (model.pt, or model.pt2 where there is none). Raises ModelError that names the file."""
    name = order.filename or "model.pt"
    path = os.path.join(order.directory, name)
    if not os.path.isfile(path):
        raise ModelError(f"model file '{name}' is missing in {order.directory}", Code.NOT_FOUND)
    is_script = _is_script(name, path)
    for library in order.spec.op_libraries:
        _load_library(library, order.spec.name)
    try:
        if not is_script:
            with open(path, "rb") as file:  # by name it would want one that ends with .pt2
                return ExportedProgram(torch.export.load(file), device)
        with warnings.catch_warnings():  # since 2.9 torch advises to export; whoever serves a file has no choice
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(path, map_location=device)
        if not hasattr(module, "forward"):
            raise ModelError("it has no method 'forward'")
        return ScriptProgram(module)
    except Exception as error:
        reason = error.message if isinstance(error, ModelError) else str(error)
        raise ModelError(f"model file '{name}' cannot be loaded: {reason}") from error


def _keeps(graph: Any) -> bool:
    """Whether a graph of TorchScript sets attributes of its module, or adds to lists and dictionaries that are some."""
    if graph.findAllNodes("prim::SetAttr", True):
        return True
    added = [node for kind in _ADDING for node in graph.findAllNodes(kind, True)]
    return any(next(node.inputs()).node().kind() == "prim::GetAttr" for node in added)


def _load_library(library: str, model: str) -> None:
    """Makes the custom operators of a library known to torch. Raises ModelError that names it."""
    if not os.path.isfile(library):
        raise ModelError(f"model '{model}': library of custom operators '{library}' is missing", Code.NOT_FOUND)
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise ModelError(f"model '{model}': library of custom operators '{library}' cannot be loaded: {error}") from error


def _is_script(name: str, path: str) -> bool:
    """True for TorchScript, False for an exported program. Raises ModelError (UNSUPPORTED) for anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ModelError(f"model file '{name}' cannot be loaded: it is no archive of torch ({error}); {_ADVICE}") from error
    within = {each.partition("/")[2] for each in names}
    if any(each.startswith("data/aotinductor/") for each in within):
        raise ModelError(
            f"model file '{name}' is an AOTInductor package, compiled for one machine, which is not served; {_ADVICE}",
            Code.UNSUPPORTED,
        )
    # Up to torch 2.6 an exported program is serialized_exported_program.json and so on; since then models/NAME.json and so on.
    if "serialized_exported_program.json" in names or any(each.startswith("models/") for each in within):
        return False
    if "constants.pkl" in within:
        return True
    raise ModelError(
        f"model file '{name}' is a pickled module or state_dict (torch.save), which is nothing without the Python code of its "
        f"classes; {_ADVICE}",
        Code.UNSUPPORTED,
    )


def _moved(program: Any, device: str) -> Any:
    """The program with the devices that its graph names replaced, where this torch can do that."""
    try:
        from torch.export.passes import move_to_device_pass  # since 2.6
    except ImportError:
        return program
    return move_to_device_pass(program, device)


_ADDING = ("aten::append", "aten::insert", "aten::extend", "aten::_set_item", "aten::update")
"""What lists and dictionaries of TorchScript are added to with."""
_ADVICE = "write it with torch.jit.save (torch.jit.trace, torch.jit.script), or with torch.export.save (torch.export.export)"


def _spec(name: str, value: Any) -> TensorSpec:
    datatype = DATATYPES.get(getattr(value, "dtype", None))
    if datatype is None:
        what = "not a tensor" if not hasattr(value, "dtype") else f"a tensor of {value.dtype}, which no datatype holds"
        raise ModelError(f"its tensor '{name}' is {what}", Code.UNSUPPORTED)
    return TensorSpec(name, datatype, [dim if isinstance(dim, int) else -1 for dim in value.shape])


def _unsupported_argument(name: str, what: object) -> ModelError:
    return ModelError(
        f"argument '{name}' of its forward is a {what}; only tensors, or one dictionary of them, can be sent", Code.UNSUPPORTED
    )
