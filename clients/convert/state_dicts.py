# SPDX-License-Identifier: Apache-2.0
"""Finding a module's weights in what a checkpoint holds, under the names that programs for training give them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...ipc.errors import PenstockError, invalid

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Where the state dict lies beside an optimizer's, in this order."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""Of all keys: of a DataParallel, of torch.compile, of a LightningModule."""
COUNTER = "num_batches_tracked"
"""Of a BatchNorm, which uses it in training only; torch before 0.4.1 had none."""


def weights_in(path: object, held: Any) -> Mapping[str, Any]:
    """The state dict: all that the checkpoint holds, or what lies there under a usual name, or the only one that does.

    Raises CallerError that says what there is.
    """
    if not isinstance(held, Mapping):
        raise invalid(f"checkpoint {path} holds a {type(held).__name__}, not a state dict")
    for name in WRAPPERS:
        if isinstance(held.get(name), Mapping):
            return weights_in(path, held[name])
    if _are_weights(held):
        return held
    within = {str(name): value for name, value in held.items() if isinstance(value, Mapping) and _are_weights(value)}
    if len(within) == 1:
        return next(iter(within.values()))
    if within:
        raise _which(path, list(within))
    raise invalid(f"checkpoint {path} holds no weights; its keys are {_listed(map(str, held)) or 'none'}")


def fitted(path: object, state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The weights under the module's own keys, all of them. Raises CallerError that names the keys that do not fit."""
    found = dict(state)
    while not found.keys() & own.keys():
        prefix = next((each for each in PREFIXES if all(key.startswith(each) for key in found)), None)
        if prefix is None or not found:
            break
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    counters = {key: value for key, value in own.items() if key not in found and key.rpartition(".")[2] == COUNTER}
    if found.keys() & own.keys():
        found = {**counters, **found}
    missing, unexpected = own.keys() - found.keys(), found.keys() - own.keys()
    shapes = [key for key in own if key in found and _shape(own[key]) != _shape(found[key])]
    wrong = [f"missing: {_listed(missing)}"] if missing else []
    wrong += [f"unexpected: {_listed(unexpected)}"] if unexpected else []
    wrong += [f"of another shape: {_listed(shapes)}"] if shapes else []
    if wrong:
        raise invalid(f"checkpoint {path} does not fit the module: {'; '.join(wrong)}")
    return found


def _are_weights(held: Mapping[Any, Any]) -> bool:
    """By name, and some of them tensors; a state dict may hold more beside them."""
    return all(isinstance(key, str) for key in held) and any(hasattr(value, "shape") for value in held.values())


def _which(path: object, names: list[str]) -> PenstockError:
    return invalid(
        f"checkpoint {path} holds {len(names)} state dicts ({', '.join(names)}), and none under a name that says which to take "
        f"({', '.join(WRAPPERS)}): let the function take `checkpoint` and load it itself"
    )


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _listed(keys: Iterable[str]) -> str:
    """The first few."""
    names = sorted(keys)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
