# SPDX-License-Identifier: Apache-2.0
"""What a client knows of a model: its tensors, and the shapes that a slot or a request for it has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any, Literal, NamedTuple, get_args

import numpy.typing as npt

from ..ipc.errors import CallerError, invalid
from ..ipc.tensors import byte_size, numpy_dtype

Array = npt.NDArray[Any]


class TensorInfo(NamedTuple):
    """A tensor of a model. `dims` leaves the batch dimension out; -1 is a variable dimension."""

    name: str
    datatype: str  # KServe: FP32, INT64, BYTES, ...
    dims: tuple[int, ...]
    optional: bool = False  # an input that may be left out


class ModelInfo(NamedTuple):
    """A model as the broker serves it. Requests for it ask for `asked_version`: -1, the newest, unless one was named."""

    name: str
    asked_version: int
    version: int
    versions: tuple[int, ...]
    platform: str
    max_batch_size: int  # 0: the model has no batch dimension
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @classmethod
    def from_metadata(cls, document: Mapping[str, Any], asked_version: int) -> ModelInfo:
        """From the broker's `metadata` document: KServe's model metadata and max_batch_size."""
        batches = document["max_batch_size"] > 0

        def tensors(rows: Sequence[Mapping[str, Any]]) -> tuple[TensorInfo, ...]:
            lead = 1 if batches else 0
            return tuple(
                TensorInfo(row["name"], row["datatype"], tuple(row["shape"][lead:]), row.get("optional", False)) for row in rows
            )

        return cls(
            document["name"], asked_version, int(document["version"]), tuple(map(int, document["versions"])),
            document["platform"], document["max_batch_size"], tensors(document["inputs"]), tensors(document["outputs"]),
        )  # fmt: skip


class Classification(NamedTuple):
    """Wanted of an output: not its values but the best `classes` of each row, as BYTES `value:index[:label]`, best first."""

    classes: int


class TensorLayout(NamedTuple):
    """A tensor of one request. `byte_size` is -1 for an output that has no place before it is computed.

    `classes` of an output: so many are wanted instead of it; 0: itself.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    byte_size: int
    classes: int = 0


class Layout(NamedTuple):
    """The shapes of one request: what a slot is cut for. Requests of equal layout use the same slots."""

    model: str
    version: int
    inputs: tuple[TensorLayout, ...]
    outputs: tuple[TensorLayout, ...]
    device: int | None = None  # in the memory of this GPU, in the client's numbering; None: shared memory


Shapes = Mapping[str, Sequence[int]]
OutputNames = Sequence[str] | Mapping[str, object] | None
"""Which outputs are wanted, all by default; in a mapping, those with a Classification in that form."""


def layout_of_batch(
    model: ModelInfo, batch: int | None, shapes: Shapes, wanted: OutputNames, left_out: Sequence[str] = ()
) -> Layout:
    """The layout for `batch` rows. `shapes` (without the batch dimension) names every variable dimension of an input.

    `left_out` are optional inputs that requests will not bring. Raises CallerError for what has no fixed size and for names
    that the model does not have.
    """
    (count,) = _whole(model, "batch", (1 if batch is None else batch,))
    if model.max_batch_size and not 1 <= count <= model.max_batch_size:
        raise invalid(f"model '{model.name}': batch must be 1 to {model.max_batch_size}, got {batch}")
    if not model.max_batch_size and batch is not None:
        raise invalid(f"model '{model.name}' has no batch dimension (max_batch_size 0), got batch={batch}")
    rows: tuple[int, ...] = (count,) if model.max_batch_size else ()
    for name in shapes:
        _find(model, model.inputs + model.outputs, "tensor", name)
    for name in left_out:
        if not _find(model, model.inputs, "input", name).optional:
            raise invalid(f"model '{model.name}': input '{name}' is not optional, it cannot be left out")
    inputs = []
    for spec in model.inputs:
        if spec.name in left_out:
            continue
        shape = rows + _dims(model, spec, shapes)
        size = byte_size(spec.datatype, shape)
        if size is None:
            hint = (
                "BYTES elements have no fixed size; pass the array to infer()"
                if spec.datatype == "BYTES"
                else f"dims are {list(spec.dims)}; give shapes={{'{spec.name}': ...}}"
            )
            raise invalid(f"model '{model.name}': a slot cannot be cut for input '{spec.name}': {hint}")
        inputs.append(TensorLayout(spec.name, spec.datatype, shape, size))
    return Layout(model.name, model.asked_version, tuple(inputs), _outputs(model, rows, shapes, wanted))


