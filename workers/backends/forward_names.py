# SPDX-License-Identifier: Apache-2.0
"""Which argument of `forward`, and which of the things it returns, a tensor of the configuration is. Pure.

Triton's PyTorch backend knows three conventions (README, "Naming Conventions"); all tensors of a side follow the same one:
names of the model's own (arguments of forward; keys of a dictionary), NAME__INDEX, and, for any other names, the order in which
the configuration has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ...ipc.errors import PenstockError, invalid

_INDEXED = re.compile(r".*__(\d+)")


class Argument(NamedTuple):
    """An argument of forward, or an entry of the one dictionary that it takes."""

    name: str
    is_optional: bool = False  # it may be left out, or be None


def input_positions(model: str, configured: Sequence[str], arguments: Sequence[Argument]) -> list[int]:
    """For each configured input the position of its argument. Raises INVALID_ARG where they do not match."""
    known = [argument.name for argument in arguments]
    found = _positions(model, "input", configured, known)
    for position, argument in enumerate(arguments):
        if position not in found and not argument.is_optional:
            raise invalid(
                f"model '{model}': argument '{argument.name}' of forward has no input in the configuration, which has "
                f"{', '.join(configured)}; forward takes {', '.join(known)}"
            )
    return found


def output_positions(model: str, configured: Sequence[str], given: Sequence[str]) -> list[int]:
    """For each configured output the position of what forward returned for it; `given` are names, "" where there is none.

    Raises INVALID_ARG where they do not match.
    """
    return _positions(model, "output", configured, given)


def flattened(returned: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What forward returned, one by one: tuples and lists in their order, dictionaries and named tuples with names."""
    if isinstance(returned, Mapping):
        for key, value in returned.items():
            yield from flattened(value, str(key))
    elif isinstance(returned, tuple | list):
        fields = getattr(returned, "_fields", None)
        for position, value in enumerate(returned):
            yield from flattened(value, name if fields is None else fields[position])
    else:
        yield name, returned


def _positions(model: str, side: str, configured: Sequence[str], known: Sequence[str]) -> list[int]:
    if len(set(known)) == len(known) and set(configured) <= set(known):
        return [known.index(name) for name in configured]
    indexed = [_INDEXED.fullmatch(name) for name in configured]
    if all(indexed):
        return _by_index(model, side, configured, [int(match[1]) for match in indexed if match], len(known))
    if len(configured) != len(known):
        raise _mismatch(model, side, configured, known)
    return list(range(len(known)))


def _by_index(model: str, side: str, configured: Sequence[str], indices: list[int], count: int) -> list[int]:
    for at, (name, index) in enumerate(zip(configured, indices, strict=True)):
        if index >= count:
            raise invalid(f"model '{model}': {side} '{name}' asks for number {index}, the model has {count}, from 0")
        if index in indices[:at]:
            raise invalid(f"model '{model}': {side}s '{configured[indices.index(index)]}' and '{name}' have the same index")
    return indices


def _mismatch(model: str, side: str, configured: Sequence[str], known: Sequence[str]) -> PenstockError:
    names = f": {', '.join(known)}" if all(known) and known else ""
    return invalid(
        f"model '{model}': the configuration has {len(configured)} {side}s ({', '.join(configured)}), the model has "
        f"{len(known)}{names}; name them so, or NAME__0, NAME__1, ..."
    )
