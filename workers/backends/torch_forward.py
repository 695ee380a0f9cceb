# SPDX-License-Identifier: Apache-2.0
"""A program of torch as a configuration sees it: whose tensor is which argument, and what comes back is what was promised.

The same on both kinds of device: tensors of torch go in and come out; of what they are made is none of this file's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from ...ipc.errors import CallerError, Code, ModelError, invalid
from ...ipc.messages import ModelSpec, Signature, TensorSpec
from ..shapes import Shapes
from .forward_names import flattened, input_positions, output_positions
from .torch_models import DATATYPES, DTYPES, Program, torch
from .torch_settings import TorchSettings

_TRACE_HEADING = "Traceback of TorchScript"
_REASON = re.compile(r"^(?:RuntimeError: |builtins\.(?=\w+: )|(?=[\w.]+: ))", re.MULTILINE)
"""Where the reason begins, behind the last trace, whose lines are indented or begin with a path."""


class Forward:
    """One program, called for one model."""

    def __init__(self, program: Program, spec: ModelSpec, settings: TorchSettings) -> None:
        self._program = program
        self._settings = settings
        self._spec = spec
        self.shapes = Shapes(spec)
        for tensor in [*spec.inputs, *spec.outputs]:
            if tensor.datatype not in DTYPES:
                raise ModelError(
                    f"model '{spec.name}': tensor '{tensor.name}' is {tensor.datatype}, which no tensor of torch holds",
                    Code.UNSUPPORTED,
                )
        self._names = [tensor.name for tensor in self.shapes.model_inputs]
        #: the argument of each of these; None: they are keys of the one dictionary that forward takes
        self._arguments: list[int] | None = None
        if program.arguments is not None:
            self._arguments = input_positions(spec.name, self._names, program.arguments)
            self._check_optional()
        self._outputs = [tensor.name for tensor in spec.outputs]
        #: names of what forward returned last, and the position among it of each output
        self._returned: list[str] | None = None
        self._positions: list[int] = []
        #: None until the program has run once; True: it changes its inputs, so that it must never get a client's memory
        self.writes_inputs: bool | None = None

    def __repr__(self) -> str:
        writes = {None: "not run yet", True: "writes to its inputs", False: "leaves its inputs alone"}
        return f"<Forward of '{self._spec.name}', a {self._program.kind}, {writes[self.writes_inputs]}>"

    def output_name(self, output: int) -> str:
        """An output's name in the configuration."""
        return self._outputs[output]

    def output_datatype(self, output: int) -> str:
        """An output's datatype, in which `compute` returns it."""
        return self._spec.outputs[output].datatype

    def check_invariants(self) -> None:
        """Raises AssertionError when an output's position is none of what was returned."""
        assert all(position < len(self._returned or ()) for position in self._positions), repr(self)

    def compute(self, inputs: Sequence[torch.Tensor | None], wanted: Sequence[int], is_lent: bool) -> list[torch.Tensor]:
        """The wanted outputs, in order, detached and of the right datatype. Raises ModelError, and what forward raises.

        `is_lent`: the inputs are memory of clients, of which the program gets copies until it has shown that it leaves its
        inputs alone. They must not have been made in inference mode, where torch does not count changes. One that may keep its
        inputs gets copies always: their memory is used again.
        """
        values = list(inputs)
        if self._program.keeps_inputs or (is_lent and self.writes_inputs is not False):
            values = [None if value is None else value.clone() for value in inputs]
        before = _versions(values)
        with self._settings.guard():
            returned = list(flattened(self._called(values)))
        self.writes_inputs = bool(self.writes_inputs) or _versions(values) != before
        names = [name for name, _ in returned]
        if names != self._returned:
            try:
                self._positions = output_positions(self._spec.name, self._outputs, names)
            except CallerError as error:
                raise ModelError(error.message) from error
            self._returned = names
        return [self._checked(output, returned[self._positions[output]][1]) for output in wanted]

    def _called(self, values: Sequence[torch.Tensor | None]) -> Any:
        """Runs the program. Raises what forward raises; of what TorchScript says, the reason, with all of it as the cause."""
        try:
            return self._program.call(self._passed(values))
        except Exception as error:
            brief = without_trace(str(error))
            if brief == str(error):
                raise
            raise RuntimeError(brief) from error

    def _passed(self, values: Sequence[torch.Tensor | None]) -> Sequence[torch.Tensor | None] | dict[str, torch.Tensor]:
        if self._arguments is None:
            return {name: value for name, value in zip(self._names, values, strict=True) if value is not None}
        assert self._program.arguments is not None, "a dictionary has no positions"
        passed: list[torch.Tensor | None] = [None] * len(self._program.arguments)
        for position, value in zip(self._arguments, values, strict=True):
            passed[position] = value
        return passed

    def _checked(self, output: int, value: Any) -> torch.Tensor:
        expected = self._spec.outputs[output]
        if not isinstance(value, torch.Tensor):
            raise ModelError(
                f"returned output '{expected.name}' as a {type(value).__name__}, not as a tensor", Code.UNSUPPORTED
            )
        if value.layout != torch.strided or DATATYPES.get(value.dtype) != expected.datatype:
            raise ModelError(
                f"returned output '{expected.name}' as {value.layout} tensor of {DATATYPES.get(value.dtype, value.dtype)}, "
                f"its configuration says {expected.datatype}; it must be dense (torch.strided)"
            )
        detached: torch.Tensor = value.detach()
        return detached

    def _check_optional(self) -> None:
        assert self._arguments is not None
        for tensor, position in zip(self.shapes.model_inputs, self._arguments, strict=True):
            argument = (self._program.arguments or [])[position]
            if tensor.optional and not argument.is_optional:
                raise invalid(
                    f"model '{self._spec.name}': input '{tensor.name}' is optional, but argument '{argument.name}' of forward "
                    "is not: write Optional[Tensor] = None there, or remove optional"
                )


