# SPDX-License-Identifier: Apache-2.0
"""The function that builds a torch module: finding it by `module:function`, and calling it with what it takes.

Two kinds are known. `function(config, checkpoint)`: config is what the JSON file holds, or None; either may be left out. And
the one of NVIDIA's DeepLearningExamples, `get_model(**model_args)`, which gets paths as they were typed, and options of its own
through its module's `update_argparser(parser)`. Both return the module, or (module, example inputs), or (module, names).
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from msgspec import Struct

from ...ipc.errors import CallerError, Code, invalid, not_found

FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Call(Struct, frozen=True):
    """What the function is to be called with."""

    function: str  # module:function
    config: Path | None = None
    checkpoint: Path | None = None
    words: Sequence[str] = ()  # the function's own options, from behind --


class Built(NamedTuple):
    """What the function returned, taken apart."""

    module: Any
    examples: Any = None  # a tensor, a sequence of them, or name -> tensor
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    is_checkpoint_taken: bool = False  # the function had it; else it is loaded into the module afterwards


def build(call: Call) -> Built:
    """Imports and calls. Raises CallerError naming the module, the function, or what either raised."""
    module, function = _find(call.function)
    arguments, takes_checkpoint = _arguments(module, function, call)
    try:
        returned = function(**arguments)
    except (Exception, SystemExit) as error:
        raise _raised(call.function, error) from error
    return _taken_apart(call.function, returned, takes_checkpoint)


def _find(text: str) -> tuple[ModuleType, Callable[..., Any]]:
    name, _, attribute = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = f"it is looked for in {here} and on PYTHONPATH" if error.name and name.startswith(error.name) else "install it"
        raise not_found(f"module {name!r} cannot be imported: there is no module {error.name!r}; {hint}") from error
    except (Exception, SystemExit) as error:
        raise CallerError(f"module {name!r} cannot be imported: {_said(error)}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        known = sorted(key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == name)
        raise not_found(f"module {name!r} has no function {attribute!r}; it has {', '.join(known) or 'none'}")
    return module, function


def _arguments(module: ModuleType, function: Callable[..., Any], call: Call) -> tuple[dict[str, Any], bool]:
    """What the function is called with, and whether the checkpoint is among it."""
    parameters = inspect.signature(function).parameters.values()
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    checkpoint = None if call.checkpoint is None else str(call.checkpoint)
    if takes_any and hasattr(module, "update_argparser"):
        found = _parsed(module.update_argparser, call, checkpoint)
    else:
        config = str(call.config) if takes_any and call.config else _read_config(call.config)
        found = {"config": config, "checkpoint": checkpoint, "precision": "fp32", **_pairs(call.words)}
    if not takes_any:
        taken = {parameter.name for parameter in parameters}
        unknown = sorted(set(_pairs(call.words)) - taken)
        unused = [name for name in ("config",) if getattr(call, name) is not None and name not in taken]
        if unknown or unused:
            raise invalid(f"{call.function} takes {sorted(taken)}, not {unknown + unused}")
        found = {name: value for name, value in found.items() if name in taken}
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name not in found
    ]
    if missing:
        raise invalid(f"{call.function} needs {missing}: say -- --{missing[0]} VALUE after everything else")
    return found, "checkpoint" in found


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise invalid(f"the function's own options, after --: {message}; {self.format_usage().strip()}")


def _parsed(update: Callable[[argparse.ArgumentParser], Any], call: Call, checkpoint: str | None) -> dict[str, Any]:
    """The options that the module declares for its function, from ours and from what was given after --."""
    parser = _Parser(prog=call.function, add_help=False, allow_abbrev=False)
    update(parser)
    given = {"--config": call.config, "--checkpoint": checkpoint, "--precision": "fp32"}
    ours = [word for option, value in given.items() if value is not None for word in (option, str(value))]
    found, left = parser.parse_known_args([*ours, *call.words])
    for word in ours:  # which it need not know; what was typed for it, it must
        if word in left:
            left.remove(word)
    if left:
        parser.error(f"unknown: {' '.join(left)}")
    return vars(found)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """`--name value` pairs. Raises CallerError for anything else."""
    found = {}
    for option, value in zip(words[::2], [*words[1::2], None], strict=False):
        if not option.startswith("--") or value is None:
            raise invalid(f"after -- come the function's own arguments as --NAME VALUE pairs, got {option!r}")
        found[option.removeprefix("--").replace("-", "_")] = value
    return found


def _read_config(path: Path | None) -> Any:
    """JSON; YAML where PyYAML is installed."""
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".yaml", ".yml"):
            return _yaml(path, text)
        return json.loads(text)
    except (OSError, ValueError) as error:
        raise invalid(f"{path}: {error}") from error


def _yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise CallerError(f"{path}: YAML needs PyYAML (pip install pyyaml); JSON needs nothing", Code.UNSUPPORTED) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise invalid(f"{path}: {error}") from error


def _taken_apart(function: str, returned: Any, takes_checkpoint: bool) -> Built:
    """The module, and what came with it."""
    if not isinstance(returned, tuple):
        return Built(returned, is_checkpoint_taken=takes_checkpoint)
    if len(returned) != 2:
        raise invalid(f"{function} returned {len(returned)} values; expected are module or (module, example inputs)")
    module, more = returned
    if isinstance(more, dict) and set(more) <= {"inputs", "outputs"} and all(map(_are_names, more.values())):
        return Built(module, None, tuple(more.get("inputs", ())), tuple(more.get("outputs", ())), takes_checkpoint)
    return Built(module, more, is_checkpoint_taken=takes_checkpoint)


def _are_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


def _raised(function: str, error: BaseException) -> CallerError:
    """An error of somebody else's function: its last line of text, and where it came from."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return CallerError(f"{function} raised {_said(error)} ({place})")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
