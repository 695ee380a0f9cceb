# SPDX-License-Identifier: Apache-2.0
"""Checking where a request's tensors lie, once per distinct placement.

A client that reuses a slot sends the same `inputs` and `outputs` bytes again and again. What was checked for those bytes stays
true as long as the model version and the regions it names live, so the result, a Binding, is kept with the session
and everything later stages need is in it, encoded: the Placement for the worker and the outputs of the reply.

Rules and texts are those of Triton's core where it has them (its infer_request.cc and shared_memory_manager.cc).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import msgspec

from ..ipc.codec import encode
from ..ipc.errors import CallerError, Code, invalid
from ..ipc.messages import (
    FEW,
    InputSlice,
    InputTensor,
    OutputPlace,
    OutputSlice,
    OutputTensor,
    Placement,
    TensorSpec,
)
from ..ipc.tensors import ITEM_BYTES, byte_size
from .cache_plans import CachePlan, cache_plan
from .models import ServedModel
from .output_room import in_room
from .region_checks import Span, check_gpus, check_overlaps, find_region
from .regions import Names, Region
from .scheduling.requests import NO_GPU

_inputs_decoder = msgspec.msgpack.Decoder(list[InputTensor])
_places_decoder = msgspec.msgpack.Decoder(list[OutputPlace])

CLASSIFIED = ITEM_BYTES.keys() - {"BOOL", "FP16", "BF16"}
"""Datatypes that Triton's classification extension takes (server/src/classification.cc)."""

Inline = Callable[[Sequence[int]], tuple[Region, list[int]]]
"""Stores the message's parts (their sizes are given) in one fresh region; returns it and where each part begins."""


class Binding:
    """A checked placement of one request of one model version."""

    __slots__ = ("bound_to", "gpu", "item", "model", "places", "plan", "regions", "reply", "rows", "shape_key", "single_use")

    def __init__(
        self, model: ServedModel, rows: int, shape_key: Hashable, regions: tuple[Region, ...], item: msgspec.Raw,
        reply: msgspec.Raw | None, places: list[OutputPlace], single_use: bool,
    ) -> None:  # fmt: skip
        self.model = model
        self.rows = rows
        self.shape_key = shape_key
        self.regions = regions  # each once
        self.item = item  # the encoded Placement
        self.reply = reply  # the encoded outputs, where they are known before execution
        self.places = places  # of the outputs, in the order in which they were asked for
        self.single_use = single_use  # inline tensors: the region is this request's own
        #: uuid of the GPU that its CUDA regions lie on; "": it has none, and may be executed anywhere
        self.gpu = next((region.gpu for region in regions if region.gpu), "")
        #: ordinal of that GPU, where only some of the model's instances are on it
        self.bound_to = model.ordinals.get(self.gpu, NO_GPU)
        self.plan: CachePlan | None = None  # of a model that uses the response cache

    def __repr__(self) -> str:
        return f"<Binding {self.model.label} rows {self.rows} regions {[region.name for region in self.regions]}>"


def bind(model: ServedModel, names: Names, inputs: bytes, outputs: bytes, parts: Sequence[int], inline: Inline) -> Binding:
    """Checks one request against its model and its session's regions.

    `parts` are the byte sizes of the message parts it brought, `inline` stores them. Raises CallerError naming model,
    tensor, what was expected and what came. Nothing is stored unless everything else is in order.
    """
    tensors = _decode(_inputs_decoder, inputs, "inputs", model)
    asked = _decode(_places_decoder, outputs, "outputs", model)
    by_name = _by_name([tensor.name for tensor in tensors], "input", model)
    _check_input_names(model, by_name)
    ordered = [tensors[by_name[spec.name]] if spec.name in by_name else None for spec in model.spec.inputs]
    rows = _check_shapes(model, ordered)
    if sum(not tensor.region for tensor in tensors) != len(parts):
        wanted = [tensor.name for tensor in tensors if not tensor.region]
        raise invalid(
            f"model '{model.name}': {len(wanted)} inputs have no region ({', '.join(wanted) or 'none'}), "
            f"but {len(parts)} inline parts came"
        )
    regions = _input_regions(model, names, ordered)
    places = in_room(model, asked, rows, ordered)
    spans, slots = _place_outputs(model, names, places, rows, ordered)
    _check_sizes(model, tensors, parts)
    read = [Span(t.name, r, t.offset, t.byte_size) for t, r in zip(ordered, regions, strict=True) if t and r]
    check_overlaps(model, read, spans)
    check_gpus(model, [*filter(None, regions), *slots.regions])
    slices = _slices(ordered, regions, _store_inline(tensors, parts, inline))
    used = {region.number: region for region, _ in slices if region} | {region.number: region for region in slots.regions}
    item = Placement(rows, [piece for _, piece in slices], slots.slices)
    reply = _predict(model, places, slots.slices, rows, ordered)
    binding = Binding(
        model, rows, _shape_key(model, ordered), tuple(used.values()), msgspec.Raw(encode(item)), reply, places, bool(parts)
    )
    if model.uses_cache and not binding.gpu:  # the broker cannot read what lies on a GPU
        given = [
            (tensor, (region, piece)) for tensor, (region, piece) in zip(ordered, slices, strict=True) if tensor and region
        ]
        binding.plan = cache_plan(model, [tensor for tensor, _ in given], [place for _, place in given], slots.slices, used)
    return binding