def signature_of(program: Program, spec: ModelSpec) -> Signature | None:
    """The program's own signature, with the configured names where they are; None where its file does not tell.

    Raises INVALID_ARG when then the configuration does not either.
    """
    found = program.tensors()
    if found is None:
        if not (spec.inputs and spec.outputs):
            takes = "" if program.arguments is None else f"; forward takes {', '.join(each.name for each in program.arguments)}"
            raise invalid(
                f"model '{spec.name}': must specify inputs and outputs: a {program.kind} keeps neither datatypes nor "
                f"shapes{takes}"
            )
        return None
    inputs, outputs = found
    if program.arguments is not None and spec.inputs:
        names = [tensor.name for tensor in Shapes(spec).model_inputs]
        inputs = _renamed(inputs, names, input_positions(spec.name, names, program.arguments))
    if spec.outputs:
        names = [tensor.name for tensor in spec.outputs]
        outputs = _renamed(outputs, names, output_positions(spec.name, names, [tensor.name for tensor in outputs]))
    outputs = [replace(tensor, name=tensor.name or f"OUTPUT__{at}") for at, tensor in enumerate(outputs)]
    return Signature(inputs, outputs)


def without_trace(said: str) -> str:
    """An error's text without TorchScript's traces, which show the model's code, and paths of whoever wrote it."""
    _, heading, trace = said.rpartition(_TRACE_HEADING)
    found = _REASON.search(trace) if heading else None
    return trace[found.end() :].strip() if found else said


def _versions(values: Sequence[torch.Tensor | None]) -> list[int]:
    """How often each was changed in place, itself or through a view."""
    return [-1 if value is None else value._version for value in values]  # noqa: SLF001 - the counter has no other name


def _renamed(tensors: list[TensorSpec], names: Sequence[str], positions: Sequence[int]) -> list[TensorSpec]:
    by_position = dict(zip(positions, names, strict=True))
    return [replace(tensor, name=by_position.get(at, tensor.name)) for at, tensor in enumerate(tensors)]
