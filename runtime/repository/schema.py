# SPDX-License-Identifier: Apache-2.0
"""Triton's ModelConfig schema and its text format: the only importer of protobuf and of tritonclient's compiled schema.

The schema is tritonclient's `grpc/model_config_pb2.py`, loaded by its path: importing `tritonclient.grpc` would need grpc,
which the base installation does not have. Everything that knows protobuf's reflection is here; the other modules of this folder
read and write message attributes only.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

from google.protobuf import json_format, text_format

from ...ipc.errors import invalid

Proto: TypeAlias = Any
"""A protobuf message. Untyped: the schema is loaded at run time, so that new keys of a newer tritonclient are seen too."""


def _load_compiled_schema() -> ModuleType:
    package = importlib.util.find_spec("tritonclient")
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder) / "grpc" / "model_config_pb2.py"
        spec = importlib.util.spec_from_file_location("penstock_model_config_pb2", path) if path.exists() else None
        if spec and spec.loader:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise ImportError("tritonclient, whose grpc/model_config_pb2.py is Triton's configuration schema, is not installed")


model_config_pb2: Any = _load_compiled_schema()

DATATYPES: dict[int, str] = {
    number: "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_")
    for name, number in model_config_pb2.DataType.items()
    if number
}
"""Number in the schema -> KServe datatype."""
DATATYPE_NUMBERS = {datatype: number for number, datatype in DATATYPES.items()}


class TextError(Exception):
    """The text is not a ModelConfig. `reason` is protobuf's sentence without its position; lines and columns count from 1."""

    def __init__(self, line: int, column: int, reason: str) -> None:
        super().__init__(f"{line}:{column}: {reason}")
        self.line = line
        self.column = column
        self.reason = reason


class SetField(NamedTuple):
    """A field of a message that holds something. `values` has one entry, or those of a repeated field or of a map."""

    name: str
    values: list[Any]
    is_message: bool
    is_indexed: bool  # repeated, and not a map
    unknown: list[int]  # numbers that the field's enum does not name


class SchemaField(NamedTuple):
    """A key of the schema by its dotted path, e.g. `dynamic_batching.preferred_batch_size`."""

    path: str
    message: str  # the full name of the message it holds, in a map that of its values; "" for a plain value


def empty_config() -> Proto:
    """A ModelConfig without anything."""
    return model_config_pb2.ModelConfig()


def copy_of(message: Proto) -> Proto:
    """An independent copy."""
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def parse_text(text: str) -> Proto:
    """The ModelConfig written in protobuf's text format. Raises TextError."""
    try:
        return text_format.Parse(text, empty_config())
    except text_format.ParseError as error:
        line, column = error.GetLine() or 1, error.GetColumn() or 1
        lines = text.split("\n")
        reason = str(error).removeprefix(f"{line}:{column} : ")
        for quoted in ("", lines[line - 1] if line <= len(lines) else ""):
            reason = reason.removeprefix(f"'{quoted}': ")
        raise TextError(line, column, reason) from None


def parse_json(text: str) -> tuple[Proto, set[str]]:
    """The ModelConfig written in protobuf's JSON, and the keys of its outermost object. Raises CallerError."""
    try:
        document = json.loads(text)
        if not isinstance(document, dict):
            raise invalid(f"a configuration is a JSON object, got {type(document).__name__}")
        return json_format.ParseDict(document, empty_config()), set(document)
    except (ValueError, json_format.ParseError, RecursionError) as error:
        raise invalid(str(error).partition("\n")[0]) from None


def as_text(document: str) -> str:
    """The text of a config.pbtxt that says what this JSON says, without the defaults."""
    return str(text_format.MessageToString(parse_json(document)[0]))


def kind_name(group: Proto) -> str:
    """An instance group's kind: KIND_AUTO, KIND_CPU, ..."""
    return str(model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind))