Memory = Literal["shared", "cuda"]
"""What a slot is cut from: memory of the CPU that processes share, or a CUDA region."""


def in_memory(layout: Layout, memory: Memory, device: int) -> Layout:
    """The layout in that memory. Raises CallerError for a memory that there is not."""
    if memory not in get_args(Memory):
        raise invalid(f"model '{layout.model}': memory is one of {', '.join(get_args(Memory))}, got {memory!r}")
    return layout._replace(device=device) if memory == "cuda" else layout


def layout_of_arrays(model: ModelInfo, arrays: Mapping[str, Any], given: Shapes, wanted: OutputNames) -> Layout:
    """The layout for these inputs, as `convert` made them; `given` are the shapes of all of them, batch dimension included."""
    inputs = []
    for spec in model.inputs:
        if spec.name not in arrays:  # an optional one
            continue
        content = arrays[spec.name]
        size = len(content) if isinstance(content, bytes) else content.size * numpy_dtype(spec.datatype).itemsize
        inputs.append(TensorLayout(spec.name, spec.datatype, tuple(given[spec.name]), size))
    rows = inputs[0].shape[:1] if model.max_batch_size and inputs else ()
    return Layout(model.name, model.asked_version, tuple(inputs), _outputs(model, rows, {}, wanted))


def check_inputs(model: ModelInfo, inputs: Mapping[str, object]) -> None:
    """Every input of the model but optional ones, and no other. Raises CallerError naming both sides."""
    expected = [spec.name for spec in model.inputs]
    missing = [spec.name for spec in model.inputs if spec.name not in inputs and not spec.optional]
    extra = [name for name in inputs if name not in expected]
    if missing or extra:
        raise invalid(
            f"model '{model.name}': its inputs are {expected}, given are {list(inputs)} (missing {missing}, unknown {extra})"
        )


def _outputs(model: ModelInfo, rows: tuple[int, ...], shapes: Shapes, wanted: OutputNames) -> tuple[TensorLayout, ...]:
    specs = model.outputs if wanted is None else [_find(model, model.outputs, "output", name) for name in wanted]
    outputs = []
    for spec in specs:
        shape = rows + (_whole(model, f"output '{spec.name}'", shapes[spec.name]) if spec.name in shapes else spec.dims)
        form = wanted[spec.name] if isinstance(wanted, Mapping) else None
        if isinstance(form, Classification):
            outputs.append(TensorLayout(spec.name, "BYTES", (), -1, check_classes(model.name, spec.name, form)))
            continue
        if form is not None:
            raise invalid(
                f"model '{model.name}': output '{spec.name}' cannot be placed by a {type(form).__name__}: "
                "only where all inputs lie in regions as well can region.tensor(...) say where an output goes"
            )
        size = byte_size(spec.datatype, shape)
        outputs.append(TensorLayout(spec.name, spec.datatype, shape, -1 if size is None else size))
    return tuple(outputs)


def check_classes(model: str, output: str, wanted: Classification) -> int:
    """How many classes. Raises CallerError for less than one."""
    if not (isinstance(wanted.classes, int) and 1 <= wanted.classes < 2**31):
        raise invalid(f"model '{model}': output '{output}': at least 1 class must be asked for, got {wanted.classes!r}")
    return wanted.classes


def _whole(model: ModelInfo, what: str, sizes: Iterable[object]) -> tuple[int, ...]:
    """The sizes as plain integers: any other number would spoil the pool that slots are cut from."""
    try:
        return tuple(map(index, sizes))  # type: ignore[arg-type]  # which is what it finds out
    except TypeError:
        raise invalid(f"model '{model.name}': {what} must be given whole numbers, got {sizes!r}") from None


def _dims(model: ModelInfo, spec: TensorInfo, shapes: Shapes) -> tuple[int, ...]:
    dims = _whole(model, f"input '{spec.name}'", shapes.get(spec.name, spec.dims))
    if len(dims) != len(spec.dims) or any(wanted not in (-1, dim) for wanted, dim in zip(spec.dims, dims, strict=True)):
        raise invalid(f"model '{model.name}': input '{spec.name}' has dims {list(spec.dims)}, given is shape {list(dims)}")
    return dims


def _find(model: ModelInfo, specs: Sequence[TensorInfo], kind: str, name: str) -> TensorInfo:
    for spec in specs:
        if spec.name == name:
            return spec
    known: list[str] = [spec.name for spec in specs]
    raise CallerError(f"model '{model.name}' has no {kind} '{name}'; it has {known}")