class _OutputSlots:
    """Where a request's outputs go, for the worker."""

    __slots__ = ("regions", "slices")

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.slices: list[OutputSlice] = []


def _decode(decoder: msgspec.msgpack.Decoder[list], encoded: bytes, what: str, model: ServedModel) -> list:  # type: ignore[type-arg]
    try:
        values = decoder.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"model '{model.name}': malformed {what}: {error}") from None
    if len(values) > FEW:
        raise invalid(f"model '{model.name}': at most {FEW} {what} per request, got {len(values)}")
    return values


def _by_name(names: list[str], kind: str, model: ServedModel) -> dict[str, int]:
    by_name = {name: position for position, name in enumerate(names)}
    if len(by_name) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid(f"{kind} '{twice}' already exists in request for model '{model.name}'")
    return by_name


def _check_input_names(model: ServedModel, given: dict[str, int]) -> None:
    expected = [spec.name for spec in model.spec.inputs]
    for name in given:
        if name not in expected:
            raise invalid(f"unexpected inference input '{name}' for model '{model.name}'; its inputs are {_listed(expected)}")
    missing = [spec.name for spec in model.spec.inputs if spec.name not in given and not spec.optional]
    if missing:
        required = sum(not spec.optional for spec in model.spec.inputs)
        few = "" if required == len(expected) else f"number of inputs between {required} and "
        count = f"{few}{len(expected)}{'' if few else ' inputs'}"
        raise invalid(
            f"expected {count} but got {len(given)} inputs for model '{model.name}'. Got input(s) "
            f"[{_listed(given)}], but missing required input(s) [{_listed(missing)}]. Please provide all required input(s)."
        )


def _listed(names: Sequence[str] | dict[str, int]) -> str:
    return ",".join(f"'{name}'" for name in names)


def _check_shapes(model: ServedModel, ordered: list[InputTensor | None]) -> int:
    """Datatypes and shapes of all inputs; returns the rows (1 for a model without batch dimension)."""
    rows = -1  # no input seen yet
    for spec, tensor in zip(model.spec.inputs, ordered, strict=True):
        if tensor is None:
            continue
        if tensor.datatype != spec.datatype:
            raise invalid(
                f"inference input '{spec.name}' data-type is '{tensor.datatype}', but model '{model.name}' "
                f"expects '{spec.datatype}'"
            )
        shape = tensor.shape
        if model.batches:
            if not shape:
                raise invalid(f"input '{spec.name}' has no shape but model requires batch dimension for '{model.name}'")
            if rows not in (-1, shape[0]):
                raise invalid(
                    f"input '{spec.name}' batch size does not match other inputs for '{model.name}': {shape[0]} and {rows}"
                )
            rows = shape[0]
            shape = shape[1:]
        if not _fits(spec.dims, shape):
            raise invalid(_shape_text(model, spec, tensor.shape))
    if model.batches and rows == -1:
        raise invalid(f"model '{model.name}' has a batch dimension: without any input a request has no rows")
    if model.batches and not 1 <= rows <= model.spec.max_batch_size:
        raise invalid(
            f"inference request batch-size must be <= {model.spec.max_batch_size} and >= 1 for '{model.name}', got {rows}"
        )
    return max(rows, 1)


def _fits(dims: list[int], shape: list[int]) -> bool:
    return len(dims) == len(shape) and all(dim in (-1, size) for dim, size in zip(dims, shape, strict=True))


def _shape_text(model: ServedModel, spec: TensorSpec, shape: list[int]) -> str:
    expected, got = (",".join(map(str, dims)) for dims in (([-1] if model.batches else []) + spec.dims, shape))
    text = f"unexpected shape for input '{spec.name}' for model '{model.name}'. Expected [{expected}], got [{got}]."
    if model.batches:
        text += (
            " NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each"
            " input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting"
            " max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
        )
    return text


def _check_sizes(model: ServedModel, tensors: list[InputTensor], parts: Sequence[int]) -> None:
    inline = iter(parts)
    for tensor in tensors:
        given = tensor.byte_size if tensor.region else next(inline)
        expected = byte_size(tensor.datatype, tensor.shape)
        if expected is not None and given != expected:
            raise invalid(
                f"input byte size mismatch for input '{tensor.name}' for model '{model.name}'. Expected {expected}, got {given}"
            )