def datatype_name(number: int) -> str:
    """A datatype as configurations spell it: TYPE_FP32, ..."""
    return str(model_config_pb2.DataType.Name(number))


def batch_input_kind(batch_input: Proto) -> str:
    """BATCH_ELEMENT_COUNT, ..."""
    return str(model_config_pb2.BatchInput.Kind.Name(batch_input.kind))


def batch_output_kind(batch_output: Proto) -> str:
    """BATCH_SCATTER_WITH_INPUT_SHAPE."""
    return str(model_config_pb2.BatchOutput.Kind.Name(batch_output.kind))


def stream_priority(optimization: Proto) -> Any:
    """The priority of GPU streams: default, max or min."""
    name = model_config_pb2.ModelOptimizationPolicy.ModelPriority.Name(optimization.priority)
    return name.removeprefix("PRIORITY_").lower()


def is_global(resource: Proto) -> bool:
    """Whether a resource of the rate limiter is one for all devices; the key is a keyword of Python."""
    return bool(getattr(resource, "global"))


def set_fields(message: Proto) -> Iterator[SetField]:
    """The fields of a message that hold something, by number. Without presence, a default value counts as nothing."""
    for field, value in message.ListFields():
        values, indexed = [value], False
        if _is_map(field):
            values = list(value.values()) if field.message_type.fields_by_name["value"].message_type else []
        elif _is_repeated(field):
            values, indexed = list(value), True
        names = field.enum_type.values_by_number if field.enum_type else {}
        unknown = [number for number in values if number not in names] if field.enum_type else []
        yield SetField(field.name, values, field.message_type is not None, indexed, unknown)


def schema_fields() -> Iterator[SchemaField]:
    """Every key of the schema, outer before inner. The two keys of a map's entry are left out: `parameters.string_value`."""
    return _schema_fields(model_config_pb2.ModelConfig.DESCRIPTOR, "", frozenset())


def _schema_fields(descriptor: Any, prefix: str, outer: frozenset[str]) -> Iterator[SchemaField]:
    for field in descriptor.fields:
        inner = field.message_type
        if _is_map(field):
            inner = inner.fields_by_name["value"].message_type
        yield SchemaField(prefix + field.name, inner.full_name if inner else "")
        if inner is not None and inner.full_name not in outer:
            yield from _schema_fields(inner, f"{prefix}{field.name}.", outer | {inner.full_name})


def keys_of(message_type: str) -> list[str]:
    """The keys of a message by its full name, as protobuf's errors give it; none for an unknown one."""
    return [field.name for field in _find(model_config_pb2.DESCRIPTOR.pool.FindMessageTypeByName, message_type, "fields")]


def values_of(enum_type: str) -> list[str]:
    """The values of an enum by its full name; none for an unknown one."""
    return [value.name for value in _find(model_config_pb2.DESCRIPTOR.pool.FindEnumTypeByName, enum_type, "values")]


def _find(find: Any, full_name: str, attribute: str) -> Iterable[Any]:
    try:
        found: Iterable[Any] = getattr(find(full_name), attribute)
    except KeyError:
        return ()
    return found


def as_json(message: Proto) -> dict[str, Any]:
    """Triton's JSON of a configuration: the schema's own names, all defaults printed, 64-bit integers as numbers.

    (protobuf's json_format writes 64-bit integers as text; Triton turns them back, core/src/model_config_utils.cc.)
    """
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if _is_map(field):
            entry = field.message_type.fields_by_name["value"]
            document[field.name] = {str(key): _json_value(entry, value[key]) for key in sorted(value)}
        elif _is_repeated(field):
            document[field.name] = [_json_value(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            document[field.name] = _json_value(field, value)
    return document


def _json_value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_json(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return value if named is None else named.name
    return value


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _is_repeated(field: Any) -> bool:
    """`is_repeated` came with protobuf 6.31, where `label` became deprecated."""
    known = getattr(field, "is_repeated", None)
    return bool(field.label == field.LABEL_REPEATED if known is None else known)
