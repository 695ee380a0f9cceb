# SPDX-License-Identifier: Apache-2.0
"""The generated sections, each made from the one place where its facts are written down."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from enum import Enum
from types import ModuleType
from typing import Any

import click
import msgspec
from msgspec import inspect as shapes

from penstock.clients.cli import COMMANDS, main
from penstock.clients.cli.settings_file import keys_of, wanted
from penstock.clients.cli.tritonserver.flags import GROUPS, Becomes, Kind
from penstock.ipc import messages as protocol
from penstock.ipc.codec import encode
from penstock.ipc.messages import from_client, from_worker, to_client, to_worker
from penstock.runtime import gateways, instances, loading, models
from penstock.runtime.repository import agent_runs, origins
from penstock.runtime.repository.fields import supported_fields
from penstock.runtime.scheduling import requests
from penstock.workers import loop

SENDERS = {
    "from a client": ("client", "broker"),
    "from the broker, to a client": ("broker", "client"),
    "from the broker, to a worker": ("broker", "worker"),
    "from a worker": ("worker", "broker"),
}
RAW_FIELDS = {
    "Infer.inputs": "array of InputTensor",
    "Infer.outputs": "array of OutputPlace",
    "Result.outputs": "array of OutputTensor",
    "Batch.items": "array of Placement",
}
"""What is in the fields that the broker keeps encoded; on the wire they are arrays like any other."""

UNITS = {"_s": "seconds", "_bytes": "bytes"}


PROTOCOL = (from_client, to_client, to_worker, from_worker)
"""The modules of the specification, in the order of the page."""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. A bar within a cell would end it."""
    lines = [columns, ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# --- the protocol ----------------------------------------------------------------------------------------------------------


def senders() -> str:
    """Every message with its sender, its receiver and what it says."""
    rows = []
    for heading, kinds in _groups():
        sender, receiver = SENDERS[heading]
        rows += [(_tag(kind), sender, receiver, _first_sentence(kind)) for kind in kinds if _is_message(kind)]
    rows.append(
        ('`"hello"`', "worker", "broker", "As from a client, with the role `worker`: a worker that was started by hand.")
    )
    return table(("`type`", "sender", "receiver", "says"), rows)


def messages() -> str:
    """Every message and record with its fields, in the order of ipc/messages/."""
    parts = []
    comments = _comments()
    for heading, kinds in _groups():
        parts.append(f"### {heading[0].upper()}{heading[1:]}\n")
        for kind in kinds:
            form = _tag(kind) if _is_message(kind) else "an array" if kind.__struct_config__.array_like else "a map"
            parts.append(f"**{kind.__name__}** ({form}). {' '.join(inspect.cleandoc(kind.__doc__ or '').split())}\n")
            parts.append(_fields_of(kind, comments))
    return "\n".join(parts)


def _groups() -> Iterator[tuple[str, list[Any]]]:
    """(heading, classes) for each module of ipc/messages/: its docstring up to a bracket or the full stop, what it defines."""
    for module in PROTOCOL:
        heading = re.split(r" \(|\.", (module.__doc__ or "").lower())[0]
        yield heading, [getattr(module, name) for name in re.findall(r"^class (\w+)", inspect.getsource(module), re.MULTILINE)]


def _is_message(kind: Any) -> bool:
    return issubclass(kind, protocol.Message)


def _tag(kind: Any) -> str:
    return f'`"{kind.__struct_config__.tag}"`'


def _first_sentence(kind: Any) -> str:
    return re.split(r"(?<=\.)\s", inspect.cleandoc(kind.__doc__ or ""), maxsplit=1)[0].replace("\n", " ")


def _comments() -> dict[str, str]:
    """Class.field -> the comment behind it."""
    found = {}
    for module in PROTOCOL:
        source = inspect.getsource(module)
        lines = source.splitlines()
        for node in ast.parse(source).body:
            for field in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(node, ast.ClassDef):
                    found[f"{node.name}.{field.target.id}"] = lines[field.lineno - 1].partition("  # ")[2]
    return found


def _fields_of(kind: Any, comments: dict[str, str]) -> str:
    info = shapes.type_info(kind)
    assert isinstance(info, shapes.StructType)
    rows = []
    for field in info.fields:
        path = f"{kind.__name__}.{field.name}"
        rows.append((f"`{field.name}`", RAW_FIELDS.get(path) or _type(field.type), _default(field), comments[path]))
    return table(("field", "type", "default", ""), rows) if rows else "No fields.\n"


def _default(field: shapes.Field) -> str:
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{field.default_factory()}`"
    default = [] if isinstance(field.default, msgspec.Raw) else field.default
    return "nil" if default is None else f"`{msgspec.json.encode(default).decode()}`"


def _type(kind: Any) -> str:
    """A type in the words of MessagePack, with its bounds."""
    match kind:
        case shapes.Metadata():
            text = _type(kind.type)
        case shapes.IntType():
            bounds = [f">= {kind.ge}"] if kind.ge else []
            bounds += [f"<= {kind.le}"] if kind.le not in (None, 2**63 - 1) else []
            text = " ".join(["uint" if kind.ge == 0 else "int", *bounds])
        case shapes.StrType():
            text = "str" if kind.max_length is None else f"str, at most {kind.max_length} characters"
        case shapes.BytesType():
            text = "bin" if kind.max_length is None else f"bin, {kind.max_length} bytes"
        case shapes.LiteralType():
            text = " or ".join(f'`"{value}"`' for value in kind.values)
        case shapes.ListType():
            text = f"array of {_type(kind.item_type)}" + ("" if kind.max_length is None else f", at most {kind.max_length}")
        case shapes.DictType():
            text = f"map of {_type(kind.key_type)} to {_type(kind.value_type)}"
        case shapes.UnionType():
            text = " or ".join(_type(option) for option in kind.types)
        case shapes.StructType():
            text = kind.cls.__name__
        case _:
            text = _SIMPLE[type(kind)]
    return text


_SIMPLE = {
    shapes.AnyType: "any",
    shapes.BoolType: "bool",
    shapes.FloatType: "float",
    shapes.NoneType: "nil",
}


def frame() -> str:
    """One frame of two messages, byte by byte."""
    first = [("type", "register"), ("id", 1), ("name", "mine"), ("kind", "system"), ("byte_size", 32), ("key", "/seg")]
    tensor = {"datatype": "FP32", "shape": [1, 4], "region": "mine", "byte_size": 16, "name": "INPUT0"}
    place = {"name": "OUTPUT0", "region": "mine", "offset": 16, "byte_size": 16}
    second = [("type", "infer"), ("id", 2), ("model", "identity_fp32"), ("inputs", [tensor]), ("outputs", [place])]
    lines = [(b"\x92", "an array of 2 messages")]
    for fields_ in (first, second):
        lines.append((bytes([0x80 | len(fields_)]), f"a map of {len(fields_)} fields"))
        for key, value in fields_:
            lines += [(encode(key), f'"{key}"'), (encode(value), msgspec.json.encode(value).decode())]
    size = sum(len(piece) for piece, _ in lines)
    lines.insert(0, (size.to_bytes(4, "little"), f"local link only: {size} bytes follow"))
    return "```\n" + "".join(f"{line}\n" for piece, says in lines for line in _hex_lines(piece, says)) + "```\n"


def _hex_lines(piece: bytes, says: str, width: int = 16) -> Iterator[str]:
    for start in range(0, len(piece), width):
        digits = piece[start : start + width].hex(" ")
        yield f"{digits:<{3 * width}} {says}".rstrip() if start == 0 else digits


# --- the repository and the command line -----------------------------------------------------------------------------------


def fields() -> str:
    """Every key of config.pbtxt."""
    return table(("key", "status", ""), [(f"`{path}`", status, note) for path, status, note in supported_fields()])


def _settings() -> Iterator[tuple[str, click.Option, str, str]]:
    """(key, option, default as TOML, unit) for `serve` and `broker`, which have the same options."""
    command = _command("serve")
    for key, option in keys_of(command).items():
        default = [] if option.multiple else option.default is True if option.is_flag else option.default
        unit = next((unit for suffix, unit in UNITS.items() if key.endswith(suffix)), "")
        if isinstance(option.type, click.Choice):
            unit = "one of " + ", ".join(option.type.choices)
        yield key, option, msgspec.json.encode(default).decode(), unit or wanted(option)


def settings() -> str:
    """Every option of `serve` and `broker`."""
    rows = []
    for key, option, default, unit in _settings():
        variable = option.envvar or f"PENSTOCK_{key.upper()}"
        rows.append((f"`{key}`", f"`--{key.replace('_', '-')}`", f"`{variable}`", f"`{default}`", unit, _effect(option)))
    return table(("key of the file", "flag", "environment", "default", "unit or value", "effect"), rows)


def settings_file() -> str:
    """conf/penstock.toml: all of it, with every default commented out."""
    head = (
        "# Settings of `penstock serve` and `penstock broker`: --config FILE. Every key there is, with its default; to change\n"
        "# one, remove its leading #. A flag or an environment variable comes first. Made by docs/generate.py.\n"
    )
    parts = [head]
    for key, option, default, unit in _settings():
        comment = textwrap.fill(f"{_effect(option)} ({unit})", 120, initial_indent="# ", subsequent_indent="# ")
        parts.append(f"{comment}\n# {key} = {default}\n")
    return "\n".join(parts)


def _effect(option: click.Option) -> str:
    shown = f" Default: {option.show_default}." if isinstance(option.show_default, str) else ""
    return f"{option.help}{shown}"


def commands() -> str:
    """Every command and its exit codes."""
    rows = []
    for name, command in _commands():
        codes = re.findall(r"^  (\d+)  (.+)$", command.epilog or "", re.MULTILINE)
        rows.append((f"`penstock {name}`", command.short_help or "", "; ".join(f"**{code}** {text}" for code, text in codes)))
    return table(("command", "", "exit codes"), rows)


def _commands() -> Iterator[tuple[str, click.Command]]:
    for name in COMMANDS:
        command = _command(name)
        yield name, command
        for inner, found in command.commands.items() if isinstance(command, click.Group) else ():
            yield f"{name} {inner}", found


def _command(name: str) -> click.Command:
    assert isinstance(main, click.Group)
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command


def triton_flags() -> str:
    """Every flag of tritonserver, and what becomes of it."""
    parts = []
    for title, flags in GROUPS.items():
        rows = []
        for flag in flags:
            value = f"=<{flag.kind.value}>" if flag.kind is not Kind.NONE else ""
            default = f" Default: `{flag.default}`." if flag.default else ""
            harmless = f" Not refused: {', '.join(f'`{value}`' for value in flag.harmless)}." if flag.harmless else ""
            text = flag.text if flag.becomes is Becomes.SETTING else f"{flag.text}."
            rows.append((f"`--{flag.name}{value}`", flag.becomes.value, f"{text}{default}{harmless}"))
        parts.append(f"**{title}**\n\n{table(('flag', '', ''), rows)}")
    return "\n".join(parts)


# --- states ----------------------------------------------------------------------------------------------------------------


def states() -> str:
    """Every state and every transition."""
    named: list[tuple[str, ModuleType, dict[Any, Any]]] = [
        ("request", requests, {state: requests.TRANSITIONS[state] for state in requests.RequestState}),
        ("model version", models, models.TRANSITIONS),
        ("instance", instances, instances.TRANSITIONS),
        ("gateway", gateways, gateways.TRANSITIONS),
        ("load or unload", loading, loading.TRANSITIONS),
        ("load's origin", origins, origins.TRANSITIONS),
        ("worker process", loop, loop.TRANSITIONS),
        ("load with agents", agent_runs, agent_runs.TRANSITIONS),
    ]
    rows = []
    for what, module, transitions in named:
        file = module.__name__.removeprefix("penstock.").replace(".", "/") + ".py"
        moves = "; ".join(f"{state.name} to {_names(transitions, after)}" for state, after in transitions.items() if after)
        rows.append((what, moves, f"`{file}`"))
    return table(("of a", "states and what they may become", "table in"), rows)


def _names(order: dict[Any, Any], states_: Any) -> str:
    found: list[Enum] = [state for state in order if state in states_]
    return " or ".join(state.name for state in found)
