# SPDX-License-Identifier: Apache-2.0
"""The backend for measuring: every row of output k is the first elements of the same row of input k.

It does as little as can be done with a request, a copy from its input to its output, so that what is measured is Penstock.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ipc.errors import CallerError, Code, invalid
from ...ipc.messages import LoadModel, ModelSpec, Signature, TensorSpec
from ...ipc.tensors import elements
from .base import Backend, Tensor, Work


class Identity(Backend):
    """Copies request by request, straight from the input's memory to the output's."""

    is_scattered = True
    needs_snapshots = False

    def __init__(self) -> None:
        self._echo: Echo | None = None

    def __repr__(self) -> str:
        return f"<Identity {self._echo!r}>"

    def load(self, order: LoadModel) -> Signature | None:  # noqa: ARG002 - nothing of it matters
        """Nothing to load; any configuration that passes `Echo.check` suits it."""
        return None

    def warm_up(self, spec: ModelSpec, samples_follow: bool = False) -> None:  # noqa: ARG002 - nothing is executed anyway
        """Raises CallerError where an output cannot come from its input."""
        self._echo = Echo(spec)

    def execute(self, work: Work) -> Sequence[Tensor | None]:
        """One copy per output. The pairs (place, source) are views, made once for work that comes again."""
        pairs = work.prepared
        if pairs is None:
            assert self._echo is not None, "execute before warm_up"
            sources = [self._echo.source(work, output) for output in work.wanted]
            if any(place is None for place in work.places):
                return sources
            pairs = work.prepared = list(zip(work.places, sources, strict=True))
        for place, source in pairs:
            place[...] = source
        return work.places

    def close(self) -> None:
        """Nothing to give back."""
        self._echo = None


class Echo:
    """The rule of which elements of input k make output k."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._batched = spec.max_batch_size > 0
        #: per output: its dims, None where they are the input's own
        self._dims: list[tuple[int, ...] | None] = []
        if not spec.outputs or len(spec.outputs) > len(spec.inputs):
            raise self._refused(f"it has {len(spec.outputs)} outputs, at least 1 and at most one per input are possible")
        for source, output in zip(spec.inputs, spec.outputs, strict=False):
            if source.datatype != output.datatype:
                raise self._refused(
                    f"output '{output.name}' is {output.datatype}, input '{source.name}' that it copies is {source.datatype}"
                )
            if -1 not in source.dims and -1 not in output.dims and elements(output.dims) > elements(source.dims):
                raise self._refused(
                    f"a row of output '{output.name}' has {elements(output.dims)} elements, "
                    f"one of input '{source.name}' that it copies only {elements(source.dims)}"
                )
            self._check_shapes(source, output)
            dims = output.dims if output.reshape is None else output.reshape
            self._dims.append(None if -1 in dims or output.shaped_as else tuple(dims))

    def __repr__(self) -> str:
        return f"<Echo of {len(self._dims)} outputs>"

    def _check_shapes(self, source: TensorSpec, output: TensorSpec) -> None:
        """What is copied must be there in each request, and be divided among requests as it came from them."""
        if source.optional:
            raise self._refused(f"output '{output.name}' copies input '{source.name}', so that this cannot be optional")
        if (source.ragged or output.shaped_as) and output.shaped_as != source.name:
            raise self._refused(
                f"output '{output.name}' copies input '{source.name}' and must be split like it: "
                f'batch_output {{ target_name: "{output.name}" source_input: "{source.name}" }}'
            )

    def source(self, work: Work, output: int) -> Tensor:
        """What output `output` must become: a view on the input, whose trailing axis it cuts."""
        tensor = work.inputs[output]
        assert tensor is not None, "not optional"
        shape, rows, count = self.cut(output, tensor.shape)
        return tensor.reshape(rows, tensor.size // max(rows, 1))[:, :count].reshape(shape)

    def cut(self, output: int, source: Sequence[int]) -> tuple[tuple[int, ...], int, int]:
        """Of an input of shape `source`: the output's shape, its rows, and the elements that it takes of each row."""
        dims = self._dims[output]
        size = elements(source)
        if dims is None:
            return (size,) if self._spec.outputs[output].shaped_as else tuple(source), 1, size
        rows = source[0] if self._batched else 1
        count, width = elements(dims), size // max(rows, 1)
        if width < count:
            raise invalid(
                f"a row of input '{self._spec.inputs[output].name}' of model '{self._spec.name}' has {width} elements, "
                f"output '{self._spec.outputs[output].name}' takes {count}"
            )
        return (rows, *dims) if self._batched else dims, rows, count

    def _refused(self, why: str) -> CallerError:
        return CallerError(f"model '{self._spec.name}' cannot be served by this backend: {why}", Code.INVALID_ARG)