def _input_regions(model: ServedModel, names: Names, ordered: list[InputTensor | None]) -> list[Region | None]:
    found: list[Region | None] = []
    for tensor in ordered:
        if tensor is None or not tensor.region:
            found.append(None)
            continue
        found.append(find_region(names, tensor, f"input '{tensor.name}' of model '{model.name}'", tensor.datatype))
    return found


def _place_outputs(
    model: ServedModel, names: Names, places: list[OutputPlace], rows: int, inputs: list[InputTensor | None]
) -> tuple[list[Span], _OutputSlots]:
    _by_name([place.name for place in places], "output", model)
    spans: list[Span] = []
    slots = _OutputSlots()
    for place in places:
        position = model.output_position.get(place.name)
        if position is None:
            raise invalid(
                f"unexpected inference output '{place.name}' for model '{model.name}'; "
                f"its outputs are {_listed(model.output_position)}"
            )
        if place.classification:
            _check_classification(model, position, place)
        if not place.region:
            slots.slices.append(OutputSlice(position, -1, 0, 0, place.classification))
            continue
        asker = f"output '{place.name}' of model '{model.name}'"
        region = find_region(names, place, asker, model.spec.outputs[position].datatype)
        needed = model.output_bytes(position, rows, inputs)
        if needed is not None and place.byte_size < needed:
            who, code = (f"output '{place.name}'", Code.INTERNAL) if place.shared else (asker, Code.INVALID_ARG)
            raise CallerError(
                f"shared memory size specified with the request for {who} ({place.byte_size} bytes) should be at least "
                f"{needed} bytes to hold the results", code,
            )  # fmt: skip
        slots.slices.append(OutputSlice(position, region.number, place.offset, place.byte_size))
        slots.regions.append(region)
        spans.append(Span(place.name, region, place.offset, place.byte_size))
    return spans, slots


def _check_classification(model: ServedModel, position: int, place: OutputPlace) -> None:
    datatype = model.spec.outputs[position].datatype
    asker = f"output '{place.name}' of model '{model.name}'"
    if place.region:
        raise invalid(f"{asker}: Output can't set both 'shared_memory_region' and 'classification'")
    if datatype not in CLASSIFIED:
        raise invalid(f"{asker}: class result not available for output due to unsupported type '{datatype}'")


def _store_inline(tensors: list[InputTensor], parts: Sequence[int], inline: Inline) -> dict[str, tuple[Region, int, int]]:
    """Name of each inline input -> its region, offset and size."""
    if not parts:
        return {}
    region, offsets = inline(parts)
    brought = [tensor.name for tensor in tensors if not tensor.region]
    return {name: (region, offset, size) for name, offset, size in zip(brought, offsets, parts, strict=True)}


_LEFT_OUT = InputSlice(-1, 0, 0, [])


def _slices(
    ordered: list[InputTensor | None], regions: list[Region | None], stored: dict[str, tuple[Region, int, int]]
) -> list[tuple[Region | None, InputSlice]]:
    slices: list[tuple[Region | None, InputSlice]] = []
    for tensor, named in zip(ordered, regions, strict=True):
        if tensor is None:
            slices.append((None, _LEFT_OUT))
            continue
        region, offset, size = stored[tensor.name] if named is None else (named, tensor.offset, tensor.byte_size)
        slices.append((region, InputSlice(region.number, offset, size, tensor.shape)))
    return slices


def _shape_key(model: ServedModel, ordered: list[InputTensor | None]) -> Hashable:
    """None for a model whose shapes are fixed; else what must be equal within a batch, for each input.

    That is its shape (None where it was left out); ragged ones need only be there, whatever their shape.
    """
    if model.fixed_shapes:
        return None
    lead = 1 if model.batches else 0
    return tuple(
        None if tensor is None else () if spec.ragged else tuple(tensor.shape[lead:])
        for spec, tensor in zip(model.spec.inputs, ordered, strict=True)
    )


def _predict(
    model: ServedModel, places: list[OutputPlace], slices: list[OutputSlice], rows: int, inputs: list[InputTensor | None]
) -> msgspec.Raw | None:
    """The reply's outputs, when all of them are placed and of known size; this mirrors BatchDone.items."""
    outputs: list[OutputTensor] = []
    for place, piece in zip(places, slices, strict=True):
        size = model.output_bytes(piece.output, rows, inputs)
        if size is None or piece.region < 0:
            return None
        spec = model.spec.outputs[piece.output]
        shape = model.output_shape(piece.output, rows, inputs)
        outputs.append(OutputTensor(spec.name, spec.datatype, shape, place.region, place.offset, size))
    return msgspec.Raw(encode(outputs))
